"""Labelled images whose label stands in one patch: the embedded default of PatchDrop, and its test bed.

One patch of a grid is brighter than the rest, which a low-resolution image shows. What the patch is, one of four
fine patterns with a mean that is the same for all, only the high-resolution image shows. So a policy that looks at the
low resolution can know where to look, and nobody can know the label without looking.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field, model_validator

from reward_data.types import Config, Float32, Int64, UInt8

CLASSES = ("rows", "columns", "checks", "diagonals")


class PlantedConfig(Config):
    """Images of noise with one brighter patch, and in it one of four fine patterns."""

    images: int = Field(default=1200, ge=8, description="How many images.")
    size: tuple[int, int] = Field(default=(32, 32), description="Rows and columns of an image, pixels.")
    grid: tuple[int, int] = Field(default=(4, 4), description="Patches along rows and columns.")
    contrast: float = Field(
        default=0.3, gt=0, le=0.4, description="Amplitude of the pattern (images are 0..1)."
    )
    noise: float = Field(default=0.05, ge=0, le=0.3, description="Standard deviation of the noise.")
    test_fraction: float = Field(default=0.3, gt=0, lt=1, description="Share of the images for testing.")
    seed: int = Field(default=0, ge=0, description="Seed of the images.")

    @model_validator(mode="after")
    def _grid_divides(self) -> PlantedConfig:
        if any(size % cells or size // cells < 4 for size, cells in zip(self.size, self.grid)):
            raise ValueError(
                f"grid {self.grid} must cut the size {self.size} into equal patches of at least 4 pixels a side"
            )
        return self


def pattern(label: int, shape: tuple[int, int]) -> Float32:
    """A pattern of +-1 with a period of 2 pixels (diagonals: 4) and a mean of 0 in every 4 x 4. Shape: (h, w)."""
    row, column = np.indices(shape)
    phase = (row, column, row + column, (row + column) // 2)[label]
    return np.where(phase % 2 == 0, 1.0, -1.0).astype(np.float32)


def planted_images(config: PlantedConfig) -> tuple[UInt8, Int64, Int64]:
    """Grey images (N, 1, H, W), labels (N) and the patch (N), row by row, that each label stands in."""
    rng = np.random.default_rng([config.seed, 71])
    rows, columns = (size // cells for size, cells in zip(config.size, config.grid))
    labels = rng.integers(0, len(CLASSES), config.images)
    patches = rng.integers(0, config.grid[0] * config.grid[1], config.images)
    images = 0.3 + config.noise * rng.standard_normal((config.images, *config.size))
    for image, label, patch in zip(images, labels, patches):
        top, left = patch // config.grid[1] * rows, patch % config.grid[1] * columns
        region = image[top : top + rows, left : left + columns]
        region += 0.3 + config.contrast * pattern(int(label), (rows, columns))
    values: UInt8 = np.rint(images.clip(0, 1) * 255).astype(np.uint8)[:, None]
    return values, labels.astype(np.int64), patches.astype(np.int64)
