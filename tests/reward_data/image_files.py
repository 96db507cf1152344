"""Image files as other programs write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def save_nifti(path: Path, values: Any, affine: Any) -> Path:
    """Write (x, y[, z[, t]]) values by nibabel."""
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


def save_meta(path: Path, upright: Any, spacing: Sequence[float], colour: bool = False) -> Path:
    """Write (row, column) or (slice, row, column) values by SimpleITK; spacing (x, y[, z])."""
    itk = pytest.importorskip(
        "SimpleITK", reason="MetaImage: the optional package SimpleITK is not installed"
    )
    image = itk.GetImageFromArray(upright, isVector=colour)
    image.SetSpacing([float(size) for size in spacing])
    itk.WriteImage(image, str(path))
    return path


def save_dicom(path: Path, pixels: Any, photometric: str = "MONOCHROME2", **tags: Any) -> Path:
    """Write ([frame,] row, column[, colour]) pixels by pydicom; ``tags`` by their DICOM names."""
    pydicom = pytest.importorskip("pydicom", reason="DICOM: the optional package pydicom is not installed")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage, generate_uid

    colours = 3 if photometric.startswith(("RGB", "YBR")) else 1
    shape = pixels.shape[: pixels.ndim - (colours == 3)]
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = UltrasoundMultiFrameImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[path.name])
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.Modality = "US"
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel = photometric, colours
    if colours == 3:
        dataset.PlanarConfiguration = 0
    if len(shape) == 3:
        dataset.NumberOfFrames = shape[0]
    dataset.Rows, dataset.Columns = shape[-2:]
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    content = np.ascontiguousarray(pixels).tobytes()
    dataset.PixelData = content + b"\0" * (len(content) % 2)
    dataset["PixelData"].VR = "OW" if pixels.dtype.itemsize == 2 else "OB"
    for name, value in tags.items():
        setattr(dataset, name, value)
    pydicom.dcmwrite(path, dataset)
    return path


def dicom_item(**tags: Any) -> Any:
    """One item of a DICOM sequence."""
    item = pytest.importorskip("pydicom").Dataset()
    for name, value in tags.items():
        setattr(item, name, value)
    return item
