"""One image file -> upright arrays, and masks back to files.

Every array is upright, as a picture viewer shows it: the first axis is the image row, the second the column. NIfTI
arrays come as (x, y[, z]) and are transposed to (row = y, column = x[, depth = z]) on reading and back on writing; the
columns of the affine go with them, so that it maps (row, column, depth) to world.
"""

from __future__ import annotations

import io
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from PIL import Image

from reward_data.errors import DataError
from reward_data.types import Float32, Float64, Mask

NIFTI_ENDINGS = (".nii.gz", ".nii")
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg")
ENDINGS = NIFTI_ENDINGS + PICTURE_ENDINGS

_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    SyntaxError,  # what Pillow raises for a broken PNG chunk
    zlib.error,
    ImageFileError,
    HeaderDataError,
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class Picture:
    """What one image file holds. ``values`` Shape: (C, *S); ``affine`` Shape: (4, 4), (row, column, depth) to world."""

    values: Float32
    spacing_mm: tuple[float, ...]
    affine: Float64
    spacing_known: bool


def ending(path: Path) -> str | None:
    """The supported ending of a file name (".nii.gz", ".png", ...), or None."""
    return next((known for known in ENDINGS if path.name.lower().endswith(known)), None)


def stem(path: Path) -> str:
    """File name without its supported ending."""
    return path.name[: -len(ending(path) or "")] if ending(path) else path.name


def read_image(path: Path) -> Picture:
    """Read one NIfTI, PNG or JPEG file.

    Grey pictures and NIfTI have C = 1, colour pictures C = 3 (alpha dropped). Pictures have no known spacing (1 px).

    Raises: DataError for a missing, unreadable or truncated file, for axes that are not 2-D or 3-D, for NaN or inf.
    """
    picture = _read_nifti(path) if _is_nifti(path) else _read_picture(path)
    finite = np.isfinite(picture.values)
    if not finite.all():
        raise DataError(
            f"{path}: {np.count_nonzero(~finite)} of {finite.size} intensities are NaN or infinite, wanted finite "
            "numbers; repair the file or leave the case out"
        )
    return picture


def read_labels(path: Path) -> npt.NDArray[Any]:
    """Read one label file, native label values. Shape: (*S). Palette pictures give their indices.

    Raises: DataError as ``read_image``, for colour pictures, and for JPEG, which does not keep label values.
    """
    if _is_nifti(path):
        return _nifti_values(_load_nifti(path), path)
    if ending(path) != ".png":
        raise DataError(f"{path}: JPEG does not keep label values exactly; give labels as PNG or NIfTI")
    with _open_picture(path) as image:
        values = np.asarray(image)
    if values.ndim == 3 and (values[..., :3] == values[..., :1]).all():
        values = values[..., 0]
    if values.ndim != 2:
        raise DataError(
            f"{path}: labels in colour (Shape: {values.shape}), wanted one grey or palette value per pixel; "
            "save the class values as a grey PNG"
        )
    return values


def write_mask(path: Path, mask: Mask, like: Path | None = None) -> None:
    """Write a mask as NIfTI (shape, spacing and affine kept) or PNG, whole or not at all.

    ``like``: the NIfTI file that the mask belongs to; its header and its axes (such as a depth of 1) are then kept too.
    """
    with atomic_file(path) as temporary:
        if _is_nifti(path):
            nib.save(_nifti_mask(mask, like), temporary)
        elif ending(path) == ".png" and mask.labels.ndim == 2:
            Image.fromarray(mask.labels).save(temporary)
        else:
            raise DataError(
                f"{path}: cannot write a {mask.labels.ndim}-D mask to this ending; use .nii.gz, or .png for 2-D"
            )


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends well, and vanishes when it does not.

    Raises: DataError when the system refuses to write (disk full, no permission), with the space that is left.
    """
    temporary = path.with_name(f".{os.getpid()}.tmp.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"{path}: could not be written ({error}); {_free_space(path)}") from error
    finally:
        with suppress(NotADirectoryError):  # where a file stands in the place of the folder
            temporary.unlink(missing_ok=True)


class _Sink(io.FileIO):
    """The file under an HDF5 file. It remembers the first write that fails, and takes all others as done.

    HDF5 writes again what it could not write when it closes a file, and crashes the process if that fails too; so it
    must not see the failure.
    """

    failure: OSError | None = None

    def check(self) -> None:
        """Raise the first failure, if there was one."""
        if self.failure is not None:
            raise self.failure

    def write(self, data: Any, /) -> int:
        """Write all of ``data``; a full disk takes it in parts and then refuses."""
        view = memoryview(data).cast("B")
        written = 0
        while self.failure is None and written < len(view):
            try:
                written += super().write(view[written:])
            except OSError as error:
                self.failure = error
        return len(view)

    def truncate(self, size: int | None = None, /) -> int:
        """Set the size of the file."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.failure = self.failure or error
            return size or 0


