"""What anatomical rules measure: one mask, cut to its foreground, with every shared measurement taken once.

Lengths and areas are physical (mm, mm2; mm3 in 3-D) and taken on pixel faces, so they do not depend on the
resolution; a share of two of them has no unit. Structures are named by class, or by several classes in union.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError, cKDTree

from reward_data.errors import DataError
from reward_data.types import Bool, Float64, Int64, UInt8

Names = tuple[str, ...]


@dataclass(frozen=True)
class Frontier:
    """The pixels of one region that share a face with another region.

    ``pixels`` Shape: (*S) of the padded crop. ``index`` Shape: (N,), their flat positions. ``lengths`` Shape: (N,),
    mm in 2-D and mm2 in 3-D: a pixel with faces along two axes counts with the diagonal, so that slanted borders
    are measured right at every resolution.
    """

    pixels: Bool
    index: Int64
    lengths: Float64

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
            values = [self.class_names.index(name) for name in names]
            region = self.crop == values[0]
            for value in values[1:]:
                region |= self.crop == value
            self._regions[names] = region
        return self._regions[names]

    def pixels(self, names: Names) -> int:
        """Number of pixels of a structure."""
        if names not in self._pixels:
            self._pixels[names] = int(np.count_nonzero(self.region(names)))
        return self._pixels[names]

    def missing(self, *structures: Names) -> bool:
        """Whether any of the structures has no pixel."""
        return any(self.pixels(names) == 0 for names in structures)

    def area(self, names: Names) -> float:
        """Area in mm2 (volume in mm3 in 3-D)."""
        return self.pixels(names) * self.pixel_area

    def size_mm(self, names: Names) -> float:
        """The length that a structure's thresholds scale with: sqrt(area), the cube root of a volume. mm."""
        return float(self.area(names) ** (1.0 / self.ndim))

    def box(self, names: Names) -> tuple[slice, ...]:
        """Bounding box of a structure that is present, in the padded crop."""
        if names not in self._boxes:
            self._boxes[names] = _bounding_box(self.region(names))
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
        faces = []
        for axis in range(self.ndim):
            before, after = _neighbours(self.ndim, axis)
            face = np.zeros(region.shape, bool)
            face[before] = region[before] & other[after]
            face[after] |= region[after] & other[before]
            faces.append(face)
        pixels = np.logical_or.reduce(faces)
        index = np.flatnonzero(pixels)
        squares = sum((face.ravel()[index] * area**2 for face, area in zip(faces, self.face_areas)), np.zeros(1))
        return Frontier(pixels, index, np.sqrt(squares))

    def wall_profile(self, wall: Names, inner: Names, clearance: float) -> Float64:
        """Thickness of ``wall`` along the border of ``inner``. Shape: (N,), mm; empty where there is none.

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
        inside = self._points_mm(self.frontier(inner, wall).index)
        opening = self._points_mm(self.frontier(inner, background).index)
        if len(opening) and len(inside):
            near, _ = cKDTree(opening).query(inside)
            inside = inside[near >= clearance * self.size_mm(union(wall, inner))]
        if not len(inside) or not len(outside):
            return np.zeros(0)
        distance, nearest = cKDTree(outside).query(inside)
        steps = np.abs((outside[nearest] - inside) / self.spacing_mm).max(axis=1)
        return np.asarray(distance * (1.0 - 1.0 / steps), np.float64)

    def _points_mm(self, index: Int64) -> Float64:
        """Flat positions of the crop -> pixel centres. Shape: (N,) -> (N, axes), mm."""
        return np.stack(np.unravel_index(index, self.crop.shape), axis=1) * self.spacing_mm


def union(first: Names, second: Names) -> Names:
    """The classes of either structure, each once, in order."""
    return tuple(dict.fromkeys(first + second))


def piece_sizes(region: Bool) -> Int64:
    """Pixels of each connected piece; pixels that touch by a corner are connected. Shape: (pieces,)."""
    labels, _ = ndimage.label(region, np.ones((3,) * region.ndim, bool))
    return np.asarray(np.bincount(labels.ravel())[1:], np.int64)


def hole_pixels(region: Bool) -> int:
    """Pixels outside the region that no path over faces joins to the outside (the crop's first pixel)."""
    labels, pieces = ndimage.label(~region)
    if pieces <= 1:
        return 0
    sizes = np.bincount(labels.ravel())
    return int(sizes[1:].sum() - sizes[labels.flat[0]])


def hull_pixels(region: Bool) -> int:
    """Pixels of a 2-D region's convex hull: lattice points in the hull of the pixel centres.

    Pick's theorem: points = area + boundary points / 2 + 1, where a hull edge (a, b) holds gcd(a, b) of them.
    """
    rows = np.flatnonzero(region.any(axis=1))
    first, last = region[rows].argmax(axis=1), region.shape[1] - 1 - region[rows, ::-1].argmax(axis=1)
    if len(rows) == 1:
        return int(last[0] - first[0] + 1)
    ends = np.stack([np.concatenate([rows, rows[::-1]]), np.concatenate([first, last[::-1]])], axis=1)
    try:
        hull = ends[ConvexHull(ends).vertices]
    except QhullError:  # all on one line
        hull = ends[[0, len(rows) - 1]]
    ahead = np.roll(hull, -1, axis=0)
    twice_area = abs(int((hull[:, 0] * ahead[:, 1] - hull[:, 1] * ahead[:, 0]).sum()))
    boundary = int(np.gcd(*np.abs(ahead - hull).T).sum())
    return (twice_area + boundary) // 2 + 1


def gap_pixels(region: Bool, other: Bool, axis: int, reach: int) -> int:
    """Background pixels on rays along ``axis``, both ways, from region to other, at most ``reach`` long."""
    total = 0
    for direction in (slice(None), slice(None, None, -1)):
        a = np.moveaxis(region, axis, 0)[direction]
        b = np.moveaxis(other, axis, 0)[direction]
        open_ = ~(a | b)
        start = np.nonzero(a[:-1] & open_[1:])
        ahead = start[0][:, None] + np.arange(1, reach + 2)
        inside = ahead < len(a)
        where = (np.minimum(ahead, len(a) - 1), *(c[:, None] for c in start[1:]))
        background = open_[where] & inside
        length = np.argmin(background, axis=1)
        hit = np.take_along_axis(b[where] & inside, length[:, None], axis=1)[:, 0]
        total += int(length[hit & ~background.all(axis=1)].sum())
    return total


def _neighbours(ndim: int, axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    whole = [slice(None)] * ndim
    before, after = list(whole), list(whole)
    before[axis], after[axis] = slice(None, -1), slice(1, None)
    return tuple(before), tuple(after)


def _bounding_box(region: Bool | UInt8) -> tuple[slice, ...]:
    box = []
    for axis in range(region.ndim):
        others = tuple(other for other in range(region.ndim) if other != axis)
        found = np.flatnonzero(region.any(axis=others))
        box.append(slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, 0))
    return tuple(box)


def _foreground_crop(labels: UInt8) -> UInt8:
    inner = labels[_bounding_box(labels)]
    crop = np.zeros(tuple(length + 2 for length in inner.shape), labels.dtype)
    crop[(slice(1, -1),) * labels.ndim] = inner
    return crop
