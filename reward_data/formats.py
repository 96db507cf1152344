"""One image file -> upright arrays, and masks back to files.

    .nii .nii.gz       reward_data.nifti
    .png .jpg .jpeg    reward_data.pictures
    .mhd .mha          reward_data.meta_image, optional extra "mhd"
    .dcm .dicom, or none, with "DICM" at byte 128    reward_data.dicom, optional extra "dicom"

What upright means is told in `reward_data.native`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from reward_data import dicom, meta_image, nifti, pictures
from reward_data.atomic import atomic_file
from reward_data.errors import DataError
from reward_data.native import (
    DICOM_ENDINGS,
    ENDINGS,
    META_ENDINGS,
    NIFTI_ENDINGS,
    PICTURE_ENDINGS,
    NativeImage,
    decoding,
    ending,
    picture_affine,
    stem,
    unreadable,
)
from reward_data.types import Float32, Float64, Mask

__all__ = [
    "ENDINGS",
    "NIFTI_ENDINGS",
    "Picture",
    "ending",
    "format_of",
    "picture_affine",
    "read_image",
    "read_labels",
    "read_native",
    "stem",
    "write_mask",
]

Format = Literal["nifti", "picture", "meta_image", "dicom"]

_FORMATS: dict[str, Format] = {
    **dict.fromkeys(NIFTI_ENDINGS, "nifti"),
    **dict.fromkeys(PICTURE_ENDINGS, "picture"),
    **dict.fromkeys(META_ENDINGS, "meta_image"),
    **dict.fromkeys(DICOM_ENDINGS, "dicom"),
}
_READERS = {
    "nifti": nifti.read,
    "picture": pictures.read,
    "meta_image": meta_image.read,
    "dicom": dicom.read,
}


@dataclass(frozen=True)
class Picture:
    """What one image file holds. ``values`` Shape: (C, *S); ``affine`` Shape: (4, 4), (row, column, depth) to world."""

    values: Float32
    spacing_mm: tuple[float, ...]
    affine: Float64
    spacing_known: bool


def format_of(path: Path) -> Format | None:
    """The format of a file by its ending, of a file with another ending or none by its first bytes; None: no image."""
    known = ending(path)
    if known is not None:
        return _FORMATS[known]
    return "dicom" if dicom.is_dicom(path) else None


def read_native(path: Path) -> NativeImage:
    """Read a file with all its axes, type as stored.

    Raises: DataError for a missing, unreadable or truncated file, no pixels, NaN or inf, a missing optional package.
    """
    kind = format_of(path)
    if kind is None:
        with decoding(path), path.open("rb"):
            raise unreadable(path, "no known image format")
    native = _READERS[kind](path)
    if not native.values.size:
        raise DataError(
            f"{path}: an image of shape {native.values.shape[1:]} without pixels; leave it out or export it again"
        )
    if native.values.dtype.kind == "f":
        _check_finite(native.values, path)
    return native


def _check_finite(values: npt.NDArray[Any], path: Path) -> None:
    """Refuse what float32 cannot hold."""
    finite = np.abs(values) <= np.finfo(np.float32).max  # NaN is not
    if not finite.all():
        raise DataError(
            f"{path}: {np.count_nonzero(~finite)} of {finite.size} intensities are NaN or infinite, wanted finite "
            "numbers; repair the file or leave the case out"
        )


def read_image(path: Path) -> Picture:
    """Read one file as a picture or a volume; axes of length 1 behind the second are dropped.

    Grey files have C = 1, colour pictures C = 3 (alpha dropped). Pictures have no known spacing (1 px).

    Raises: DataError as ``read_native``, and for axes that are not 2-D or 3-D.
    """
    native = read_native(path)
    kept = native.kept_axes
    if len(kept) > 3:
        raise DataError(
            f"{path}: shape {native.values.shape[1:]} (row, column, depth, time), wanted real numbers in 2-D or 3-D; "
            "split the frames into files"
        )
    values = _squeezed(native)
    upright = np.ascontiguousarray(values, dtype=np.float32)
    spacing = tuple(native.spacing_mm[axis] for axis in kept)
    return Picture(upright, spacing, native.affine, native.spacing_known)


def read_labels(path: Path) -> npt.NDArray[Any]:
    """Read one label file, native label values. Shape: (*S). Palette pictures give their indices.

    Raises: DataError as ``read_image``, for colour, and for JPEG and DICOM, which do not keep label values.
    """
    kind = format_of(path)
    if kind == "picture":
        return pictures.read_labels(path)
    if kind == "dicom":
        raise DataError(f"{path}: labels in DICOM are not read; give labels as NIfTI, MHA or PNG")
    values = _squeezed(read_native(path))
    if len(values) != 1:
        raise DataError(
            f"{path}: labels with {len(values)} values per pixel, wanted one; save the class values"
        )
    labels: npt.NDArray[Any] = values[0]
    return labels


def _squeezed(native: NativeImage) -> npt.NDArray[Any]:
    """Shape: (C, *N) -> (C, *S), axes of length 1 behind the second dropped."""
    shape = native.values.shape
    return native.values.reshape(shape[0], *(shape[1 + axis] for axis in native.kept_axes))


def write_mask(path: Path, mask: Mask, like: Path | None = None) -> None:
    """Write a mask as NIfTI (shape, spacing and affine kept) or PNG, whole or not at all.

    ``like``: the NIfTI file that the mask belongs to; its header and its axes (such as a depth of 1) are then kept too.
    """
    with atomic_file(path) as temporary:
        if ending(path) in NIFTI_ENDINGS and like is not None:
            nifti.write_like(temporary, mask.labels, like)
        elif ending(path) in NIFTI_ENDINGS:
            nifti.write(temporary, mask.labels, mask.spacing_mm, mask.affine)
        elif ending(path) == ".png" and mask.labels.ndim == 2:
            pictures.write(temporary, mask.labels)
        else:
            raise DataError(
                f"{path}: cannot write a {mask.labels.ndim}-D mask to this ending; use .nii.gz, or .png for 2-D"
            )
