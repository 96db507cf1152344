"""Settings of PaSeR: which networks there are, how patches are routed to them, and how all of it learns."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from reward_data.types import Config
from rl4seg.configs.augment import AugmentConfig
from rl4seg.configs.network import NetworkConfig
from rl4seg.configs.reward_tuning import Baseline

CostKind = Literal["parameters", "macs", "latency"]
"""What a network costs: its parameters, its multiply-adds on one patch, or its measured time on one patch."""

Gain = Literal["patch_iou", "image_iou"]
"""What a patch gains: IoU inside the patch (published), or its share of the change of the whole image's IoU."""

PolicyInput = Literal["answer", "entropy", "image"]
"""What the policy reads of the image: the smallest net's classes, its uncertainty (both published), the image."""

TINY = NetworkConfig(name="unet", features=(12, 16, 24), fold=2, norm="batch", dropout=0.1)
MEDIUM = NetworkConfig(name="basic_unet", features=(16, 16, 32, 64, 64, 16), fold=2, norm="batch")
LARGE = NetworkConfig(name="basic_unet", features=(32, 32, 64, 128, 256, 32), fold=1, norm="batch")


class DistillationConfig(Config):
    """How smaller nets learn from the largest one beside the truth."""

    kind: Literal["kl", "mse", "none"] = Field(
        default="kl",
        description="kl: between softened class probabilities; mse: between logits; none: truth alone.",
    )
    temperature: float = Field(default=2.0, gt=0, description="Both nets' logits are divided by it (kl).")
    into: Literal["smallest", "all"] = Field(
        default="smallest",
        description="Which nets learn from the largest one: the smallest (published), or all.",
    )
    weight: float = Field(
        default=0.5, ge=0, le=1, description="Share of the distillation in the loss; the rest is the truth's."
    )


class MemberConfig(Config):
    """One of the networks, and its training."""

    name: str = Field(min_length=1, description="Name in tables and pictures.")
    network: NetworkConfig = Field(description="The network.")
    steps: int = Field(default=400, ge=1, description="Optimiser steps of its pretraining.")
    learning_rate: float = Field(
        default=3e-3, gt=0, le=1, description="AdamW, peak of the one-cycle schedule."
    )


FAMILY = (
    MemberConfig(name="tiny", network=TINY),
    MemberConfig(name="medium", network=MEDIUM),
    MemberConfig(name="large", network=LARGE, learning_rate=1e-3),
)


class PretrainingConfig(Config):
    """What the pretraining of all networks has in common."""

    batch_size: int = Field(default=16, ge=2, description="Random crops of the size of a patch per step.")
    weight_decay: float = Field(default=1e-2, ge=0, description="AdamW weight decay.")
    dice_weight: float = Field(
        default=1.0, ge=0, description="Weight of soft Dice beside cross-entropy; 0 = CE alone, as published."
    )
    grad_norm: float = Field(default=1.0, gt=0, description="Largest gradient norm.")
    augment: AugmentConfig | None = Field(default=AugmentConfig(), description="Augmentation; null = none.")
    distillation: DistillationConfig = Field(
        default=DistillationConfig(), description="Of the largest net into the smallest."
    )
    checkpoint_seconds: float = Field(
        default=20.0, ge=0, description="Time between checkpoints; 0 = every step."
    )


class RoutingConfig(Config):
    """Patches, the uncertainty of the smallest net, and what the policy reads."""

    grid: tuple[int, ...] = Field(
        default=(4, 4), min_length=1, max_length=3, description="Patches per axis; need not divide the image."
    )
    margin: int = Field(
        default=0,
        ge=0,
        le=256,
        description="Pixels around its patch that a larger net sees beside it (and pays for).",
    )
    passes: int = Field(
        default=8,
        ge=0,
        le=256,
        description="Monte-Carlo dropout passes behind the entropy; 0: the entropy of the one plain pass, for nothing.",
    )
    inputs: tuple[PolicyInput, ...] = Field(
        default=("answer", "entropy", "image"),
        min_length=1,
        description="What the policy reads; answer and entropy alone are as published.",
    )
    resolution: int = Field(
        default=8,
        ge=1,
        le=64,
        description="The policy reads means over a grid of so many cells per patch and axis.",
    )
    width: int = Field(default=24, ge=1, le=512, description="Channels of the policy network.")

    @field_validator("grid")
    @classmethod
    def _has_patches(cls, grid: tuple[int, ...]) -> tuple[int, ...]:
        if min(grid) < 1:
            raise ValueError(f"got {grid}, wanted one patch at least along every axis")
        return grid


