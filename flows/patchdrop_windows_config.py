"""The run config of PatchDrop's segmentation twin, and what of it can be known to be wrong beforehand."""

from __future__ import annotations

from typing import Self

from pydantic import Field, field_validator, model_validator

from flows.config_base import RunConfig, different_seeds, listed, located
from reward_data.errors import ConfigError, DataError
from reward_data.preprocess import PreprocessConfig
from reward_data.readers import DatasetConfig, is_phantom, list_cases
from rl4seg.configs.network import NetworkConfig
from rl4seg.configs.patchdrop import DropWindowsConfig, KeepNetConfig, KeepTrainingConfig
from rl4seg.configs.supervised import SupervisedConfig


class PatchDropWindowsConfig(RunConfig):
    """PatchDrop for segmentation: which windows of a large image to see at full resolution."""

    pipeline: str = Field(default="patchdrop-windows", description="Which pipeline the config is for.")
    dataset: DatasetConfig = Field(description="Large labelled images with a validation or a test split.")
    preprocess: PreprocessConfig = Field(
        description="From native images to the full-resolution grid; all images get the size `shape`."
    )
    windows: DropWindowsConfig = Field(default=DropWindowsConfig(), description="The windows.")
    coarse_network: NetworkConfig = Field(
        default=NetworkConfig(), description="The network that sees the whole image at low resolution."
    )
    fine_network: NetworkConfig = Field(
        default=NetworkConfig(), description="The network that sees windows at full resolution."
    )
    policy: KeepNetConfig = Field(default=KeepNetConfig(head="grid"), description="The policy.")
    coarse_training: SupervisedConfig = Field(
        default=SupervisedConfig(steps=300, batch_size=4), description="Training of the coarse network."
    )
    fine_training: SupervisedConfig = Field(
        default=SupervisedConfig(steps=300), description="Training of the fine network."
    )
    policy_training: KeepTrainingConfig = Field(
        default=KeepTrainingConfig(steps=600, batch_size=16, samples=8, penalty=-10, learning_rate=3e-3),
        description="Training of the policy; flip: every image along each of its axes as well; shift has no use.",
    )
    seeds: tuple[int, ...] = Field(
        default=(), description="Seeds of a study, each with its own training; empty = `seed` alone."
    )

    _from_text = field_validator("seeds", mode="before")(listed)
    _are_different = field_validator("seeds")(different_seeds)

    @model_validator(mode="after")
    def _shift_has_no_use(self) -> Self:
        if self.policy_training.shift:
            raise ValueError("policy_training.shift: windows do not move; leave it at 0")
        return self

    def all_seeds(self) -> tuple[int, ...]:
        """The seeds that run."""
        return self.seeds or (self.seed,)

    def seeds_used(self) -> dict[str, int]:
        """What seeds.json says."""
        return {f"seed-{seed}": seed for seed in self.seeds} or {"seed": self.seed}

    def located(self) -> Self:
        """The same run for a process elsewhere: inputs by absolute path."""
        return self.model_copy(
            update={"dataset": self.dataset.model_copy(update={"path": located(self.dataset.path)})}
        )


def check(config: PatchDropWindowsConfig) -> None:
    """Refuse a run that cannot work, with one message.

    Raises:
        ConfigError: a grid that does not divide the image, a low resolution that is none, a margin without pixels.
        DataError: a dataset that is missing or empty, or without labels to train and to measure with.
    """
    from rl4seg.patchdrop.grid import patch_shape

    shape, windows = tuple(config.preprocess.shape), config.windows
    cell = patch_shape(shape, windows.grid, "windows.grid")
    if len(windows.coarse_shape) != len(shape) or any(a > b for a, b in zip(windows.coarse_shape, shape)):
        raise ConfigError(
            f"windows.coarse_shape={list(windows.coarse_shape)} does not fit images of {list(shape)}; give one entry "
            "per axis, none larger"
        )
    if windows.margin >= min(shape):
        raise ConfigError(
            f"windows.margin={windows.margin} with cells of {list(cell)}: mirrored borders need a margin smaller than "
            "the image"
        )
    _check_labels(config.dataset)


def _check_labels(dataset: DatasetConfig) -> None:
    if is_phantom(dataset):
        return
    if dataset.path is None:
        raise ConfigError("dataset.path is not set; give a folder or a CSV manifest: dataset.path=FOLDER")
    labelled = [files for files in list_cases(dataset) if files.label is not None]
    training = {files.group for files in labelled if files.split == "train"}
    if len(training) < 2:
        raise DataError(
            f"{dataset.path}: {len(training)} group(s) of labelled training images, wanted two at least: the policy "
            "learns from images that the networks have not seen"
        )
    if not any(files.split in ("val", "test") for files in labelled):
        raise DataError(
            f"{dataset.path}: no labelled validation or test image; set dataset.validation_fraction or "
            "dataset.test_fraction"
        )
