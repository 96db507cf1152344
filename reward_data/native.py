"""What an image file holds, whatever its format, and the names by which formats are known.

Every array is upright, as a picture viewer shows it: the first axis is the image row, the second the column. Files
that store (x, y[, z[, t]]) are transposed to (row = y, column = x[, depth = z[, time = t]]) on reading and back on
writing; the columns of the affine go with them, so that it maps (row, column, depth) to world.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reward_data.errors import DataError
from reward_data.types import Float64

NIFTI_ENDINGS = (".nii.gz", ".nii")
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg")
META_ENDINGS = (".mhd", ".mha")
DICOM_ENDINGS = (".dcm", ".dicom")
ENDINGS = NIFTI_ENDINGS + PICTURE_ENDINGS + META_ENDINGS + DICOM_ENDINGS


@dataclass(frozen=True)
class NativeImage:
    """A file's pixels with all their axes.

    ``values`` Shape: (C, *N), stored type; N is upright, (row, column[, depth[, time]]), axes of length 1 kept.
    ``spacing_mm`` has one entry per axis of N but time, which counts 1; ``affine`` Shape: (4, 4), (row, column, depth)
    to world. ``frame_ms``: from one frame to the next, where the file says so.
    """

    values: npt.NDArray[Any]
    spacing_mm: tuple[float, ...]
    affine: Float64
    spacing_known: bool
    frame_ms: float | None = None

    @property
    def kept_axes(self) -> tuple[int, ...]:
        """The axes of N that count: row, column, and others that are longer than 1."""
        return kept_axes(self.values.shape[1:])


def kept_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The first two axes, and the others that are longer than 1."""
    return tuple(axis for axis, size in enumerate(shape) if axis < 2 or size != 1)


def ending(path: Path) -> str | None:
    """The supported ending of a file name (".nii.gz", ".png", ...), or None."""
    return next((known for known in ENDINGS if path.name.lower().endswith(known)), None)


def stem(path: Path) -> str:
    """File name without its supported ending."""
    return path.name[: -len(ending(path) or "")] if ending(path) else path.name


def swap_axes(affine: npt.NDArray[Any]) -> Float64:
    """Affine of (row, column, depth) from one of (x, y, z), or the other way round. Shape: (4, 4)."""
    swapped: Float64 = np.asarray(affine, dtype=np.float64)[:, [1, 0, 2, 3]]
    return swapped


def picture_affine(spacing_mm: tuple[float, ...]) -> Float64:
    """Affine of a picture without a header: world x along the columns, y along the rows. Shape: (4, 4)."""
    row, column, *depth = spacing_mm
    return swap_axes(np.diag([column, row, *(depth or [1.0]), 1.0]))


def usable_sizes(sizes: tuple[float, ...]) -> bool:
    """Whether these can be pixel sizes: finite and positive."""
    return all(np.isfinite(size) and size > 0 for size in sizes)


def unreadable(path: Path, error: BaseException | str) -> DataError:
    """The error of a file that its decoder cannot read."""
    reason = " ".join(str(error).split()) or type(error).__name__
    reason = "no such file" if isinstance(error, FileNotFoundError) else reason
    return DataError(
        f"{path}: cannot be read ({reason}); wanted a whole file of {', '.join(ENDINGS)}: copy it again or leave it out"
    )


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Make whatever a decoder raises over the bytes of a file one DataError; a damaged file may raise anything."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:
        raise unreadable(path, error) from error


def optional_package(name: str, extra: str, purpose: str) -> Any:
    """A package of an optional extra.

    Raises: DataError when it is not installed, with the command that installs it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DataError(
            f"{purpose} needs {name}, which is not installed ({error}); run: pip install 'rl4seg[{extra}]'"
        ) from error
