"""The run config of PatchDrop's segmentation twin, and what of it can be known to be wrong beforehand."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from flows.config_base import SeedsRunConfig, located
from flows.labelled_data import check_labelled
from reward_data.errors import ConfigError
from reward_data.preprocess import PreprocessConfig
from reward_data.readers import DatasetConfig
from rl4seg.configs.network import NetworkConfig
from rl4seg.configs.patchdrop import DropWindowsConfig, KeepNetConfig, KeepTrainingConfig
from rl4seg.configs.supervised import SupervisedConfig


class PatchDropWindowsConfig(SeedsRunConfig):
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

    @model_validator(mode="after")
    def _shift_has_no_use(self) -> Self:
        if self.policy_training.shift:
            raise ValueError("policy_training.shift: windows do not move; leave it at 0")
        return self

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
    check_labelled(config.dataset, 2, "the policy learns from images that the networks have not seen")