@contextmanager
def atomic_hdf5(path: Path) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """A new HDF5 file, as ``atomic_file``: whole under ``path`` when the block ends well, else nothing.

    Yields the file and a function that raises if the disk has refused a write so far; the end of the block calls it.
    Raises: DataError when the system refuses to write.
    """
    with atomic_file(path) as temporary, _Sink(temporary, "w+") as sink:
        try:
            with h5py.File(sink, "w") as file:
                yield file, sink.check
        finally:
            sink.check()


def _free_space(path: Path) -> str:
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free / 1e6
    return f"{free:.0f} MB are free in {folder}: free some space there or choose another folder"


def _is_nifti(path: Path) -> bool:
    return ending(path) in NIFTI_ENDINGS


def _unreadable(path: Path, error: BaseException) -> DataError:
    reason = " ".join(str(error).split()) or type(error).__name__
    reason = "no such file" if isinstance(error, FileNotFoundError) else reason
    return DataError(
        f"{path}: cannot be read ({reason}); wanted a whole file of {', '.join(ENDINGS)}: copy it again or leave it out"
    )


def _load_nifti(path: Path) -> Any:
    try:
        return nib.load(path)
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error


def _nifti_values(image: Any, path: Path) -> npt.NDArray[Any]:
    """Upright values of a NIfTI image, axes of length 1 behind the second dropped. Shape: (*S)."""
    try:
        values = np.asarray(image.dataobj)
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error
    while values.ndim > 2 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim not in (2, 3) or values.dtype.kind not in "buif":
        raise DataError(
            f"{path}: array of shape {image.shape} and type {values.dtype}, wanted real numbers in 2-D (x, y) or 3-D "
            "(x, y, z); split other axes into channel files (_0000, _0001, ...)"
        )
    return values.swapaxes(0, 1)


def _read_nifti(path: Path) -> Picture:
    image = _load_nifti(path)
    values = _nifti_values(image, path)
    zooms = [float(size) for size in image.header.get_zooms()[: values.ndim]]
    spacing = (zooms[1], zooms[0], *zooms[2:])
    upright = np.ascontiguousarray(values[None], dtype=np.float32)
    return Picture(upright, spacing, _swap_axes(image.affine), spacing_known=True)


def _swap_axes(affine: npt.NDArray[Any]) -> Float64:
    """Affine of (row, column, depth) from one of (x, y, z), or the other way round."""
    swapped: Float64 = np.asarray(affine, dtype=np.float64)[:, [1, 0, 2, 3]]
    return swapped


@contextmanager
def _open_picture(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            image.load()
            yield image
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error


def _read_picture(path: Path) -> Picture:
    with _open_picture(path) as image:
        grey = image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;16")
        values = np.asarray(image if grey else image.convert("RGB"), dtype=np.float32)
    channels = values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0)
    return Picture(
        np.ascontiguousarray(channels), (1.0, 1.0), picture_affine((1.0, 1.0)), spacing_known=False
    )


def picture_affine(spacing_mm: tuple[float, ...]) -> Float64:
    """Affine of a picture without a header: world x along the columns, y along the rows. Shape: (4, 4)."""
    row, column, *depth = spacing_mm
    return _swap_axes(np.diag([column, row, *(depth or [1.0]), 1.0]))


def _nifti_mask(mask: Mask, like: Path | None) -> Any:
    values = mask.labels.swapaxes(0, 1)
    if like is None:
        image = nib.Nifti1Image(values, _swap_axes(mask.affine))
        sizes = [mask.spacing_mm[1], mask.spacing_mm[0], *mask.spacing_mm[2:]]
        if np.allclose(image.header.get_zooms(), sizes, rtol=1e-4):
            image.header.set_zooms(sizes)
        image.header.set_xyzt_units("mm")
        return image
    reference = _load_nifti(like)
    if values.size != np.prod(reference.shape) or values.shape != reference.shape[: values.ndim]:
        raise DataError(
            f"{like}: shape {reference.shape} does not match the mask's (x, y[, z]) {values.shape}; "
            "give the image that the mask was predicted from"
        )
    header = reference.header.copy()
    header.set_data_dtype(np.uint8)
    return reference.__class__(values.reshape(reference.shape), reference.affine, header)
