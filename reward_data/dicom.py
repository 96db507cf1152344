"""DICOM files (pydicom, an optional extra): one image or many frames, grey, colour or palette.

Pixel size: PixelSpacing (also of enhanced multi-frame files), else the largest 2-D region of ultrasound that is
measured in cm. Regions that reach beyond the image were measured on another raster (a file that was shrunk later keeps
them), so they say nothing here. JPEG and JPEG 2000 are decoded by Pillow; JPEG lossless and JPEG-LS need one of the
decoders that pydicom knows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reward_data.colour import luminance
from reward_data.errors import DataError
from reward_data.native import (
    NativeImage,
    decoding,
    optional_package,
    picture_affine,
    usable_sizes,
)
from reward_data.types import Float64

_MAGIC_AT, _MAGIC = 128, b"DICM"
_ULTRASOUND = ("US", "IVUS")
_SPATIAL_2D, _CENTIMETRES = 1, 3  # codes of RegionSpatialFormat and PhysicalUnits (DICOM PS3.3 C.8.5.5)


def is_dicom(path: Path) -> bool:
    """Whether a file of any name says that it is DICOM: "DICM" behind the first 128 bytes."""
    try:
        with path.open("rb") as file:
            file.seek(_MAGIC_AT)
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def read(path: Path) -> NativeImage:
    """Read an image (row, column) or frames (row, column, frame).

    Ultrasound is always grey, C = 1: the luminance of colour files, whose colour is overlays, palettes of grey, or the
    chroma of a lossy codec. Other colour files have C = 3. MONOCHROME1 is turned round, so that more is brighter.

    Raises: DataError for a missing, truncated or broken file, one without pixels, and where pydicom is missing.
    """
    pydicom = optional_package("pydicom", "dicom", "reading DICOM files")
    with decoding(path):
        dataset = pydicom.dcmread(path)
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise DataError(
            f"{path}: a DICOM file of type {_type(dataset)} without pixels, wanted an image; leave it out or copy it "
            "again"
        )
    values = _pixels(dataset, path)
    with decoding(path):
        spacing = _spacing_mm(dataset)
        affine = _affine(dataset, spacing or (1.0, 1.0))
        frame_ms = float(dataset.get("FrameTime") or 0) or None
    sizes = (spacing or (1.0, 1.0)) + (float(np.linalg.norm(affine[:3, 2])),) * (values.ndim - 3)
    return NativeImage(values, sizes, affine, spacing is not None, frame_ms)


def _type(dataset: Any) -> str:
    identifier = dataset.get("SOPClassUID")
    return str(getattr(identifier, "name", identifier))


def _pixels(dataset: Any, path: Path) -> npt.NDArray[Any]:
    """Decoded pixels. Shape: (C, row, column[, frame])."""
    processing = optional_package("pydicom.pixels", "dicom", "reading DICOM files")
    with decoding(path):
        if dataset.file_meta.TransferSyntaxUID.is_compressed:
            _check_decoder(processing, dataset.file_meta.TransferSyntaxUID, path)
        stored = processing.pixel_array(dataset)  # YBR is RGB now
        colour = dataset.get("SamplesPerPixel", 1) > 1
        photometric = str(dataset.get("PhotometricInterpretation", ""))
        if photometric == "PALETTE COLOR":
            stored, colour = _high_byte(processing.apply_color_lut(stored, dataset)), True
        elif not colour:
            stored = _brightness(stored, dataset, processing, photometric)
    if colour:
        ultrasound = dataset.get("Modality") in _ULTRASOUND
        channels = luminance(np.moveaxis(stored, -1, 0)) if ultrasound else np.moveaxis(stored, -1, 0)
    else:
        channels = stored[None]
    return np.moveaxis(channels, 1, -1) if channels.ndim == 4 else channels  # frames behind (row, column)


def _check_decoder(processing: Any, syntax: Any, path: Path) -> None:
    decoder = processing.get_decoder(syntax)
    if not decoder.is_available:
        raise DataError(
            f"{path}: is compressed as {syntax.name}, which needs one of: {'; '.join(decoder.missing_dependencies)}; "
            "install one, or convert the file"
        )


def _high_byte(colours: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Palettes of 16 bits repeat the 8 bits of a display, or leave the lower ones 0."""
    return colours >> 8 if colours.dtype == np.uint16 else colours


