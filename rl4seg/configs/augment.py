"""Settings of augmentation."""

from __future__ import annotations

from pydantic import Field

from reward_data.types import Config


class AugmentConfig(Config):
    """Random affine and intensity changes; every strength at 0 switches its part off."""

    rotation_degrees: float = Field(
        default=15.0, ge=0, le=180, description="Rotation drawn in +- this (degrees)."
    )
    scale: float = Field(default=0.15, ge=0, lt=1, description="Zoom factor drawn in 1 +- this.")
    shift: float = Field(default=0.08, ge=0, le=1, description="Translation in +- this share of the image.")
    brightness: float = Field(
        default=0.15, ge=0, le=1, description="Added intensity in +- this (images are 0..1)."
    )
    contrast: float = Field(default=0.25, ge=0, lt=1, description="Contrast factor drawn in 1 +- this.")
    gamma: float = Field(default=0.3, ge=0, lt=1, description="Gamma exponent drawn in exp(+- this).")
    noise: float = Field(
        default=0.05, ge=0, le=1, description="Largest standard deviation of Gaussian noise."
    )
