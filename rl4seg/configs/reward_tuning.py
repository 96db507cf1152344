"""Settings of reward tuning: a trained policy tuned on the metric that matters (arXiv 2302.08242)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from reward_data.types import Config
from rl4seg.configs.augment import AugmentConfig

Baseline = Literal["leave_one_out", "greedy", "batch_mean", "none"]
"""What a sampled mask's reward is compared with."""

Estimator = Literal["reinforce", "weighted_ce", "cross_entropy", "dice", "lovasz"]
"""How the policy learns: the first two by reward, the others are rivals in as many steps."""

DecisionRule = Literal["argmax", "expected_dice"]
"""How a mask is made of class probabilities: the most probable class, or the mask of highest expected Dice."""

COMPUTED = "computed"
"""The class weights of the training labels, by the formula of `reward_data.class_statistics`."""


class TaskRewardConfig(Config):
    """What a whole mask earns: a mix of rewards in [0, 1], divided by the sum of their weights."""

    mix: dict[str, float] = Field(
        default={"miou": 1.0},
        min_length=1,
        description="Weight by reward: miou, dice, accuracy, boundary, hausdorff, validity, the name of an entry point "
        "of the group rl4seg.rewards, or one's own as module:function or file.py:function.",
    )
    background: bool = Field(
        default=True, description="Count class 0 in miou and dice; false where it is no structure."
    )
    boundary_tolerance: float = Field(
        default=0.0075,
        ge=0,
        le=0.5,
        description="How far borders may lie apart and still match, share of the image diagonal (Csurka et al. 2013: "
        ".0075), at least one pixel.",
    )
    hausdorff_range: float = Field(
        default=0.25,
        gt=0,
        le=1,
        description="HD95 at which the reward hausdorff is 0, share of the image diagonal.",
    )

    @field_validator("mix")
    @classmethod
    def _weights_are_positive(cls, mix: dict[str, float]) -> dict[str, float]:
        bad = {name: weight for name, weight in mix.items() if not 0 < weight < float("inf")}
        if bad:
            raise ValueError(f"weights must be positive, got {bad}; leave out what should not count")
        return mix


class ReinforceConfig(Config):
    """REINFORCE on sampled masks (Williams 1992; Pinto et al. 2023, arXiv 2302.08242)."""

    samples: int = Field(default=4, ge=1, description="M: masks sampled per image.")
    baseline: Baseline = Field(
        default="leave_one_out",
        description="leave_one_out: mean of the image's other masks (paper); greedy: its argmax mask (self-critical, "
        "arXiv 1612.00563); batch_mean: mean of all other masks of the batch; none.",
    )
    log_prob: Literal["sum", "mean"] = Field(
        default="mean",
        description="log-probability of a mask: the sum over its pixels (the gradient of the expected reward), or "
        "their mean: the same direction, with a size that does not depend on the resolution.",
    )
    noise_mix: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Amplitude of the spatially correlated part of the sampling noise. 0: every pixel by itself, the "
        "unbiased estimator; above, regions change together, and the gradient is no longer exactly that of the "
        "expected reward.",
    )
    noise_length: float = Field(
        default=0.06, gt=0, le=1, description="Its correlation length as a share of the image side."
    )
    cross_entropy: float = Field(
        default=0.0,
        ge=0,
        description="Weight of the cross-entropy with the truth beside it; 0 = reward alone.",
    )

    @model_validator(mode="after")
    def _has_a_comparison(self) -> ReinforceConfig:
        if self.baseline == "leave_one_out" and self.samples < 2:
            raise ValueError(
                "baseline=leave_one_out compares masks of one image: give samples=2 or more, or baseline=greedy"
            )
        return self


class WeightedConfig(Config):
    """Reward-weighted cross-entropy: weight_i = d_i - compare * mean_{j != i} d_j, d = 1 - reward."""

    compare: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Share of the other images' mean deficit that is taken off (.1 published).",
    )
    negative: bool = Field(
        default=True,
        description="Let an image that is much better than the others have a negative weight, as published; false: 0.",
    )


