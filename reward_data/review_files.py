"""Files of a review that ITK-SNAP and 3D Slicer open: NIfTI in native geometry, a label description, and the way back.

A 2-D case is written as a volume of depth 1. qform and sform both say where it lies; a grid that is sheared, or whose
pixel size is not the one that its affine has, is written with the directions of the affine and the size that counts.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from pydantic import Field

from reward_data.errors import DataError
from reward_data.formats import NIFTI_ENDINGS, Picture, ending, read_image
from reward_data.readers import DatasetConfig, is_simulated, list_cases, read_cases
from reward_data.types import Config, Float32, Float64, UInt8

COLOURS = ((230, 159, 0), (86, 180, 233), (204, 121, 167), (0, 158, 115), (240, 228, 66))
SHIFT = 0.01  # of a pixel: how far a corner of a returned mask may lie from where it was exported
SPACING = 1e-3  # relative difference of pixel sizes


class Grid(Config):
    """The native grid of a case as it was exported; axes are (row, column[, depth])."""

    shape: tuple[int, ...] = Field(description="Pixels per axis.")
    spacing_mm: tuple[float, ...] = Field(description="Pixel size per axis, mm.")
    affine: tuple[tuple[float, ...], ...] = Field(description="4 x 4, pixel index to world (RAS+, mm).")


def read_grid(path: Path) -> Grid:
    """The grid of a file."""
    return _grid_of(read_image(path))


def file_names(ids: Sequence[str]) -> list[str]:
    """One file name (without ending) per case id, unique and without characters that a file system may refuse."""
    names: list[str] = []
    for case_id in ids:
        plain = re.sub(r"[^A-Za-z0-9._-]", "_", case_id).lstrip(".") or "case"
        taken = sum(re.fullmatch(rf"{re.escape(plain)}(-\d+)?", name) is not None for name in names)
        names.append(f"{plain}-{taken + 1}" if taken else plain)
    return names


def native_images(dataset: DatasetConfig, ids: Collection[str]) -> dict[str, Float32]:
    """The images of some cases as they lie on disk, by id; no other image file is read. Shape: (C, *S) each.

    Raises:
        DataError: a file cannot be read.
    """
    if (
        is_simulated(dataset) or dataset.shift is not None
    ):  # made, not read: one at a time, the others are let go
        return {case.id: case.image for case in read_cases(dataset) if case.id in ids}
    return {
        files.id: np.concatenate([read_image(path).values for path in files.images])
        for files in list_cases(dataset)
        if files.id in ids
    }


def labels_digest(labels: UInt8) -> str:
    """sha256 of the label values alone: the same however a program has packed them. Shape: native."""
    return hashlib.sha256(np.ascontiguousarray(labels, np.uint8).tobytes()).hexdigest()


def write_volume(path: Path, values: npt.NDArray[Any], spacing_mm: Sequence[float], affine: Float64) -> None:
    """Write upright values as NIfTI, a 2-D image with a depth of 1; equal values give equal bytes. Shape: (*S)."""
    volume = values.swapaxes(0, 1)
    volume = volume[..., None] if volume.ndim == 2 else volume
    placed = sound_affine(affine, spacing_mm)
    image = nib.Nifti1Image(volume, placed)
    image.set_sform(placed, 1)
    image.set_qform(placed, 1)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def sound_affine(affine: Float64, spacing_mm: Sequence[float]) -> Float64:
    """(x, y, z) to world, from one of (row, column, depth): orthogonal directions of the given lengths. Shape: (4, 4).

    An affine that is so already is kept to the last bit. A 2-D case keeps its depth, or gets one of 1 mm.
    """
    swapped: Float64 = np.asarray(affine, np.float64)[:, [1, 0, 2, 3]]
    columns, lengths = swapped[:3, :3], np.linalg.norm(swapped[:3, :3], axis=0)
    depth = spacing_mm[2] if len(spacing_mm) == 3 else float(lengths[2]) or 1.0
    wanted = np.array([spacing_mm[1], spacing_mm[0], depth])
    directions = columns / np.where(lengths > 0, lengths, 1)
    if not directions[:, 2].any():
        directions[:, 2] = np.cross(directions[:, 0], directions[:, 1])
    left, singular, right = np.linalg.svd(directions)
    if np.allclose(lengths, wanted, rtol=1e-4) and np.allclose(singular, 1, atol=1e-4):
        return swapped
    sound = np.eye(4)
    sound[:3, :3] = (left @ right if singular.min() > 1e-3 else np.eye(3)) * wanted
    sound[:3, 3] = swapped[:3, 3]
    return sound


def label_description(class_names: Sequence[str]) -> str:
    """What ITK-SNAP reads under Segmentation > Import Label Descriptions: index, colour, visibility and name."""
    head = ["#" * 48, "# ITK-SnAP Label Description File", "# IDX -R- -G- -B- -A- VIS MSH LABEL", "#" * 48]
    rows = ['    0     0    0    0        0  0  0    "Clear Label"']
    for value, name in enumerate(class_names[1:], start=1):
        red, green, blue = COLOURS[(value - 1) % len(COLOURS)]
        plain = name.replace('"', "'")
        rows.append(f'{value:5d}{red:6d}{green:5d}{blue:5d}        1  1  1    "{plain}"')
    return "\n".join([*head, *rows]) + "\n"


def read_returned(path: Path, grid: Grid, class_names: Sequence[str]) -> UInt8:
    """The labels of a mask that came back. Shape: native.

    Raises:
        DataError: it is not a NIfTI file that can be read, or its shape, geometry or values are not those exported.
    """
    if ending(path) not in NIFTI_ENDINGS:
        raise DataError(
            f"{path}: got {path.suffix or 'a file without an ending'}, wanted NIfTI (.nii.gz or .nii), which keeps the "
            "geometry; save the segmentation as NIfTI"
        )
    picture = read_image(path)
    _check_grid(path, picture, grid)
    return _checked_labels(path, picture, class_names)


def _check_grid(path: Path, picture: Picture, grid: Grid) -> None:
    got = _grid_of(picture)
    if got.shape != grid.shape:
        raise DataError(
            f"{path}: got a mask of shape {got.shape}, wanted {grid.shape}, that of the exported image (row, column[, "
            "depth]); correct the exported mask itself, without cropping or resampling"
        )
    if not np.allclose(got.spacing_mm, grid.spacing_mm, rtol=SPACING):
        raise DataError(
            f"{path}: got a pixel size of {_rounded(got.spacing_mm)} mm, wanted {_rounded(grid.spacing_mm)}; save the "
            "mask with the geometry of the exported image"
        )
    moved = _largest_shift(got, grid)
    if moved > SHIFT * min(grid.spacing_mm):
        raise DataError(
            f"{path}: got another geometry, a corner lies {moved:.4g} mm from where it was exported, wanted the same "
            f"affine {_rounded(np.ravel(grid.affine)[:12])}; save the mask with the geometry of the exported image, "
            "neither flipped nor reoriented"
        )


def _grid_of(picture: Picture) -> Grid:
    rows = tuple(tuple(float(value) for value in row) for row in picture.affine)
    return Grid(shape=picture.values.shape[1:], spacing_mm=picture.spacing_mm, affine=rows)


def _largest_shift(got: Grid, wanted: Grid) -> float:
    """How far apart the corners of two grids of one shape lie, mm; the depth of a 2-D case does not count."""
    corners = np.array(np.meshgrid(*[(0, size - 1) for size in wanted.shape], indexing="ij")).reshape(
        len(wanted.shape), -1
    )
    points = np.zeros((4, corners.shape[1]))
    points[: len(corners)], points[3] = corners, 1
    return float(np.linalg.norm(((np.array(got.affine) - wanted.affine) @ points)[:3], axis=0).max())


def _checked_labels(path: Path, picture: Picture, class_names: Sequence[str]) -> UInt8:
    values = picture.values[0]
    found = np.unique(values)
    fractions = found[found != np.rint(found)]
    if len(fractions):
        raise DataError(
            f"{path}: got values that are no integers, such as {fractions[0]:.4g}, wanted the class values 0 to "
            f"{len(class_names) - 1}; save the segmentation itself, not probabilities or a resampled mask"
        )
    unknown = [int(value) for value in found if not 0 <= value < len(class_names)]
    if unknown:
        named = ", ".join(f"{value} = {name}" for value, name in enumerate(class_names))
        raise DataError(
            f"{path}: got the labels {unknown[:8]}, wanted only {named}; give these pixels one of these labels"
        )
    labels: UInt8 = values.astype(np.uint8)
    return labels


def _rounded(values: Sequence[float] | Float64) -> tuple[float, ...]:
    return tuple(float(f"{value:.6g}") for value in values)
