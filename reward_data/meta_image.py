"""MetaImage files, .mhd with its .raw, or .mha (SimpleITK, an optional extra)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reward_data.errors import DataError
from reward_data.native import NativeImage, decoding, kept_axes, optional_package, swap_axes, unreadable
from reward_data.types import Float64

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def _itk() -> Any:
    return optional_package("SimpleITK", "mhd", "reading and writing .mhd and .mha files")


def read(path: Path) -> NativeImage:
    """Read a file of 2 to 4 axes, (x, y[, z[, t]]), one or more values per pixel.

    Raises: DataError for a missing, truncated or broken file, for other axes, and where SimpleITK is missing.
    """
    itk = _itk()
    _check_there(path)
    try:
        image = itk.ReadImage(str(path))
        stored = itk.GetArrayFromImage(image)
    except RuntimeError as error:  # its text is a page of ITK's places
        raise unreadable(path, "its header is damaged, or its pixels are missing or too few") from error
    axes = image.GetDimension()
    if not 2 <= axes <= 4 or stored.dtype.kind not in "buif":
        raise DataError(
            f"{path}: {axes} axes of type {stored.dtype}, wanted real numbers in 2-D (x, y), 3-D (x, y, z) or 4-D "
            "(x, y, z, t); split other axes into files"
        )
    channels = np.moveaxis(stored, -1, 0) if image.GetNumberOfComponentsPerPixel() > 1 else stored[None]
    along = channels.transpose(0, *range(axes, 0, -1))  # (C, [t,] [z,] y, x) -> (C, x, y[, z[, t]])
    x, y, *rest = image.GetSpacing()
    spacing = (y, x, *rest[:1], *[1.0] * (axes - 3))
    return NativeImage(along.swapaxes(1, 2), spacing, _affine(image, axes), spacing_known=True)


def _check_there(path: Path) -> None:
    """Raise the plain error for a file that is not there; ITK's is a page long."""
    with decoding(path), path.open("rb"):
        pass


def _affine(image: Any, axes: int) -> Float64:
    """(row, column, depth) to world, RAS+, from ITK's (x, y, z) to world, LPS+. Shape: (4, 4)."""
    space = min(axes, 3)
    directions = np.array(image.GetDirection()).reshape(axes, axes)[:space, :space]
    affine = np.eye(4)
    affine[:space, :space] = directions * np.array(image.GetSpacing()[:space])
    affine[:space, 3] = image.GetOrigin()[:space]
    return swap_axes(_LPS_TO_RAS @ affine)


def write_like(path: Path, values: npt.NDArray[Any], like: Path) -> None:
    """Write upright values on the grid of ``like``: its shape, spacing, origin and directions.

    Shape: that of ``like`` upright, or with some axes of length 1 left out.

    Raises: DataError when the shape does not fit; OSError when the file cannot be written.
    """
    itk = _itk()
    reader = itk.ImageFileReader()
    reader.SetFileName(str(like))
    with decoding(like):
        reader.ReadImageInformation()
    size = reader.GetSize()
    stored = values.swapaxes(0, 1)
    if [stored.shape[axis] for axis in kept_axes(stored.shape)] != [size[axis] for axis in kept_axes(size)]:
        raise DataError(
            f"{like}: shape {size} does not match the mask's (x, y[, z]) {stored.shape}; give the image that the mask "
            "was predicted from"
        )
    image = itk.GetImageFromArray(np.ascontiguousarray(stored.reshape(size).T), isVector=False)
    image.SetSpacing(reader.GetSpacing())
    image.SetOrigin(reader.GetOrigin())
    image.SetDirection(reader.GetDirection())
    try:
        itk.WriteImage(image, str(path), useCompression=True)
    except RuntimeError as error:
        raise OSError(" ".join(str(error).split())) from error
