"""The run config of PaSeR, and what of it can be known to be wrong before anything is imported."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from flows.config_base import SeedsRunConfig, located
from flows.labelled_data import check_labelled
from reward_data.class_statistics import check_weights
from reward_data.preprocess import PreprocessConfig
from reward_data.readers import DatasetConfig
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


class PaserConfig(SeedsRunConfig):
    """PaSeR: a policy that spends large networks only on the patches where they pay."""

    pipeline: str = Field(default="paser", description="Which pipeline the config is for.")
    dataset: DatasetConfig = Field(description="Labelled images with a validation or a test split.")
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

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if len(self.nets) < 2:
            raise ValueError(
                f"nets: got {len(self.nets)}, wanted two or more to choose from, the smallest first"
            )
        names = [net.name for net in self.nets]
        if len(set(names)) < len(names):
            raise ValueError(f"nets: the names {names} must differ")
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
        return self.dataset.labels.names

    def located(self) -> Self:
        """The same run for a process elsewhere: inputs by absolute path."""
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
    check_labelled(
        config.dataset,
        1 if config.shares.together else 3,
        "nets, policy and finetuning learn from groups of their own; give labels beside more images, or set "
        "shares.together=true",
    )