class HeadsConfig(Config):
    """Networks with several outputs of class logits: deep supervision, auxiliary heads."""

    main: str = Field(
        default="",
        description="Name of the output that predicts (its place, for a sequence); empty = the first.",
    )
    weights: dict[str, float] = Field(
        default_factory=dict, description="Weight of the loss by output; those not named: see `others`."
    )
    others: float = Field(
        default=0.4, ge=0, description="Weight of every output that is not the main one and not named."
    )
    auxiliary: Literal["same", "cross_entropy"] = Field(
        default="same", description="What the other outputs learn by: the main one's loss, or cross-entropy."
    )

    @field_validator("weights")
    @classmethod
    def _weights_are_not_negative(cls, weights: dict[str, float]) -> dict[str, float]:
        bad = {name: weight for name, weight in weights.items() if not 0 <= weight < float("inf")}
        if bad:
            raise ValueError(f"weights must be 0 or more, got {bad}")
        return weights


class TuningConfig(Config):
    """How a trained policy is tuned, by reward or by a rival's loss."""

    estimator: Estimator = Field(
        default="reinforce",
        description="reinforce: policy gradient on sampled masks; weighted_ce: cross-entropy weighted by reward; "
        "cross_entropy, dice, lovasz: the rivals.",
    )
    reward: TaskRewardConfig = Field(default=TaskRewardConfig(), description="What a mask earns.")
    reinforce: ReinforceConfig = Field(default=ReinforceConfig(), description="estimator=reinforce.")
    weighted: WeightedConfig = Field(default=WeightedConfig(), description="estimator=weighted_ce.")
    heads: HeadsConfig = Field(default=HeadsConfig(), description="Networks with several outputs.")
    class_weights: tuple[float, ...] | str | None = Field(
        default=None,
        description="Cross-entropy weight per class, class 0 first: a list, a YAML or JSON file as of rl4seg data "
        "class-stats, or `computed` from the training labels; null = equal.",
    )
    class_smooth: float = Field(
        default=0.1,
        ge=0,
        description="smooth in 1 / (pixels of a class + smooth x all pixels), for `computed`.",
    )
    ignore_index: int | None = Field(
        default=None, description="Label value whose pixels count nowhere; null = all count."
    )
    loss_weight: float = Field(default=1.0, gt=0, description="Factor on the loss.")
    reduction: Literal["mean", "sum"] = Field(
        default="mean", description="Cross-entropy of an image: mean or sum over its pixels that count."
    )
    steps: int = Field(default=300, ge=1, description="Optimiser steps.")
    batch_size: int = Field(default=8, ge=1, description="Images per step.")
    learning_rate: float = Field(default=1e-4, gt=0, le=1, description="Adam, constant.")
    grad_norm: float = Field(default=1.0, gt=0, description="Largest gradient norm.")
    augment: AugmentConfig | None = Field(default=AugmentConfig(), description="Augmentation; null = none.")
    validate_every: int = Field(
        default=25, ge=0, description="Steps between validations (metrics.csv); 0 = at the end only."
    )
    checkpoint_seconds: float = Field(
        default=20.0, ge=0, description="Time between checkpoints; 0 = every step."
    )

    @field_validator("class_weights")
    @classmethod
    def _weights_can_be_used(cls, weights: tuple[float, ...] | str | None) -> tuple[float, ...] | str | None:
        if isinstance(weights, tuple) and not (all(0 <= w < float("inf") for w in weights) and any(weights)):
            raise ValueError(f"got {weights}, wanted weights of 0 or more, one of them above 0")
        return weights

    @model_validator(mode="after")
    def _batch_has_a_comparison(self) -> TuningConfig:
        alone = self.batch_size * self.reinforce.samples < 2
        if self.estimator == "reinforce" and self.reinforce.baseline == "batch_mean" and alone:
            raise ValueError(
                "reinforce.baseline=batch_mean with one mask per step compares it with nothing: give a larger "
                "batch_size or reinforce.samples"
            )
        return self


class TuningEvaluationConfig(Config):
    """What is measured of a tuned policy."""

    reward: TaskRewardConfig = Field(
        default=TaskRewardConfig(),
        description="The reward of the table; its settings are those of the measures.",
    )
    ignore_index: int | None = Field(
        default=None, description="Label value whose pixels count nowhere; null = all count."
    )
