"""What shapes a mask may have: principal components of signed distance maps, fitted on the source masks.

A mask is moved to a small canvas by the centre and the size of its foreground, so that position and scale of the
target domain do not matter. There each class (background too) becomes a signed distance map; the maps of all masks
give a mean and principal components. A mask's reconstruction is its projection on them, with every coefficient held
within a few standard deviations (active shape models, Cootes et al. 1995; distance maps, Leventon et al. 2000).
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from reward_data.atomic import atomic_file
from reward_data.errors import ArtifactError, DataError
from reward_data.types import Bool, Float32, Float64, UInt8

CANVAS = {2: 64, 3: 24}  # cells per axis, by the number of axes
WINDOW = 2.8  # side of the canvas, in units of the foreground's size (n-th root of its pixel count)
REACH = 0.125  # distances are cut off at this share of the canvas: far away, they say nothing about the shape
LIMIT = 3.0  # largest coefficient, in standard deviations


@dataclass(frozen=True)
class ShapePrior:
    """Mean and components of signed distance maps. D = K x cells of the canvas.

    ``mean`` Shape: (D,). ``components`` Shape: (P, D), orthonormal rows. ``deviations`` Shape: (P,), standard deviation
    of each coefficient. ``size``: mean foreground size as a share of the grid's size, for a mask without foreground.
    """

    num_classes: int
    dimensions: int
    mean: Float32
    components: Float32
    deviations: Float32
    size: float

    @classmethod
    def fit(cls, masks: UInt8, num_classes: int, components: int = 60) -> ShapePrior:
        """Fit on masks, Shape: (N, *S), class values; at most N - 1 of ``components`` are kept.

        Raises:
            DataError: fewer than two masks have any foreground.
        """
        usable = [mask for mask in masks if mask.any()]
        if len(usable) < 2:
            raise DataError(
                f"shape prior: {len(usable)} of {len(masks)} masks have any foreground, wanted at least 2; "
                "give more labelled source masks or check the label map"
            )
        maps = np.stack([_distances(mask, num_classes, _placed(mask)).ravel() for mask in usable])
        mean = maps.mean(0)
        rows, variances = _principal(maps - mean, components)
        return cls(
            num_classes=num_classes,
            dimensions=usable[0].ndim,
            mean=mean.astype(np.float32),
            components=rows.astype(np.float32),
            deviations=np.sqrt(variances).astype(np.float32),
            size=float(np.mean([_size(mask > 0) / mask.size ** (1 / mask.ndim) for mask in usable])),
        )

    def reconstruct(self, mask: UInt8) -> UInt8:
        """The nearest mask the prior can express, at the place and size of ``mask``. Shape: (*S) -> (*S).

        A mask without foreground gives the mean shape at the centre of the grid.

        Raises:
            DataError: the mask has another number of axes than those of the fit.
        """
        if mask.ndim != self.dimensions:
            raise DataError(
                f"shape prior of {self.dimensions} axes got a mask of shape {mask.shape}; fit one on such masks"
            )
        if not mask.any():
            place = _Place((np.array(mask.shape) - 1) / 2, self.size * mask.size ** (1 / mask.ndim))
            return _labels(self._maps(self.mean), mask.shape, place)
        place = _placed(mask)
        offset = _distances(mask, self.num_classes, place).ravel() - self.mean
        coefficients = self.components @ offset
        held = np.clip(coefficients, -LIMIT * self.deviations, LIMIT * self.deviations)
        return _labels(self._maps(self.mean + held @ self.components), mask.shape, place)

    def _maps(self, flat: Float32 | Float64) -> Float32 | Float64:
        return flat.reshape(self.num_classes, *[CANVAS[self.dimensions]] * self.dimensions)

    def save(self, path: Path) -> None:
        """Write an .npz file, whole or not at all; equal priors give equal bytes."""
        arrays: dict[str, npt.NDArray[Any]] = {
            "num_classes": np.array(self.num_classes),
            "dimensions": np.array(self.dimensions),
            "mean": self.mean,
            "components": self.components,
            "deviations": self.deviations,
            "size": np.array(self.size),
        }
        with atomic_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for name, array in arrays.items():
                content = io.BytesIO()
                np.save(content, array, allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue())  # dated 1980-01-01

    @classmethod
    def load(cls, path: Path) -> ShapePrior:
        """Read what ``save`` wrote.

        Raises:
            ArtifactError: the file is missing, broken or no shape prior.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls(
                    num_classes=int(arrays["num_classes"]),
                    dimensions=int(arrays["dimensions"]),
                    mean=arrays["mean"],
                    components=arrays["components"],
                    deviations=arrays["deviations"],
                    size=float(arrays["size"]),
                )
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise ArtifactError(f"{path}: no readable shape prior ({error}); fit it again") from error


