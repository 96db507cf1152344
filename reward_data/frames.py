"""An image file as the inputs of a network with S spatial axes, and the way back to its native grid.

A network for 2-D images sees a sequence, (x, y, t) or (x, y, 1, t), a multi-frame DICOM and the slices of a volume
alike: frame by frame. For a network with three axes, (x, y, z) is one input and (x, y, z, t) are several.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reward_data import meta_image, nifti, pictures
from reward_data.atomic import atomic_file
from reward_data.colour import coloured_share, luminance
from reward_data.errors import DataError
from reward_data.formats import format_of, read_native
from reward_data.native import META_ENDINGS, NIFTI_ENDINGS, NativeImage, ending, usable_sizes
from reward_data.types import Case, Float32, Float64, UInt8

COLOURED_SHARE = 0.05
"""A file with more coloured pixels than this is a colour image; below, colour is overlays (an ECG line, a scale)."""

MAP_STEPS = 1024


@dataclass(frozen=True)
class Frames:
    """The inputs that one file gives.

    ``values`` Shape: (N, C, *S), native intensities; every frame has the same ``spacing_mm``, one entry per axis of S,
    and ``affine``, (row, column, depth) of the first frame to world. ``native_shape``: the file's axes, upright, those
    of length 1 included. ``frame_ms``: time from frame to frame, where the file says it.
    """

    values: Float32
    spacing_mm: tuple[float, ...]
    affine: Float64
    spacing_known: bool
    native_shape: tuple[int, ...]
    frame_ms: float | None = None

    def __len__(self) -> int:
        return len(self.values)

    def case(self, index: int, case_id: str, domain: str = "target") -> Case:
        """One frame as a case without a label, for `reward_data.preprocess`."""
        return Case(
            id=case_id,
            group=case_id,
            domain=domain,
            split=None,
            image=self.values[index],
            label=None,
            spacing_mm=self.spacing_mm,
            affine=self.affine,
            spacing_known=self.spacing_known,
        )


def read_frames(path: Path, spatial_dims: int, channels: int) -> Frames:
    """Read a file as inputs of a network with ``spatial_dims`` axes and ``channels``.

    A colour file for a grey network gives its luminance where at most 5 % of its pixels are coloured; ultrasound DICOM
    always does. A grey file for a network with three channels is given three times. Pixel sizes that are not positive
    numbers are unknown ones (1 px).

    Raises:
        DataError: a missing, broken or truncated file, no pixels, NaN or inf, the same value everywhere, too few axes,
            or channels that do not fit.
    """
    native = read_native(path)
    kept = native.kept_axes
    if len(kept) < spatial_dims:
        raise DataError(
            f"{path}: shape {native.values.shape[1:]} (row, column, ...), wanted {spatial_dims} axes longer than 1; "
            f"use a model for {len(kept)}-D images"
        )
    values = _fitting_channels(native.values, channels, path)
    sizes = [native.values.shape[1 + axis] for axis in kept[:spatial_dims]]
    frames = np.moveaxis(values.reshape(channels, *sizes, -1), -1, 0)
    if frames.min() == frames.max():
        raise DataError(
            f"{path}: every pixel is {frames.flat[0]:g}, so there is nothing to see; wanted an image: leave it out or "
            "export it again"
        )
    spacing, known = _spacing(native, kept[:spatial_dims])
    return Frames(
        np.ascontiguousarray(frames),
        spacing,
        native.affine,
        known,
        native.values.shape[1:],
        native.frame_ms,
    )


def _spacing(native: NativeImage, axes: tuple[int, ...]) -> tuple[tuple[float, ...], bool]:
    spacing = tuple(native.spacing_mm[axis] for axis in axes)
    return (spacing, native.spacing_known) if usable_sizes(spacing) else ((1.0,) * len(axes), False)


def _fitting_channels(values: npt.NDArray[Any], channels: int, path: Path) -> Float32:
    """Shape: (C, *N) -> (channels, *N), float32."""
    found = len(values)
    if found == 3 and channels == 1:
        share = coloured_share(values)
        if share > COLOURED_SHARE:
            raise DataError(
                f"{path}: colour where grey is wanted ({share:.0%} of the pixels are coloured, at most "
                f"{COLOURED_SHARE:.0%} are taken for overlays); save the image as grey, or use a model for colour"
            )
        return luminance(values)
    if found == 1 and channels == 3:
        values = np.repeat(values, 3, axis=0)
    elif found != channels:
        raise DataError(
            f"{path}: {found} values per pixel, but the model wants {channels}; give files of the modality that it was "
            "trained on"
        )
    return values.astype(np.float32)


def mask_ending(image: Path) -> str:
    """The ending of the mask of an image: NIfTI as it came, .mha for MetaImage, .png for pictures, .nii.gz for DICOM.

    Raises:
        DataError: not the name of an image, nor a DICOM file.
    """
    kind = format_of(image)
    if kind is None:
        raise DataError(f"{image}: no known image format, so its mask has none; leave it out")
    known = ending(image)
    if kind == "nifti" and known is not None:
        return known
    return {"picture": ".png", "meta_image": ".mha"}.get(kind, ".nii.gz")


def write_frames_mask(path: Path, labels: UInt8, frames: Frames, like: Path) -> None:
    """Write the masks of all frames of ``like`` as one file on its native grid, whole or not at all.

    NIfTI and MetaImage keep shape, pixel size, orientation and world coordinates; DICOM becomes NIfTI, frames last.
    The ending of ``path`` is that of `mask_ending`, or .nii.gz. Shape: (N, *S).

    Raises:
        DataError: the shape is not that of the frames, the ending cannot hold them, or the file cannot be written.
    """
    _write(path, labels.astype(np.uint8, copy=False), frames, like)


def write_frames_map(path: Path, values: Float32, frames: Frames, like: Path) -> None:
    """Write maps in [0, 1], such as error probabilities, as `write_frames_mask` does masks.

    float32 in steps of 1/1024, which take half the time and space of finer ones; PNG has 0..255 for [0, 1].
    Shape: (N, *S).

    Raises:
        DataError: as `write_frames_mask`.
    """
    if ending(path) == ".png":
        _write(path, np.rint(255 * values.clip(0, 1)).astype(np.uint8), frames, like)
    else:
        _write(path, (np.rint(MAP_STEPS * values) / MAP_STEPS).astype(np.float32), frames, like)


def _write(path: Path, values: npt.NDArray[Any], frames: Frames, like: Path) -> None:
    wanted = (len(frames), *frames.values.shape[2:])
    if values.shape != wanted:
        raise DataError(
            f"{path}: values of shape {values.shape}, wanted one per pixel and frame of {like}: {wanted}"
        )
    native = np.moveaxis(values, 0, -1).reshape(frames.native_shape)
    kind, of_nifti = ending(path), ending(like) in NIFTI_ENDINGS
    with atomic_file(path, durable=False) as temporary:
        if kind in NIFTI_ENDINGS and of_nifti:
            nifti.write_like(temporary, native, like)
        elif kind in NIFTI_ENDINGS:
            nifti.write(temporary, native, _native_spacing(frames), frames.affine)
        elif kind == ".mha" and ending(like) in META_ENDINGS:
            meta_image.write_like(temporary, native, like)
        elif kind == ".png" and native.ndim == 2:
            pictures.write(temporary, native)
        else:
            raise DataError(
                f"{path}: this ending cannot hold the {native.ndim}-D mask of {like.name}; use {mask_ending(like)}"
            )


def _native_spacing(frames: Frames) -> tuple[float, ...]:
    """Pixel size per native axis: of the frames, then the step of the affine, then 1 for time."""
    depth = float(np.linalg.norm(frames.affine[:3, 2]))
    sizes = (*frames.spacing_mm[:2], depth, 1.0)
    return sizes[: len(frames.native_shape)]
