"""NIfTI files (nibabel): pixels and where they lie, and masks on the grid of the image that they belong to."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from reward_data.errors import DataError
from reward_data.native import NativeImage, decoding, swap_axes
from reward_data.types import Float64

_TO_MM = {"meter": 1000.0, "micron": 1e-3}
_TO_MS = {"sec": 1000.0, "msec": 1.0, "usec": 1e-3}
_COLOURS = (("R", "G", "B"), ("R", "G", "B", "A"))


def load(path: Path) -> Any:
    """Open a file; pixels are not read yet. Raises: DataError for a missing or broken file."""
    with decoding(path):
        return nib.load(path)


def read(path: Path) -> NativeImage:
    """Read a file of 2 to 4 axes, (x, y[, z[, t]]), grey or RGB.

    Raises: DataError for a missing, truncated or broken file, and for other axes or types.
    """
    image = load(path)
    with decoding(path):
        values = np.asarray(image.dataobj)
        zooms = [float(size) for size in image.header.get_zooms()]
        length, time = image.header.get_xyzt_units()
    while values.ndim > 4 and values.shape[-1] == 1:
        values = values[..., 0]
    channels = _channels(values, path)
    factor = _TO_MM.get(length, 1.0)
    space = [factor * size for size in zooms[: min(values.ndim, 3)]]
    affine = swap_axes(image.affine)
    affine[:3] *= factor
    frame_ms = zooms[3] * _TO_MS[time] if values.ndim == 4 and time in _TO_MS else None
    spacing = (space[1], space[0], *space[2:], *[1.0] * (values.ndim - 3))
    return NativeImage(channels.swapaxes(1, 2), spacing, affine, True, frame_ms or None)


def _channels(values: npt.NDArray[Any], path: Path) -> npt.NDArray[Any]:
    """Shape: (x, y[, z[, t]]), numbers or RGB records -> (C, x, y[, z[, t]])."""
    colour = values.dtype.names in _COLOURS
    if not 2 <= values.ndim <= 4 or not (colour or values.dtype.kind in "buif"):
        raise DataError(
            f"{path}: array of shape {values.shape} and type {values.dtype}, wanted real numbers in 2-D (x, y), 3-D "
            "(x, y, z) or 4-D (x, y, z, t); split other axes into channel files (_0000, _0001, ...)"
        )
    return np.stack([values[name] for name in "RGB"]) if colour else values[None]


def write(path: Path, values: npt.NDArray[Any], spacing_mm: tuple[float, ...], affine: Float64) -> None:
    """Write upright values. Shape: (*S). ``affine`` of (row, column, depth)."""
    image = nib.Nifti1Image(values.swapaxes(0, 1), swap_axes(affine))
    sizes = [spacing_mm[1], spacing_mm[0], *spacing_mm[2:]]
    if np.allclose(image.header.get_zooms(), sizes, rtol=1e-4):
        image.header.set_zooms(sizes)
    image.header.set_xyzt_units("mm")
    _save(image, path)


def write_like(path: Path, values: npt.NDArray[Any], like: Path) -> None:
    """Write upright values on the grid of ``like``: its shape, affine, codes of qform and sform, pixel sizes and units.

    What says how to show or read the image is not taken over: display window, intent, scale factors, extensions.
    Shape: that of ``like`` upright, or with some axes of length 1 left out.

    Raises: DataError when the shape does not fit.
    """
    reference = load(like)
    stored = values.swapaxes(0, 1)
    if _essential(stored.shape) != _essential(reference.shape):
        raise DataError(
            f"{like}: shape {reference.shape} does not match the mask's (x, y[, z]) {stored.shape}; "
            "give the image that the mask was predicted from"
        )
    header = reference.header.copy()
    header.set_data_dtype(values.dtype)
    header.set_intent("none")
    header["cal_max"] = header["cal_min"] = 0
    header.extensions.clear()
    # without an affine of its own the image keeps that of the header, codes included
    _save(reference.__class__(stored.reshape(reference.shape), None, header), path)


def _save(image: Any, path: Path) -> None:
    """Compressed in one piece: nibabel hands over a row at a time, which takes longer than compressing."""
    if path.name.lower().endswith(".gz"):
        path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))
    else:
        nib.save(image, path)


def _essential(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:2], *(size for size in shape[2:] if size != 1))
