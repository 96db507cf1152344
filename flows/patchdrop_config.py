"""The run config of PatchDrop, and what of it can be known to be wrong before anything is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from flows.config_base import SeedsRunConfig, listed, located
from reward_data.errors import ConfigError
from reward_data.labelled_images import LabelledImagesConfig, list_images
from reward_data.types import Config
from rl4seg.configs.patchdrop import (
    ClassifierTrainingConfig,
    KeepNetConfig,
    KeepTrainingConfig,
    LatencyConfig,
    ResNetConfig,
)


class NetworksConfig(Config):
    """The three networks."""

    high: ResNetConfig = Field(
        default=ResNetConfig(patch_stages=1), description="Classifier of high-resolution patches."
    )
    low: ResNetConfig = Field(default=ResNetConfig(), description="Classifier of the low-resolution image.")
    policy: KeepNetConfig = Field(default=KeepNetConfig(), description="The policy.")

    @model_validator(mode="after")
    def _low_is_whole(self) -> NetworksConfig:
        if self.low.patch_stages or self.policy.network.patch_stages:
            raise ValueError("patch_stages is for networks.high; the others always see their whole image")
        return self


class CheckpointsConfig(Config):
    """Networks that are not trained but loaded: safetensors files, or folders of earlier runs that hold them."""

    high: str | None = Field(default=None, description="The high-resolution classifier.")
    low: str | None = Field(default=None, description="The low-resolution classifier.")
    policy: str | None = Field(default=None, description="The policy that pretraining starts from.")


class RivalsConfig(Config):
    """What the policy is compared with, at equal patches."""

    random: bool = Field(default=True, description="As many patches at random.")
    centre: bool = Field(default=True, description="As many patches nearest to the centre.")
    frequent: bool = Field(default=True, description="As many of those that the policy keeps most often.")
    trained: bool = Field(
        default=True,
        description="Give the classifier of random and centre the same fine-tuning on their own patches; false: they "
        "are compared with Pt only.",
    )


class PatchDropConfig(SeedsRunConfig):
    """PatchDrop: learn which patches to see at high resolution."""

    pipeline: str = Field(default="patchdrop", description="Which pipeline the config is for.")
    images: LabelledImagesConfig = Field(description="Images with one label each.")
    grid: tuple[PositiveInt, ...] = Field(default=(4, 4), min_length=1, description="Patches per axis.")
    low_size: tuple[PositiveInt, ...] = Field(
        default=(8, 8), min_length=1, description="Pixels of the low-resolution image."
    )
    networks: NetworksConfig = Field(default=NetworksConfig(), description="The networks.")
    checkpoints: CheckpointsConfig = Field(default=CheckpointsConfig(), description="Networks to load.")
    high_training: ClassifierTrainingConfig = Field(
        default=ClassifierTrainingConfig(), description="Training of the high-resolution classifier."
    )
    low_training: ClassifierTrainingConfig = Field(
        default=ClassifierTrainingConfig(), description="Training of the low-resolution classifier."
    )
    pretraining: KeepTrainingConfig = Field(
        default=KeepTrainingConfig(), description="Pt: the policy alone, classifiers frozen."
    )
    finetuning: KeepTrainingConfig | None = Field(
        default=KeepTrainingConfig(epochs=10, learning_rate=1e-4, classifier_rate=1e-4, penalty=-10),
        description="Ft-1: the policy with the high-resolution classifier; null = not done.",
    )
    two_streams: KeepTrainingConfig | None = Field(
        default=KeepTrainingConfig(epochs=10, learning_rate=1e-4, classifier_rate=1e-4, penalty=-10),
        description="Ft-2: from Ft-1 on, with the frozen low-resolution classifier's logits added; null = not done.",
    )
    rivals: RivalsConfig = Field(default=RivalsConfig(), description="What it is compared with.")
    latency: LatencyConfig | None = Field(
        default=LatencyConfig(), description="Measure times per image; null = not done."
    )
    _lists = field_validator("grid", "low_size", mode="before")(listed)

    @model_validator(mode="after")
    def _stages_follow(self) -> Self:
        if self.two_streams is not None and self.finetuning is None:
            raise ValueError("two_streams goes on from finetuning: give finetuning too, or two_streams=null")
        if len(self.low_size) != len(self.grid):
            raise ValueError(f"low_size {self.low_size} and grid {self.grid} must have one entry per axis")
        return self

    def located(self) -> Self:
        """The same run for a process elsewhere: inputs by absolute path."""
        paths = {"train": located(self.images.train), "test": located(self.images.test)}
        files = {name: located(path) for name, path in self.checkpoints.model_dump().items()}
        return self.model_copy(
            update={
                "images": self.images.model_copy(update=paths),
                "checkpoints": CheckpointsConfig.model_validate(files),
            }
        )


def checkpoint_file(path: str, part: str) -> Path:
    """The safetensors file that a checkpoint means: itself, or the part's file in a folder.

    Raises:
        ConfigError: there is none.
    """
    given = Path(path)
    file = given / f"{part}.safetensors" if given.is_dir() else given
    if not file.is_file():
        raise ConfigError(
            f"checkpoints.{part}={path}: no such file; give a safetensors file, or a folder with {part}.safetensors"
        )
    return file


def check(config: PatchDropConfig) -> None:
    """Refuse a run that cannot work, with one message.

    Raises:
        ConfigError: a checkpoint that does not exist, a grid or networks that do not fit the images.
        DataError: images that are missing, or a listing that cannot be used.
    """
    from rl4seg.patchdrop.grid import patch_shape
    from rl4seg.patchdrop.networks import check_fits

    for part, path in config.checkpoints.model_dump().items():
        if path is not None:
            checkpoint_file(path, part)
    listing = list_images(config.images)
    shape = next(iter(listing.decoded(config.images.size))).shape[1:]
    patch_shape(shape, config.grid)
    if any(low > high for low, high in zip(config.low_size, shape)):
        raise ConfigError(
            f"low_size={list(config.low_size)} is larger than the images of {' x '.join(map(str, shape))} pixels; "
            "give a smaller one"
        )
    check_fits(config.networks.high, config.grid, shape, "networks.high")
