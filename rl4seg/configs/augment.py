"""Settings of augmentation."""

from __future__ import annotations

from pydantic import Field

from reward_data.types import Config


class DegradeConfig(Config):
    """Degradation: what a worse acquisition does to an image. Every strength at 0 switches its part off."""

    share: float = Field(default=0.7, ge=0, le=1, description="Share of the images that are degraded.")
    attenuation: float = Field(
        default=2.0,
        ge=0,
        le=10,
        description="Largest exponent of a smooth loss of intensity, exp(-this x field in [0, 1]).",
    )
    occlusion: float = Field(
        default=1.0, ge=0, le=1, description="Largest share of the intensity lost in dark patches."
    )
    blur: float = Field(
        default=0.02,
        ge=0,
        le=0.2,
        description="Largest standard deviation of a Gaussian blur, share of the image side.",
    )
    speckle: float = Field(
        default=0.45, ge=0, le=2, description="Largest standard deviation of multiplicative grain."
    )
    haze: float = Field(
        default=0.08, ge=0, le=1, description="Largest standard deviation of added, one-sided grain."
    )
    gamma: float = Field(default=0.4, ge=0, lt=2, description="Gamma exponent drawn in exp(+- this).")
    dimming: float = Field(
        default=0.4, ge=0, lt=1, description="Intensity factor drawn in 1 - this .. 1 + half of this."
    )
    veil: float = Field(default=0.1, ge=0, le=1, description="Largest intensity added everywhere.")


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
    degrade: DegradeConfig | None = Field(default=None, description="Degradation after these; null = none.")