class RoutingRewardConfig(Config):
    """R = (1 - lambda) (IoU of the chosen net - IoU of the smallest) - lambda cost, per patch."""

    lambda_cost: float = Field(default=0.5, ge=0, le=1, description="lambda: weight of the cost.")
    cost: CostKind = Field(
        default="parameters",
        description="What a net costs, as its share of the sum over all nets: parameters (published), macs of one "
        "patch, or latency of one patch on this device. The smallest is free: it always runs.",
    )
    gain: Gain = Field(
        default="patch_iou",
        description="patch_iou: IoU inside the patch (published). image_iou: what the patch adds to the IoU of the "
        "whole image, times the number of patches.",
    )
    class_weights: tuple[float, ...] | None = Field(
        default=None, description="Weight of every class in the IoU, class 0 first; null = equal."
    )

    @field_validator("class_weights")
    @classmethod
    def _weights_can_be_used(cls, weights: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if weights is not None and not (all(0 <= w < float("inf") for w in weights) and any(weights)):
            raise ValueError(f"got {weights}, wanted weights of 0 or more, one of them above 0")
        return weights


class ExplorationConfig(Config):
    """With probability 1 - alpha a whole batch is routed at random; alpha grows linearly."""

    start: float = Field(default=0.7, ge=0, le=1, description="alpha at the first step.")
    end: float = Field(default=0.95, ge=0, le=1, description="alpha at the last step.")
    importance: bool = Field(
        default=True,
        description="Weight random actions by pi(a) N, which keeps the gradient unbiased; false: as published.",
    )

    def alpha(self, step: int, steps: int) -> float:
        """alpha of a step, 0-based."""
        return self.start + (self.end - self.start) * step / max(1, steps - 1)


class PolicyTrainingConfig(Config):
    """REINFORCE on the patches' choices."""

    steps: int = Field(
        default=3000, ge=1, description="Optimiser steps; the nets are frozen, so they are quick."
    )
    batch_size: int = Field(default=8, ge=1, description="Images per step.")
    samples: int = Field(default=4, ge=1, description="Sampled choices per patch and step.")
    baseline: Baseline = Field(
        default="leave_one_out", description="What a choice's reward is compared with; none = as published."
    )
    entropy_bonus: float = Field(
        default=0.01,
        ge=0,
        description="tau: weight of the policy's entropy. At the optimum log pi = R / tau + constant: the larger, the "
        "more the policy knows of choices that it does not make, which `--budget` lives on.",
    )
    entropy_start: float = Field(
        default=0.3,
        gt=0,
        description="tau at the first step, from where it falls geometrically to entropy_bonus (not below 1e-4) "
        "halfway. A policy that is sure too early takes the net that is best on average for every patch and stays "
        "with it.",
    )
    exploration: ExplorationConfig = Field(
        default=ExplorationConfig(), description="Whole-batch exploration."
    )
    learning_rate: float = Field(default=3e-3, gt=0, le=1, description="Adam, cosine to 0.")
    weight_decay: float = Field(default=1e-4, ge=0, description="Decoupled weight decay.")
    grad_norm: float = Field(default=1.0, gt=0, description="Largest gradient norm.")
    views: int = Field(
        default=8, ge=1, le=64, description="Versions of every image: itself, and augmented ones beside it."
    )
    augment: AugmentConfig | None = Field(
        default=AugmentConfig(), description="Of the further views; null = none."
    )
    checkpoint_seconds: float = Field(
        default=20.0, ge=0, description="Time between checkpoints; 0 = every step."
    )

    def entropy_weight(self, step: int) -> float:
        """tau of a step, 0-based."""
        end = max(self.entropy_bonus, 1e-4)
        start = max(self.entropy_start, end)
        return float(start * (end / start) ** min(1.0, 2 * step / self.steps))

    @model_validator(mode="after")
    def _has_a_comparison(self) -> PolicyTrainingConfig:
        if self.baseline == "leave_one_out" and self.samples < 2:
            raise ValueError("baseline=leave_one_out compares choices for one patch: give samples=2 or more")
        return self


class FinetuningConfig(Config):
    """Nets and policy in turn: a step of each net on the patches routed to it, then a step of the policy."""

    steps: int = Field(default=100, ge=0, description="Rounds; 0 = none.")
    batch_size: int = Field(default=4, ge=1, description="Images per round.")
    samples: int = Field(default=4, ge=2, description="Sampled choices per patch and round.")
    exploration: ExplorationConfig = Field(
        default=ExplorationConfig(start=0.95, end=1.0), description="As in the training of the policy."
    )
    dice_weight: float = Field(
        default=1.0,
        ge=0,
        description="Weight of soft Dice beside the nets' cross-entropy: as in their pretraining, or what they have "
        "learned there is lost; 0 = CE alone, as published.",
    )
    net_learning_rate: float = Field(default=1e-4, gt=0, le=1, description="Adam, of the nets.")
    policy_learning_rate: float = Field(default=1e-4, gt=0, le=1, description="Adam, of the policy.")
    checkpoint_seconds: float = Field(
        default=20.0, ge=0, description="Time between checkpoints; 0 = every step."
    )


class SharesConfig(Config):
    """How the training groups are divided among the stages."""

    pretraining: float = Field(
        default=1 / 3, gt=0, description="Share of the groups that the nets learn from."
    )
    policy: float = Field(default=1 / 3, gt=0, description="Share for the policy.")
    finetuning: float = Field(default=1 / 3, gt=0, description="Share for the finetuning.")
    together: bool = Field(
        default=False,
        description="All stages see all groups: for few images; the policy then sees nets that know them.",
    )


class PaserEvaluationConfig(Config):
    """What is measured at the end."""

    budget: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Where the policy stands in the table: the share of the largest net's GFLOP, all overhead "
        "included, that a patch may cost on calibration images.",
    )
    points: int = Field(default=24, ge=2, le=200, description="Points of every curve.")
    random_draws: int = Field(default=50, ge=1, description="Draws of the random routing.")
    repeats: int = Field(default=7, ge=1, le=1000, description="Timings of every method; the median counts.")
