"""What anatomical rules measure: one mask, cut to its foreground, with every shared measurement taken once.

Lengths and areas are physical (mm, mm2; mm3 in 3-D) and taken on pixel faces, so they do not depend on the
resolution; a share of two of them has no unit. Structures are named by class, or by several classes in union.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from reward_data.errors import DataError
from reward_data.types import Bool, Float64, Int64, UInt8

Names = tuple[str, ...]
WALL_SAMPLES = 64  # border pixels at which a wall is measured; evenly drawn from a longer border


@dataclass(frozen=True)
class Frontier:
    """The pixels of one region that share a face with another region.

    ``index`` Shape: (N,), flat positions in the padded crop. ``faces`` Shape: (axes, N): shared along which axis.
    """

    index: Int64
    faces: Bool
    face_areas: Float64

    @cached_property
    def lengths(self) -> Float64:
        """Length of each pixel's part. Shape: (N,), mm in 2-D and mm2 in 3-D.

        A pixel with faces along two axes counts with the diagonal, so slanted borders measure alike on every grid.
        """
        return np.asarray(np.sqrt((self.face_areas**2) @ self.faces), np.float64)

    @property
    def length(self) -> float:
        """Whole length in mm (area in mm2 in 3-D)."""
        return float(self.lengths.sum())


class MaskGeometry:
    """Lazy measurements of one label mask. ``labels`` Shape: (*S), S = (H, W) or (H, W, D)."""

    def __init__(self, labels: UInt8, spacing_mm: Sequence[float], class_names: Names) -> None:
        """Cut to the foreground's bounding box and pad by one background pixel.

        Raises: DataError when the spacing does not fit the mask or a label value has no class.
        """
        if labels.ndim not in (2, 3) or len(spacing_mm) != labels.ndim or min(spacing_mm) <= 0:
            raise DataError(
                f"mask of shape {labels.shape} with spacing {tuple(spacing_mm)} mm: want a 2-D or 3-D mask and "
                "one positive spacing per axis; pass spacing_mm=(1.0, 1.0) where it is unknown"
            )
        self.spacing_mm: Float64 = np.asarray(spacing_mm, np.float64)
        self.pixel_area = float(self.spacing_mm.prod())
        self.face_areas: Float64 = self.pixel_area / self.spacing_mm
        self.image_pixels = labels.size
        self.class_names = class_names
        self.crop = _foreground_crop(labels)
        if self.crop.max() >= len(class_names):
            raise DataError(
                f"mask holds label value {int(self.crop.max())}, but the rule set names only the classes "
                f"{list(class_names)}; merge or drop the other labels first (labels.merge, e.g. {{3: 0}})"
            )
        shape = self.crop.shape  # distance of neighbours along each axis in the flat crop:
        self._steps = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        self._regions: dict[Names, Bool] = {}
        self._pixels: dict[Names, int] = {}
        self._boxes: dict[Names, tuple[slice, ...]] = {}
        self._profiles: dict[tuple[Names, Names, float], Float64] = {}
        self._frontiers: dict[tuple[Names, Names], Frontier] = {}

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return self.crop.ndim

    def region(self, names: Names) -> Bool:
        """Where the union of ``names`` is. Shape: (*S) of the padded crop."""
        if names not in self._regions:
            self._regions[names] = self._region(names)
        return self._regions[names]

    def _region(self, names: Names) -> Bool:
        if self._is_foreground(names):
            return np.asarray(self.crop != 0, bool)
        region = np.zeros(self.crop.shape, bool)
        for name in names:
            region |= self.crop == self.class_names.index(name)
        return region

    def _is_foreground(self, names: Names) -> bool:
        """Whether the structure is all that is not background: then the crop is its bounding box."""
        return len(names) == len(self.class_names) - 1 and set(names) == set(self.class_names[1:])

    def pixels(self, names: Names) -> int:
        """Number of pixels of a structure."""
        if names not in self._pixels:
            self._pixels[names] = int(np.count_nonzero(self.region(names)))
        return self._pixels[names]

    def area(self, names: Names) -> float:
        """Area in mm2 (volume in mm3 in 3-D)."""
        return self.pixels(names) * self.pixel_area

    def size_mm(self, names: Names) -> float:
        """The length that a structure's thresholds scale with: sqrt(area), the cube root of a volume. mm."""
        return float(self.area(names) ** (1.0 / self.ndim))

    def box(self, names: Names) -> tuple[slice, ...]:
        """Bounding box of a structure that is present, in the padded crop."""
        if names not in self._boxes:
            whole = tuple(slice(1, side - 1) for side in self.crop.shape)
            self._boxes[names] = whole if self._is_foreground(names) else _bounding_box(self.region(names))
        return self._boxes[names]

    def frontier(self, names: Names, other: Names) -> Frontier:
        """Pixels of ``names`` that share a face with ``other``."""
        key = (names, other)
        if key not in self._frontiers:
            self._frontiers[key] = self._frontier(self.region(names), self.region(other))
        return self._frontiers[key]

    def border(self, names: Names) -> Frontier:
        """Pixels of ``names`` that share a face with anything else (the image's edge counts as background)."""
        key = (names, ("",))
        if key not in self._frontiers:
            region = self.region(names)
            self._frontiers[key] = self._frontier(region, ~region)
        return self._frontiers[key]

    def _frontier(self, region: Bool, other: Bool) -> Frontier:
        """On flat arrays: the padding keeps a step beyond a row's end from meeting foreground."""
        here, there = region.ravel(), other.ravel()
        touched = np.zeros(here.size, bool)
        for step in self._steps:
            touched[:-step] |= there[step:]
            touched[step:] |= there[:-step]
        index = np.flatnonzero(touched & here)
        last = here.size - 1
        faces = [
            there[np.minimum(index + step, last)] | there[np.maximum(index - step, 0)] for step in self._steps
        ]
        return Frontier(index, np.stack(faces), self.face_areas)

    def stretches(self, frontier: Frontier) -> Float64:
        """Length of each connected stretch of a frontier. Shape: (stretches,), mm (mm2 in 3-D)."""
        if not frontier.index.size:
            return np.zeros(0)
        places = np.stack(np.unravel_index(frontier.index, self.crop.shape))
        places -= places.min(axis=1, keepdims=True)
        drawn = np.zeros(places.max(axis=1) + 1, bool)
        drawn[tuple(places)] = True
        labels, pieces = ndimage.label(drawn, np.ones((3,) * self.ndim, bool))
        lengths = np.bincount(labels[tuple(places)], frontier.lengths, minlength=pieces + 1)[1:]
        return np.asarray(lengths, np.float64)

    def gap_pixels(self, names: Names, other: Names, reach_mm: float) -> int:
        """Background pixels on rays along the axes from ``names`` to ``other``, at most ``reach_mm`` long each."""
        start = self.frontier(names, (self.class_names[0],)).index
        target, empty = self.region(other).ravel(), self.crop.ravel() == 0
        total = 0
        for step, spacing, side in zip(self._steps, self.spacing_mm, self.crop.shape):
            ahead = np.arange(1, 2 + min(max(1, round(reach_mm / spacing)), side))
            both_ways = np.stack([ahead, -ahead])
            along = (start // step % side)[:, None, None] + both_ways
            rays = start[:, None, None] + step * both_ways
            rays[(along < 0) | (along >= side)] = 0  # beyond the crop: pixel 0 is background
            length = empty[rays].argmin(axis=2)  # the first pixel that is none; 0 also where all are
            ends = np.take_along_axis(rays, length[..., None], axis=2)[..., 0]
            total += int(length[target[ends]].sum())
        return total

    def covariance(self, names: Names) -> Float64:
        """Second central moments of a present structure, its pixels taken as filled boxes. Shape: (axes, axes), mm2."""
        weights = self.region(names)[self.box(names)].astype(np.float64)
        places = [np.arange(side) * step for side, step in zip(weights.shape, self.spacing_mm)]
        whole = self.pixels(names)
        shares = [weights.sum(axis=_others(self.ndim, axis)) / whole for axis in range(self.ndim)]
        places = [place - share @ place for place, share in zip(places, shares)]
        moments = np.diag([s @ p**2 for s, p in zip(shares, places)] + self.spacing_mm**2 / 12.0)
        for i, j in combinations(range(self.ndim), 2):
            both = weights.sum(axis=_others(self.ndim, i, j)) if self.ndim > 2 else weights
            moments[i, j] = moments[j, i] = places[i] @ both @ places[j] / whole
        return moments

    def wall_profile(self, wall: Names, inner: Names, clearance: float) -> Float64:
        """Thickness of ``wall`` along the border of ``inner``, ascending. Shape: (N,), mm; empty where there is none.

        At each inner pixel that meets the wall: the straight way to the nearest background behind the wall, less
        one pixel step. Left out: pixels nearer than ``clearance`` x size to where inner opens to the background.
        """
        key = (wall, inner, clearance)
        if key not in self._profiles:
            self._profiles[key] = self._wall_profile(wall, inner, clearance)
        return self._profiles[key]

    def _wall_profile(self, wall: Names, inner: Names, clearance: float) -> Float64:
        background = (self.class_names[0],)
        outside = self._points_mm(self.frontier(background, wall).index)
        inside = self._points_mm(_spread(self.frontier(inner, wall).index))
        opening = self._points_mm(_spread(self.frontier(inner, background).index))
        if len(opening) and len(inside):
            near = cdist(inside, opening).min(axis=1)
            inside = inside[near >= clearance * self.size_mm(union(wall, inner))]
        if not len(inside) or not len(outside):
            return np.zeros(0)
        distance, nearest = cKDTree(outside, compact_nodes=False, balanced_tree=False).query(inside)
        steps = np.abs((outside[nearest] - inside) / self.spacing_mm).max(axis=1)
        return np.asarray(np.sort(distance * (1.0 - 1.0 / steps)), np.float64)

    def _points_mm(self, index: Int64) -> Float64:
        """Flat positions of the crop -> pixel centres. Shape: (N,) -> (N, axes), mm."""
        return np.stack(np.unravel_index(index, self.crop.shape), axis=1) * self.spacing_mm


def quantile(ascending: Float64, share: float) -> float:
    """Linearly interpolated quantile of sorted values, as ``np.quantile`` (which takes thirty times as long)."""
    place = share * (len(ascending) - 1)
    below = int(place)
    above = min(below + 1, len(ascending) - 1)
    return float(ascending[below] + (place - below) * (ascending[above] - ascending[below]))


def _spread(index: Int64) -> Int64:
    """At most about WALL_SAMPLES of the positions, spread by the golden ratio.

    A stride would fall in step with the left and right border of a row and see one side only.
    """
    if len(index) <= WALL_SAMPLES:
        return index
    return index[np.arange(len(index)) * 0.6180339887 % 1.0 < WALL_SAMPLES / len(index)]


def union(first: Names, second: Names) -> Names:
    """The classes of either structure, each once, in order."""
    return tuple(dict.fromkeys(first + second))


def piece_sizes(region: Bool) -> Int64:
    """Pixels of each connected piece; pixels that touch by a corner are connected. Shape: (pieces,)."""
    labels, pieces = ndimage.label(region, np.ones((3,) * region.ndim, bool))
    if pieces == 1:
        return np.array([np.count_nonzero(region)])
    return np.asarray(np.bincount(labels.ravel())[1:], np.int64)


def hole_pixels(region: Bool) -> int:
    """Pixels outside the region that no path over faces joins to the first pixel, which has to be outside."""
    labels, pieces = ndimage.label(~region)
    if pieces <= 1:
        return 0
    sizes = np.bincount(labels.ravel())
    return int(sizes[1:].sum() - sizes[labels.flat[0]])


def hull_pixels(region: Bool) -> int:
    """Pixels of a 2-D region's convex hull: those whose centre lies in the hull of the region's pixel centres."""
    rows = np.flatnonzero(region.any(axis=1))
    first = region.argmax(axis=1)[rows]
    last = region.shape[1] - 1 - region[:, ::-1].argmax(axis=1)[rows]
    every = np.arange(rows[0], rows[-1] + 1)
    left = np.ceil(_convex_below(rows, first, every) - 1e-9)
    right = np.floor(-_convex_below(rows, -last, every) + 1e-9)
    return int((right - left + 1).clip(min=0).sum())


def _convex_below(x: Int64, y: Int64, at: Int64) -> Float64:
    """The largest convex function below the points (x, y), x ascending, evaluated at ``at``."""
    for _ in range(
        4
    ):  # most points fall to their own neighbours; the exact stack below sees the few that are left
        rise, run = y[1:] - y[:-1], x[1:] - x[:-1]
        keep = np.ones(len(x), bool)
        keep[1:-1] = rise[:-1] * run[1:] < rise[1:] * run[:-1]
        x, y = x[keep], y[keep]
    hull: list[tuple[int, int]] = []
    for point in zip(x.tolist(), y.tolist()):
        while len(hull) > 1 and _turns_up(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    corners = np.asarray(hull, np.float64)
    return np.asarray(np.interp(at, corners[:, 0], corners[:, 1]), np.float64)


def _turns_up(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> bool:
    """Whether b lies on or above the chord from a to c."""
    return (b[1] - a[1]) * (c[0] - b[0]) >= (c[1] - b[1]) * (b[0] - a[0])


def _others(ndim: int, *axes: int) -> tuple[int, ...]:
    return tuple(axis for axis in range(ndim) if axis not in axes)


def _bounding_box(region: Bool | UInt8) -> tuple[slice, ...]:
    box = []
    for axis in range(region.ndim):
        others = _others(region.ndim, axis)
        found = np.flatnonzero(region.any(axis=others if len(others) > 1 else others[0]))
        side = slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, 0)
        box.append(side)
        region = region[(slice(None),) * axis + (side,)]
    return tuple(box)


def _foreground_crop(labels: UInt8) -> UInt8:
    inner = labels[_bounding_box(labels)]
    crop = np.zeros(tuple(length + 2 for length in inner.shape), labels.dtype)
    crop[(slice(1, -1),) * labels.ndim] = inner
    return crop