def _brightness(
    stored: npt.NDArray[Any], dataset: Any, processing: Any, photometric: str
) -> npt.NDArray[Any]:
    if photometric == "MONOCHROME1" and stored.dtype.kind in "ui":
        top = 2 ** int(dataset.BitsStored) - 1
        stored = (top if stored.dtype.kind == "u" else -1) - stored
    return processing.apply_modality_lut(stored, dataset)  # type: ignore[no-any-return]


def _spacing_mm(dataset: Any) -> tuple[float, float] | None:
    """Pixel size (row, column), or None where the file does not know it."""
    given = dataset.get("PixelSpacing") or _shared(dataset, "PixelMeasuresSequence").get("PixelSpacing")
    spacing = (
        _region_mm(dataset) if given is None else tuple(np.atleast_1d(np.asarray(given, float)).tolist())
    )
    return (spacing[0], spacing[1]) if len(spacing) == 2 and usable_sizes(spacing) else None


def _region_mm(dataset: Any) -> tuple[float, ...]:
    """Pixel size (row, column) in the largest calibrated region; () where there is none."""
    measured = []
    for region in dataset.get("SequenceOfUltrasoundRegions", []):
        units = (region.get("PhysicalUnitsXDirection"), region.get("PhysicalUnitsYDirection"))
        right, bottom = region.get("RegionLocationMaxX1", 0), region.get("RegionLocationMaxY1", 0)
        inside = right <= dataset.Columns and bottom <= dataset.Rows
        if inside and region.get("RegionSpatialFormat") == _SPATIAL_2D and units == (_CENTIMETRES,) * 2:
            width = right - region.get("RegionLocationMinX0", 0)
            height = bottom - region.get("RegionLocationMinY0", 0)
            sizes = (10 * abs(float(region.PhysicalDeltaY)), 10 * abs(float(region.PhysicalDeltaX)))
            measured.append((width * height, sizes))
    return max(measured)[1] if measured else ()


def _shared(dataset: Any, name: str) -> Any:
    """A group of an enhanced file that holds for all frames, or that of its first frame; {} where it has none."""
    for place in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        groups = dataset.get(place)
        if groups and groups[0].get(name):
            return groups[0][name][0]
    return {}


def _affine(dataset: Any, spacing_mm: tuple[float, float]) -> Float64:
    """(row, column, frame) to world, RAS+; that of a picture where the file does not say where it lies. Shape: (4, 4).

    DICOM PS3.3 C.7.6.2.1.1, with world axes from LPS+ to RAS+. Frames are ``SpacingBetweenSlices`` apart, or 1.
    """
    position = dataset.get("ImagePositionPatient") or _shared(dataset, "PlanePositionSequence").get(
        "ImagePositionPatient"
    )
    orientation = dataset.get("ImageOrientationPatient") or _shared(dataset, "PlaneOrientationSequence").get(
        "ImageOrientationPatient"
    )
    between = dataset.get("SpacingBetweenSlices") or _shared(dataset, "PixelMeasuresSequence").get(
        "SpacingBetweenSlices"
    )
    step = float(between or 1) or 1.0
    if not position or not orientation:
        return picture_affine((*spacing_mm, step))
    along_row, along_column = np.array(orientation, np.float64).reshape(2, 3)
    affine = np.eye(4)
    affine[:3, 0] = along_column * spacing_mm[0]  # the row index grows down the column
    affine[:3, 1] = along_row * spacing_mm[1]
    affine[:3, 2] = np.cross(along_row, along_column) * step
    affine[:3, 3] = np.array(position, np.float64)
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
