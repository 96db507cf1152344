"""A shape prior: principal components of signed distance maps, fitted on the source's masks.

Masks are moved to a canvas by the centroid and size of their foreground, turned into one signed distance map per
class, projected on the components with coefficients clipped to +-3 standard deviations, and brought back.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from reward_data.errors import DataError
from reward_data.types import Float64, UInt8

CANVAS = 48
FILL = 0.42  # canvas side of the n-th root of the foreground area
LIMIT = 3.0
_ARRAYS = ("mean", "components", "deviations")


@dataclass(frozen=True)
class ShapePrior:
    """``mean`` (F,), ``components`` (M, F) and ``deviations`` (M,) of canvases (K - 1, CANVAS, ...)."""

    mean: Float64
    components: Float64
    deviations: Float64
    num_classes: int
    dims: int

    @classmethod
    def fit(cls, masks: UInt8, num_classes: int, components: int = 60) -> ShapePrior:
        """Fit on masks (N, *S); at most N - 1 components are kept.

        Raises:
            DataError: fewer than two masks have any foreground.
        """
        canvases = [_canvas(mask, num_classes).ravel() for mask in masks if mask.any()]
        if len(canvases) < 2:
            raise DataError(f"a shape prior needs at least 2 masks with foreground, got {len(canvases)}; label more images")
        data = np.stack(canvases)
        mean = data.mean(0)
        _, singular, vectors = np.linalg.svd(data - mean, full_matrices=False)
        keep = min(components, len(data) - 1)
        deviations = singular[:keep] / np.sqrt(len(data) - 1)
        return cls(mean, vectors[:keep], deviations, num_classes, masks.ndim - 1)

    def reconstruct(self, mask: UInt8) -> UInt8:
        """The nearest plausible mask of the same shape; the mean shape in the middle where ``mask`` is empty."""
        canvas = self.mean if not mask.any() else self._project(_canvas(mask, self.num_classes).ravel())
        maps = canvas.reshape(self.num_classes - 1, *(CANVAS,) * self.dims)
        centre, side = _frame(mask)
        position = (np.indices(mask.shape).reshape(self.dims, -1) - centre[:, None]) / side
        position = position * CANVAS + (CANVAS - 1) / 2
        values = np.stack([ndimage.map_coordinates(m, position, order=1, mode="nearest") for m in maps])
        best = np.where(values.max(0) > 0, values.argmax(0) + 1, 0)
        return best.reshape(mask.shape).astype(np.uint8)

    def _project(self, canvas: Float64) -> Float64:
        coefficients = self.components @ (canvas - self.mean)
        limits = LIMIT * self.deviations
        projected: Float64 = self.mean + np.clip(coefficients, -limits, limits) @ self.components
        return projected

    def save(self, path: Path) -> None:
        """Write an .npz whose bytes depend on the contents alone."""
        arrays = {name: getattr(self, name) for name in _ARRAYS} | {"shape": np.array([self.num_classes, self.dims])}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for name, array in arrays.items():
                buffer = io.BytesIO()
                np.lib.format.write_array(buffer, array)
                archive.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> ShapePrior:
        """Read what `save` wrote."""
        with np.load(path) as content:
            arrays = [content[name] for name in _ARRAYS]
            num_classes, dims = (int(v) for v in content["shape"])
        return cls(*arrays, num_classes, dims)


def _frame(mask: UInt8) -> tuple[Float64, float]:
    """Centre (row, column, ...) and side in pixels of the canvas over a mask."""
    if not mask.any():
        return (np.array(mask.shape, np.float64) - 1) / 2, float(min(mask.shape))
    centre = np.array([axis.mean() for axis in np.nonzero(mask)])
    return centre, float(np.count_nonzero(mask)) ** (1 / mask.ndim) / FILL


def _canvas(mask: UInt8, num_classes: int) -> Float64:
    """Signed distance per class on the canvas, in canvas sides (positive inside). Shape: (K - 1, CANVAS, ...)."""
    centre, side = _frame(mask)
    grid = np.indices((CANVAS,) * mask.ndim).reshape(mask.ndim, -1)
    position = (grid - (CANVAS - 1) / 2) / CANVAS * side + centre[:, None]
    maps = []
    for value in range(1, num_classes):
        distance = _signed_distance(mask == value) / side
        maps.append(ndimage.map_coordinates(distance, position, order=1, mode="nearest"))
    return np.stack(maps).reshape(num_classes - 1, *(CANVAS,) * mask.ndim)


def _signed_distance(region: npt.NDArray[np.bool_]) -> Float64:
    if not region.any():
        return np.full(region.shape, -float(max(region.shape)))
    inside, outside = ndimage.distance_transform_edt(region), ndimage.distance_transform_edt(~region)
    signed: Float64 = np.where(region, inside - 0.5, 0.5 - outside)
    return signed
