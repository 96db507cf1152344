"""Settings of a network."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from reward_data.types import Config


class NetworkConfig(Config):
    """A segmentation network."""

    name: Literal["basic_unet", "unet", "dynunet", "segresnet"] = Field(
        default="basic_unet",
        description="MONAI network: BasicUNet, UNet, DynUNet (nnU-Net-like) or SegResNet.",
    )
    features: tuple[int, ...] = Field(
        default=(16, 24, 32, 48, 48, 16),
        min_length=2,
        description="Channels per level. basic_unet takes six (five levels and the last up-convolution); "
        "segresnet uses the first only.",
    )
    fold: int = Field(
        default=2,
        ge=1,
        le=8,
        description="Space-to-depth factor: fold x fold pixels become channels before the network and pixels "
        "again after it. 2 is about four times as quick as 1 at nearly equal Dice.",
    )
    norm: Literal["instance", "batch", "group"] = Field(
        default="instance",
        description="Normalisation. instance and group keep no running statistics that could go stale.",
    )
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0, description="Dropout probability during training.")
    residual_units: int = Field(default=0, ge=0, le=4, description="Residual units per level (unet only).")

    @model_validator(mode="after")
    def _six_features(self) -> NetworkConfig:
        if self.name == "basic_unet" and len(self.features) != 6:
            raise ValueError(f"basic_unet takes 6 features, got {len(self.features)}: {self.features}")
        return self
