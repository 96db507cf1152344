"""One case on its native grid -> arrays on the network grid, and the record of how to go back.

The steps, in order: intensity to [0, 1] per channel -> resize (aspect kept or not) -> CLAHE -> centre padding with 0.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, model_validator
from skimage.exposure import equalize_adapthist

from reward_data.errors import DataError
from reward_data.geometry import (
    Geometry,
    labels_to_grid,
    pad_to_grid,
    resize_linear,
    restore,
    restore_probabilities,
)
from reward_data.types import Case, Config, Float32, UInt8

__all__ = ["PreprocessConfig", "plan_geometry", "preprocess", "restore", "restore_probabilities"]


class PreprocessConfig(Config):
    """How a case is laid on the network grid and scaled."""

    shape: tuple[int, ...] = Field(
        default=(64, 64),
        min_length=2,
        max_length=3,
        description="Network grid in pixels, (H, W) or (H, W, D).",
    )
    spacing_mm: tuple[float, ...] | None = Field(
        default=None,
        description="Resample to this pixel size (mm, one per axis), then centre-pad to `shape`; "
        "a case larger than that is refused. None: resize to fit `shape` as `aspect` says.",
    )
    aspect: Literal["physical", "pixels", "stretch"] = Field(
        default="physical",
        description="physical: grid pixels are square in mm, the rest is padding; pixels: the native pixel grid keeps "
        "its aspect; stretch: fill the grid. Not used when spacing_mm is given.",
    )
    intensity: Literal["minmax", "percentile", "divide_255", "none_clip01"] = Field(
        default="minmax",
        description="To [0, 1], per image and channel: its minimum and maximum, its percentiles 1 and 99, "
        "division by 255 (values outside 0..255 are refused), or only clipping.",
    )
    clahe_clip: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Clip limit of contrast-limited adaptive histogram equalisation; None: off. RL4Seg uses 0.01.",
    )
    dtype: Literal["uint8", "float16", "float32"] = Field(
        default="uint8",
        description="How the case store keeps images: uint8 (steps of 1/255), float16, or float32 (as they are).",
    )

    @model_validator(mode="after")
    def _grid_is_sound(self) -> PreprocessConfig:
        if min(self.shape) < 1:
            raise ValueError(f"shape {self.shape} must be positive")
        if self.spacing_mm is not None:
            if len(self.spacing_mm) != len(self.shape):
                raise ValueError(f"spacing_mm has {len(self.spacing_mm)} entries, shape {len(self.shape)}")
            if min(self.spacing_mm) <= 0:
                raise ValueError(f"spacing_mm {self.spacing_mm} must be positive")
        return self


def preprocess(case: Case, config: PreprocessConfig) -> tuple[Float32, UInt8 | None, Geometry]:
    """Image (C, *shape) in [0, 1], label (*shape) or None, and the way back.

    Raises: DataError when the case cannot be laid on the grid or its values do not fit ``intensity``.
    """
    geometry = plan_geometry(case, config)
    scaled = np.stack([_scale(channel, config, case.id) for channel in case.image])
    resized = resize_linear(scaled, geometry.resized_shape)
    if config.clahe_clip is not None:
        resized = np.stack([_equalize(channel, config.clahe_clip) for channel in resized])
    image: Float32 = pad_to_grid(resized, geometry)
    label = None if case.label is None else labels_to_grid(case.label, geometry)
    return image, label, geometry


def plan_geometry(case: Case, config: PreprocessConfig) -> Geometry:
    """Where the case's pixels go on the network grid; raises DataError when they cannot."""
    native = case.image.shape[1:]
    if len(native) != len(config.shape):
        raise DataError(
            f"case {case.id!r} has {len(native)} spatial axes {native}, but the network grid preprocess.shape="
            f"{config.shape} has {len(config.shape)}; give preprocess.shape one entry per axis of the images"
        )
    resized = _resized_shape(case, config)
    return Geometry(
        native_shape=native,
        native_spacing_mm=case.spacing_mm,
        affine=tuple(tuple(float(value) for value in row) for row in case.affine),
        resized_shape=resized,
        pad_before=tuple((grid - size) // 2 for grid, size in zip(config.shape, resized)),
        shape=config.shape,
    )


def _resized_shape(case: Case, config: PreprocessConfig) -> tuple[int, ...]:
    native = np.array(case.image.shape[1:], dtype=np.float64)
    grid = np.array(config.shape, dtype=np.float64)
    if config.spacing_mm is not None:
        return _resampled_shape(case, config, config.spacing_mm)
    if config.aspect == "stretch":
        return config.shape
    size = native * np.array(case.spacing_mm) if config.aspect == "physical" else native
    resized = np.rint(size * (grid / size).min()).clip(1, grid)
    return tuple(int(pixels) for pixels in resized)


def _resampled_shape(case: Case, config: PreprocessConfig, spacing_mm: tuple[float, ...]) -> tuple[int, ...]:
    if not case.spacing_known:
        raise DataError(
            f"case {case.id!r} has no known pixel size, but preprocess.spacing_mm={spacing_mm} asks to resample to mm; "
            "give the dataset's spacing_mm, or leave preprocess.spacing_mm empty and use aspect=pixels"
        )
    extent = np.array(case.image.shape[1:]) * np.array(case.spacing_mm)
    resized = tuple(int(pixels) for pixels in np.rint(extent / np.array(spacing_mm)).clip(1))
    if any(size > grid for size, grid in zip(resized, config.shape)):
        raise DataError(
            f"case {case.id!r} takes {resized} pixels at {spacing_mm} mm, but the network grid has {config.shape}; "
            "enlarge preprocess.shape or preprocess.spacing_mm"
        )
    return resized


def _scale(channel: Float32, config: PreprocessConfig, case_id: str) -> Float32:
    """Native intensities of one channel to [0, 1]; a constant channel becomes 0 where its range is asked for."""
    low, high = 0.0, 1.0
    if config.intensity == "minmax":
        low, high = float(channel.min()), float(channel.max())
    elif config.intensity == "percentile":
        low, high = (float(value) for value in np.percentile(channel, (1, 99)))
    elif config.intensity == "divide_255":
        low, high = 0.0, 255.0
        if channel.min() < low or channel.max() > high:
            raise DataError(
                f"case {case_id!r} has intensities {channel.min():g}..{channel.max():g}, but intensity=divide_255 "
                "wants 0..255; use intensity=minmax or percentile"
            )
    if high <= low:
        return np.zeros_like(channel)
    scaled: Float32 = ((channel - low) / (high - low)).clip(0.0, 1.0).astype(np.float32)
    return scaled


def _equalize(channel: Float32, clip_limit: float) -> Float32:
    """CLAHE of one channel in [0, 1]; a constant channel has nothing to equalise."""
    if channel.min() == channel.max():
        return channel
    equalized: Float32 = equalize_adapthist(channel, clip_limit=clip_limit).astype(np.float32)
    return equalized
