"""The run config of PaSeR, and what of it can be known to be wrong before anything is imported."""

from __future__ import annotations

from typing import Self

from pydantic import Field, field_validator, model_validator

from flows.config_base import RunConfig, different_seeds, listed, located
from reward_data.class_statistics import check_weights
from reward_data.errors import ConfigError, DataError
from reward_data.phantom_micrographs import CLASSES, MicrographConfig
from reward_data.preprocess import PreprocessConfig
from reward_data.readers import DatasetConfig, is_phantom, list_cases
from rl4seg.configs.paser import (
    FAMILY,
    FinetuningConfig,
    MemberConfig,
    PaserEvaluationConfig,
    PolicyTrainingConfig,
    PretrainingConfig,
    RoutingConfig,
    RoutingRewardConfig,
    SharesConfig,
)


class PaserConfig(RunConfig):
    """PaSeR: a policy that spends large networks only on the patches where they pay."""

    pipeline: str = Field(default="paser", description="Which pipeline the config is for.")
    dataset: DatasetConfig | None = Field(
        default=None, description="Labelled images with a validation or a test split; null: micrographs."
    )
    micrographs: MicrographConfig | None = Field(
        default=None, description="Simulated micrographs instead of a dataset."
    )
    preprocess: PreprocessConfig = Field(description="From native images to the networks' grid.")
    nets: tuple[MemberConfig, ...] = Field(
        default=FAMILY, description="Two networks or more, the smallest first."
    )
    class_weights: tuple[float, ...] | None = Field(
        default=None,
        description="Cross-entropy weight per class when nets are trained, class 0 first; null = equal.",
    )
    pretraining: PretrainingConfig = Field(
        default=PretrainingConfig(), description="The training of the nets."
    )
    routing: RoutingConfig = Field(
        default=RoutingConfig(), description="Patches, uncertainty, what the policy reads."
    )
    reward: RoutingRewardConfig = Field(
        default=RoutingRewardConfig(), description="What a choice earns and costs."
    )
    policy: PolicyTrainingConfig = Field(
        default=PolicyTrainingConfig(), description="The training of the policy."
    )
    finetuning: FinetuningConfig = Field(default=FinetuningConfig(), description="Nets and policy in turn.")
    shares: SharesConfig = Field(default=SharesConfig(), description="Which stage learns from which groups.")
    evaluation: PaserEvaluationConfig = Field(
        default=PaserEvaluationConfig(), description="What is measured."
    )
    seeds: tuple[int, ...] = Field(
        default=(), description="Seeds of a study, each with its own trainings; empty = `seed` alone."
    )

    _from_text = field_validator("seeds", mode="before")(listed)
    _are_different = field_validator("seeds")(different_seeds)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if len(self.nets) < 2:
            raise ValueError(
                f"nets: got {len(self.nets)}, wanted two or more to choose from, the smallest first"
            )
        names = [net.name for net in self.nets]
        if len(set(names)) < len(names):
            raise ValueError(f"nets: the names {names} must differ")
        if (self.dataset is None) == (self.micrographs is None):
            raise ValueError("give either dataset or micrographs, the one or the other")
        if self.routing.passes and self.nets[0].network.dropout == 0:
            raise ValueError(
                f"routing.passes={self.routing.passes} needs dropout in the smallest net: set nets.0.network.dropout, "
                "or routing.passes=0 for the entropy of one plain pass"
            )
        sizes = (len(self.routing.grid), len(self.preprocess.shape))
        small = any(size < count for size, count in zip(self.preprocess.shape, self.routing.grid))
        if sizes[0] != sizes[1] or small:
            raise ValueError(
                f"routing.grid={self.routing.grid} does not fit images of preprocess.shape={self.preprocess.shape}: "
                "one number of patches per axis, and a pixel per patch at least"
            )
        return self

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names, class 0 first."""
        return CLASSES if self.dataset is None else self.dataset.labels.names

    def all_seeds(self) -> tuple[int, ...]:
        """The seeds that run."""
        return self.seeds or (self.seed,)

    def seeds_used(self) -> dict[str, int]:
        """What seeds.json says."""
        return {f"seed-{seed}": seed for seed in self.seeds} or {"seed": self.seed}

    def located(self) -> Self:
        """The same run for a process elsewhere: inputs by absolute path."""
        if self.dataset is None:
            return self
        return self.model_copy(
            update={"dataset": self.dataset.model_copy(update={"path": located(self.dataset.path)})}
        )


def check(config: PaserConfig) -> None:
    """Refuse a run that cannot work, with one message.

    Raises:
        ConfigError: class weights that do not fit the classes, a dataset without a path.
        DataError: a dataset that is missing or empty, without held-out labels, or with too few groups for the stages.
    """
    for weights in (config.class_weights, config.reward.class_weights):
        if weights is not None:
            check_weights(weights, config.class_names)
    if config.dataset is not None:
        _check_dataset(config.dataset, config.shares)


def _check_dataset(dataset: DatasetConfig, shares: SharesConfig) -> None:
    if is_phantom(dataset):
        return
    if dataset.path is None:
        raise ConfigError("dataset.path is not set; give a folder or a CSV manifest: dataset.path=FOLDER")
    labelled = [files for files in list_cases(dataset) if files.label is not None]
    groups = {files.group for files in labelled if files.split == "train"}
    wanted = 1 if shares.together else 3
    if len(groups) < wanted:
        raise DataError(
            f"{dataset.path}: {len(groups)} labelled training group(s), wanted {wanted} or more: nets, policy and "
            "finetuning learn from groups of their own; give labels beside more images, or set shares.together=true"
        )
    if not any(files.split in ("val", "test") for files in labelled):
        raise DataError(
            f"{dataset.path}: no labelled validation or test image; set dataset.validation_fraction or "
            "dataset.test_fraction"
        )
