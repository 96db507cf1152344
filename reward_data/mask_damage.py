"""Plausible and implausible damage to a mask, as pure functions of the mask and a frozen record.

All sizes are relative to the foreground, so the same record does the same harm at 64 and at 256 pixels. Every function
takes and returns class values; an empty mask comes back unchanged (nothing to harm), except that an island is added.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field
from scipy import ndimage

from reward_data.types import Bool, Config, Float64, UInt8

Fault = Literal["cut_end", "cut_wall", "hole", "fill", "leak", "island", "flip", "drop_class"]


class Morph(Config):
    """One class eroded or dilated."""

    kind: Literal["morph"] = "morph"
    operation: Literal["erode", "dilate"]
    class_value: int = Field(ge=1)
    radius: float = Field(gt=0, description="As a share of the square root of the foreground area.")


class Warp(Config):
    """A smooth random displacement of the whole mask."""

    kind: Literal["warp"] = "warp"
    strength: float = Field(
        gt=0, description="Standard deviation of the displacement, share of the foreground's size."
    )
    length: float = Field(
        gt=0, description="Correlation length of the displacement, share of the foreground's size."
    )
    seed: int


class Affine(Config):
    """The mask turned, scaled and shifted about its own centre."""

    kind: Literal["affine"] = "affine"
    rotation_degrees: float
    scale: float = Field(gt=0)
    shift: tuple[float, ...] = Field(description="Per axis, share of the foreground's size.")


class Damage(Config):
    """A gross fault of one kind at a random place."""

    kind: Literal["damage"] = "damage"
    what: Fault
    size: float = Field(gt=0, description="Of the fault, share of the foreground's size.")
    seed: int


MaskDamage = Morph | Warp | Affine | Damage


def foreground_size(mask: UInt8) -> float:
    """The n-th root of the foreground's pixel count: its size in pixels."""
    return float(np.count_nonzero(mask) ** (1 / mask.ndim))


def damage_mask(record: MaskDamage, mask: UInt8) -> UInt8:
    """The damaged mask; equal records give equal masks. Shape: (*S) -> (*S)."""
    if isinstance(record, Damage):
        return _DAMAGES[record.what](mask, record)
    if not mask.any():
        return mask.copy()
    if isinstance(record, Morph):
        return _morph(mask, record)
    return _warp(mask, record) if isinstance(record, Warp) else _affine(mask, record)


def _distance(mask: Bool) -> Float64:
    distance: Float64 = ndimage.distance_transform_edt(mask)
    return distance


def _morph(mask: UInt8, record: Morph) -> UInt8:
    region = mask == record.class_value
    radius = max(record.radius * foreground_size(mask), 1.0)
    out = mask.copy()
    if record.operation == "dilate":
        out[(_distance(~region) <= radius) & region.any()] = record.class_value
        return out
    lost = region & (_distance(region) <= radius)
    out[lost] = 0
    others = (mask != record.class_value) & (mask > 0)
    if (
        others.any() and lost.any()
    ):  # what it loses goes to the nearest other class or, if nearer, the background
        nearest = ndimage.distance_transform_edt(~others, return_distances=False, return_indices=True)
        taken = lost & (_distance(~others) < _distance(mask > 0))
        out[taken] = mask[tuple(axis[taken] for axis in nearest)]
    return out


def _centre(mask: UInt8) -> Float64:
    return np.array([positions.mean() for positions in np.nonzero(mask)])


def _resample(mask: UInt8, coordinates: Float64) -> UInt8:
    moved: UInt8 = ndimage.map_coordinates(mask, coordinates, order=0, mode="constant", cval=0)
    return moved


def _grid(mask: UInt8) -> Float64:
    return np.indices(mask.shape).astype(np.float64)


def _warp(mask: UInt8, record: Warp) -> UInt8:
    size, rng = foreground_size(mask), np.random.default_rng(record.seed)
    coarse = tuple(max(4, round(s / max(record.length * size, 1.0))) for s in mask.shape)
    zoom = [s / c for s, c in zip(mask.shape, coarse, strict=True)]
    field = np.stack([ndimage.zoom(rng.standard_normal(coarse), zoom, order=3) for _ in range(mask.ndim)])
    field *= record.strength * size / max(float(field.std()), 1e-9)
    return _resample(mask, _grid(mask) + field)


