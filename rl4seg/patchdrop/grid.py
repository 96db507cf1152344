"""Images as grids of patches. Notation: P patches, row by row; grid (G_1, .., G_n) with P their product.

Works for any number of spatial axes; patch p of a keep map (B, P) is the p-th in row-major order.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from reward_data.errors import ConfigError


def patch_shape(shape: tuple[int, ...], grid: tuple[int, ...], where: str = "grid") -> tuple[int, ...]:
    """Pixels of one patch.

    Raises:
        ConfigError: the grid has another number of axes, or does not divide the image.
    """
    fits = len(shape) == len(grid) and all(size % cells == 0 for size, cells in zip(shape, grid))
    if not fits:
        raise ConfigError(
            f"{where}={list(grid)} does not divide an image of {' x '.join(map(str, shape))} pixels into equal "
            "patches; choose another grid or resize the images"
        )
    return tuple(size // cells for size, cells in zip(shape, grid))


def patch_count(grid: tuple[int, ...]) -> int:
    """P."""
    return math.prod(grid)


def keep_pixels(keep: Tensor, grid: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    """Every patch's flag at each of its pixels. Shape: (B, P) -> (B, 1, *S) float."""
    cells = keep.reshape(len(keep), 1, *grid).float()
    return functional.interpolate(cells, size=shape, mode="nearest")


def split_patches(images: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Shape: (B, C, *S) -> (B, P, C, *S / grid)."""
    batch, channels, *shape = images.shape
    dims, patch = len(grid), patch_shape(tuple(shape), grid)
    parts = [value for pair in zip(grid, patch) for value in pair]
    order = [0, *(2 + 2 * d for d in range(dims)), 1, *(3 + 2 * d for d in range(dims))]
    return images.reshape(batch, channels, *parts).permute(order).reshape(batch, -1, channels, *patch)


def join_patches(patches: Tensor, grid: tuple[int, ...]) -> Tensor:
    """The inverse of `split_patches`. Shape: (B, P, C, *s) -> (B, C, *s * grid)."""
    batch, _, channels, *patch = patches.shape
    dims = len(grid)
    order = [0, 1 + dims, *(axis for d in range(dims) for axis in (1 + d, 2 + dims + d))]
    shape = [size * cells for size, cells in zip(patch, grid)]
    return patches.reshape(batch, *grid, channels, *patch).permute(order).reshape(batch, channels, *shape)


def lowered(images: Tensor, size: tuple[int, ...]) -> Tensor:
    """The image at low resolution: means over its pixels. Shape: (B, C, *S) -> (B, C, *size)."""
    return functional.interpolate(images, size=size, mode="area")


def from_centre(grid: tuple[int, ...]) -> Tensor:
    """Patches in the order of their distance to the centre of the image; equal ones row by row. Shape: (P) int64."""
    axes = [(torch.arange(cells) + 0.5) / cells - 0.5 for cells in grid]
    squares = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).flatten()
    return torch.tensor(sorted(range(len(squares)), key=lambda p: (round(float(squares[p]), 9), p)))


def first_of(order: Tensor, counts: Tensor) -> Tensor:
    """Keep the first ``counts`` patches of an order. Shape: order (P) or (B, P), counts (B) -> (B, P) bool."""
    order = order.expand(len(counts), -1)
    place = torch.argsort(order, dim=1)
    return place < counts[:, None]
