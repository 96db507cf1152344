"""Simulated micrographs of an alloy with exact masks: large blocky and small round precipitates in a matrix.

Grey values of matrix and large precipitates are alike, a bright rim tells them apart: the whole of a precipitate has
to be seen. Small ones are few pixels wide and lie in clusters. Contrast and noise change across an image, so that some
of its patches are easy and others are not: what PaSeR is about.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field, field_validator
from scipy.ndimage import binary_dilation, distance_transform_edt, gaussian_filter

from reward_data.errors import DataError
from reward_data.native import picture_affine
from reward_data.types import Case, Config, Float64, UInt8

CLASSES = ("matrix", "small", "large")
GREY = (0.56, 0.40, 0.47)  # of the classes, in [0, 1]
RIM = 0.14


class MicrographConfig(Config):
    """Which micrographs to simulate."""

    cases: int = Field(default=60, ge=3, description="Number of images; two are one specimen.")
    shape: tuple[int, int] = Field(default=(128, 128), description="Rows and columns in pixels.")
    coverage: float = Field(
        default=0.45, gt=0, lt=0.8, description="Share of the image that large precipitates take."
    )
    clusters: int = Field(default=4, ge=0, description="Clusters of small precipitates.")
    noise: float = Field(default=0.05, ge=0, le=0.5, description="Largest standard deviation of the noise.")
    seed: int = Field(
        default=0, ge=0, description="Seed; every image depends on nothing but it and its number."
    )

    @field_validator("shape")
    @classmethod
    def _shows_precipitates(cls, shape: tuple[int, int]) -> tuple[int, int]:
        if min(shape) < 32:
            raise ValueError(f"shape {shape}: wanted at least 32 pixels along each axis")
        return shape


def micrograph_group(index: int) -> str:
    """Specimen of case ``index``, e.g. ``specimen-0003``."""
    return f"specimen-{index // 2:04d}"


def micrograph(config: MicrographConfig, index: int) -> Case:
    """Simulate case ``index`` (0..cases - 1): image (1, H, W), whole grey values 0..255, and its exact label (H, W).

    Raises: DataError for an index outside the configured number of cases.
    """
    if not 0 <= index < config.cases:
        raise DataError(
            f"micrograph {index}: wanted 0..{config.cases - 1}; raise `cases` or use a smaller index"
        )
    rng = np.random.default_rng([config.seed, 90, index])
    label = _phases(config, rng)
    image = _seen(label, config, rng)
    spacing = (1.0, 1.0)
    return Case(
        id=f"{micrograph_group(index)}_{index % 2}",
        group=micrograph_group(index),
        domain="micrograph",
        split=None,
        image=np.rint(255 * image.clip(0, 1)).astype(np.float32)[None],
        label=label,
        spacing_mm=spacing,
        affine=picture_affine(spacing),
        spacing_known=False,
    )


def _field(shape: tuple[int, int], sigma: float, rng: np.random.Generator) -> Float64:
    """A smooth random field with mean 0 and standard deviation 1."""
    values = gaussian_filter(rng.standard_normal(shape), sigma, mode="reflect")
    result: Float64 = (values - values.mean()) / max(float(values.std()), 1e-12)
    return result


def _phases(config: MicrographConfig, rng: np.random.Generator) -> UInt8:
    """Large precipitates where a smooth field is high; small ones around a few centres, never touching a large one."""
    rows, columns = np.indices(config.shape)
    blocky = _field(config.shape, 0.035 * min(config.shape), rng)
    large = blocky > np.quantile(blocky, 1 - config.coverage)
    room = distance_transform_edt(~large)
    label = np.where(large, 2, 0).astype(np.uint8)
    for _ in range(config.clusters):
        centre = rng.uniform(0, 1, 2) * config.shape
        for _ in range(int(rng.integers(6, 16))):
            row, column = centre + rng.normal(0, 0.08 * min(config.shape), 2)
            radius = rng.uniform(1.5, 2.6)
            place = (int(np.clip(row, 0, config.shape[0] - 1)), int(np.clip(column, 0, config.shape[1] - 1)))
            if room[place] > radius + 2:
                label[np.hypot(rows - row, columns - column) < radius] = 1
    return label


def _seen(label: UInt8, config: MicrographConfig, rng: np.random.Generator) -> Float64:
    """Grey values with rims, a contrast and a noise that change across the image, uneven light, scratches."""
    large = label == 2
    rim = binary_dilation(large, iterations=2) & ~large
    clean = np.choose(label, GREY) + RIM * rim
    wide = 0.25 * min(config.shape)
    contrast = 1 / (1 + np.exp(-1.5 * _field(config.shape, wide, rng) - 0.5))
    grain = config.noise * (1.3 - contrast)
    image = GREY[0] + (0.35 + 0.65 * contrast) * (clean - GREY[0])
    image = gaussian_filter(image, 0.6) + 0.04 * _field(config.shape, wide, rng)
    for _ in range(int(rng.integers(0, 3))):
        image += _scratch(config.shape, rng)
    result: Float64 = image + grain * rng.standard_normal(config.shape)
    return result


def _scratch(shape: tuple[int, int], rng: np.random.Generator) -> Float64:
    """A thin dark or bright line that is nothing."""
    rows, columns = np.indices(shape)
    angle, centre = rng.uniform(0, np.pi), rng.uniform(0, 1, 2) * shape
    distance = (rows - centre[0]) * np.cos(angle) + (columns - centre[1]) * np.sin(angle)
    line: Float64 = rng.choice([-0.08, 0.08]) * np.exp(-0.5 * (distance / 0.7) ** 2)
    return line