def _affine(mask: UInt8, record: Affine) -> UInt8:
    size, centre = foreground_size(mask), _centre(mask)
    angle = np.deg2rad(record.rotation_degrees)
    matrix = np.eye(mask.ndim)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    shift = np.resize(np.asarray(record.shift), mask.ndim) * size
    column = (-1, *[1] * mask.ndim)
    offset = _grid(mask) - (centre + shift).reshape(column)
    return _resample(mask, np.tensordot(matrix, offset, 1) / record.scale + centre.reshape(column))


def _ball(mask: UInt8, centre: Float64, radius: float) -> Bool:
    squares = sum(
        (g - c) ** 2 for g, c in zip(np.ogrid[tuple(slice(s) for s in mask.shape)], centre, strict=True)
    )
    return np.asarray(squares <= max(radius, 1.0) ** 2)


def _somewhere(region: Bool, rng: np.random.Generator) -> Float64:
    points = np.argwhere(region)
    return np.asarray(points[rng.integers(len(points))], np.float64)


def _cut_end(mask: UInt8, record: Damage) -> UInt8:
    """The last rows of the foreground are gone, at one end or the other."""
    out = mask.copy()
    rows = np.nonzero(mask.any(tuple(range(1, mask.ndim))))[0]
    if rows.size:
        cut = min(max(1, round(record.size * len(rows))), len(rows))
        lower = np.random.default_rng(record.seed).random() < 0.7
        out[slice(rows[-1] - cut + 1, None) if lower else slice(0, rows[0] + cut)] = 0
    return out


def _cut_wall(mask: UInt8, record: Damage) -> UInt8:
    """A ball of the outermost class becomes background."""
    out, wall = mask.copy(), mask == mask.max()
    if mask.any():
        centre = _somewhere(wall, np.random.default_rng(record.seed))
        out[_ball(mask, centre, record.size * foreground_size(mask)) & wall] = 0
    return out


def _hole(mask: UInt8, record: Damage) -> UInt8:
    """A small ball well inside the foreground becomes background."""
    out = mask.copy()
    if mask.any():
        depth = _distance(mask > 0)
        centre = _somewhere(depth >= 0.7 * depth.max(), np.random.default_rng(record.seed))
        out[_ball(mask, centre, record.size * foreground_size(mask) / 2)] = 0
    return out


def _fill(mask: UInt8, record: Damage) -> UInt8:
    """A ball of the innermost class is filled with the outermost one, from their common border inwards."""
    out, inner, outer = mask.copy(), mask == mask[mask > 0].min(initial=255), mask == mask.max()
    if mask.any() and (inner & ~outer).any():
        depth = _distance(~outer)
        border = inner & (depth <= depth[inner].min() + 0.5)
        centre = _somewhere(border, np.random.default_rng(record.seed))
        out[_ball(mask, centre, record.size * foreground_size(mask)) & inner] = mask.max()
    return out


def _leak(mask: UInt8, record: Damage) -> UInt8:
    """The innermost class spills through the foreground's border."""
    out = mask.copy()
    if mask.any():
        foreground = mask > 0
        border = foreground & (_distance(foreground) <= 1)
        centre = _somewhere(border, np.random.default_rng(record.seed))
        out[_ball(mask, centre, record.size * foreground_size(mask))] = mask[foreground].min()
    return out


def _island(mask: UInt8, record: Damage) -> UInt8:
    """A ball of some class away from the foreground."""
    rng = np.random.default_rng(record.seed)
    out, size = mask.copy(), foreground_size(mask) or min(mask.shape) / 4
    radius = max(record.size * size / 2, 1.0)
    free = _distance(mask == 0) > radius + 1.5
    if free.any():
        centre = _somewhere(free, rng)
        out[_ball(mask, centre, radius)] = rng.choice(np.unique(mask[mask > 0])) if mask.any() else 1
    return out


def _flip(mask: UInt8, record: Damage) -> UInt8:
    """Upside down within its own box of rows."""
    out = mask.copy()
    rows = np.nonzero(mask.any(tuple(range(1, mask.ndim))))[0]
    if rows.size:
        box = slice(rows[0], rows[-1] + 1)
        out[box] = mask[box][::-1]
    return out


def _drop_class(mask: UInt8, record: Damage) -> UInt8:
    """One class becomes background."""
    present = np.unique(mask[mask > 0])
    if not present.size:
        return mask.copy()
    return np.where(mask == np.random.default_rng(record.seed).choice(present), 0, mask).astype(np.uint8)


_DAMAGES = {
    "cut_end": _cut_end,
    "cut_wall": _cut_wall,
    "hole": _hole,
    "fill": _fill,
    "leak": _leak,
    "island": _island,
    "flip": _flip,
    "drop_class": _drop_class,
}