@dataclass(frozen=True)
class _Place:
    """Where a shape lies on its grid: ``centre`` (one per axis) and ``size``, both in pixels."""

    centre: Float64
    size: float


def _size(foreground: Bool) -> float:
    return float(np.count_nonzero(foreground) ** (1 / foreground.ndim))


def _placed(mask: UInt8) -> _Place:
    return _Place(np.array([axis.mean() for axis in np.nonzero(mask)]), _size(mask > 0))


def _distances(mask: UInt8, num_classes: int, place: _Place) -> Float32:
    """Signed distance to the border of every class, positive inside, in canvas cells. Shape: (K, canvas...)."""
    cells = CANVAS[mask.ndim]
    cell = WINDOW * place.size / cells
    reach = REACH * cells
    step = max(1, int(cell / 2))  # a fine grid is thinned to two pixels per cell
    half = cell * (cells - 1) / 2
    margin = cell * reach + 2 * step
    window = tuple(
        slice(max(int(c - half - margin), 0), int(c + half + margin) + 1, step) for c in place.centre
    )
    near = mask[window]
    weights = [
        _linear((np.linspace(c - half, c + half, cells) - w.start) / step, size)
        for c, w, size in zip(place.centre, window, near.shape, strict=True)
    ]
    maps = [_signed_distance(near == value) * (step / cell) for value in range(num_classes)]
    return np.stack([_resampled(np.clip(one, -reach, reach), weights) for one in maps]).astype(np.float32)


def _signed_distance(region: Bool) -> Float64:
    """In pixels, to the border halfway between two pixels; infinite where there is no border."""
    if region.all() or not region.any():
        return np.full(region.shape, np.inf if region.any() else -np.inf)
    inside, outside = ndimage.distance_transform_edt(region), ndimage.distance_transform_edt(~region)
    signed: Float64 = np.where(region, inside - 0.5, 0.5 - outside)
    return signed


def _labels(maps: Float32 | Float64, shape: tuple[int, ...], place: _Place) -> UInt8:
    """The class of the largest distance, on a grid of ``shape``; background off the canvas."""
    cells = maps.shape[1]
    cell = WINDOW * place.size / cells
    axes = [(np.arange(s) - c) / cell + (cells - 1) / 2 for s, c in zip(shape, place.centre, strict=True)]
    spans = [np.flatnonzero((axis >= 0) & (axis <= cells - 1)) for axis in axes]
    weights = [_linear(axis[span], cells) for axis, span in zip(axes, spans, strict=True)]
    labels = np.zeros(shape, np.uint8)
    labels[np.ix_(*spans)] = np.stack([_resampled(one, weights) for one in maps]).argmax(0)
    return labels


def _linear(positions: Float64, size: int) -> Float64:
    """Weights of linear interpolation along an axis; beyond its ends, the end's value. Shape: (n, size)."""
    held = np.clip(positions, 0, size - 1)
    weights: Float64 = np.maximum(0.0, 1 - np.abs(held[:, None] - np.arange(size)))
    return weights


def _resampled(array: Float64 | Float32, weights: list[Float64]) -> Float64:
    """An array interpolated along each of its axes."""
    out = np.asarray(array, np.float64)
    for axis, matrix in enumerate(weights):
        out = np.moveaxis(np.tensordot(matrix, out, (1, axis)), 0, axis)
    return out


def _principal(centred: Float64 | Float32, count: int) -> tuple[Float64, Float64]:
    """The first principal components (rows) and their variances, through the small N x N matrix.

    The sign of a component is free; here its entry of largest magnitude is positive.
    """
    centred = centred.astype(np.float64)
    values, vectors = np.linalg.eigh(centred @ centred.T)
    order = np.argsort(values)[::-1][: min(count, len(centred) - 1)]
    order = order[values[order] > 1e-10 * max(values.max(), 1e-30)]
    rows = (vectors[:, order] / np.sqrt(values[order])).T @ centred
    signs = np.sign(rows[np.arange(len(rows)), np.abs(rows).argmax(1)])
    return rows * signs[:, None], values[order] / (len(centred) - 1)
