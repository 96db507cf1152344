"""Settings of using a finished policy; the defaults are one plain pass per image."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from reward_data.types import Config
from rl4seg.configs.augment import AugmentConfig
from rl4seg.configs.ppo import PPOConfig, RewardConfig

MILD = AugmentConfig(
    rotation_degrees=0, scale=0.05, shift=0.03, brightness=0.05, contrast=0.1, gamma=0.15, noise=0.02
)
CAREFUL = PPOConfig(
    batch_size=1,
    samples=8,
    updates=3,
    anchor_weight=0.0,
    source_replay=0,
    act_degrade=None,
    anchor_augment=None,
    accepted_images="judged",
    divergence=1.0,
    reward=RewardConfig(verdict=2.0, learned=1.0),
)
"""Held near the policy given: with one image alone, PPO soon learns to please the reward net instead."""


class AugmentedConfig(Config):
    """Test-time augmentation: the mean over an image and slightly changed copies, brought back."""

    draws: int = Field(
        default=0,
        ge=0,
        le=256,
        description="Changed copies beside the image itself; 0 = off. A mean is less sure than one pass: trust falls, "
        "and the flag, which was chosen without, marks more.",
    )
    changes: AugmentConfig = Field(
        default=MILD,
        description="What is changed. No flips and no rotation: sides and axes mean something in the body.",
    )


class OptimisedConfig(Config):
    """Test-time optimisation: a few rounds of PPO on one image, by a copy of the policy that is thrown away."""

    rounds: int = Field(default=0, ge=0, le=100, description="Rounds of PPO per image; 0 = off.")
    when: Literal["invalid", "flagged", "either"] = Field(
        default="invalid",
        description="Which images: those whose mask breaks a rule, those that the trust flag marks, or both.",
    )
    ppo: PPOConfig = Field(
        default=CAREFUL,
        description="The rounds. Nothing but image, policy, reward net and rules is at hand: what concerns epochs, "
        "batches, anchor, replay and a critic is not read.",
    )


class WindowConfig(Config):
    """Images larger than the shape that the network was trained at."""

    mode: Literal["none", "auto", "sliding"] = Field(
        default="auto",
        description="none: every image is laid whole on the network's grid; one that has more pixels there is refused. "
        "auto: windows slide over an image that does not fit, which happens only to a model with a fixed pixel size "
        "(preprocess.spacing_mm); all others shrink images to fit. sliding: always, at that pixel size or, for a model "
        "without one, at `scale`.",
    )
    scale: float = Field(
        default=1.0,
        gt=0,
        le=16,
        description="Network pixels per native pixel (mode=sliding, a model without a fixed pixel size). The network "
        "finds structures of the size that it was trained on: choose the scale that gives them this size.",
    )
    overlap: float = Field(
        default=0.25, ge=0, lt=1, description="Share of a window that its neighbour sees too."
    )


class PredictConfig(Config):
    """How masks are made of images."""

    augmented: AugmentedConfig = Field(default=AugmentedConfig(), description="Test-time augmentation.")
    optimised: OptimisedConfig = Field(default=OptimisedConfig(), description="Test-time optimisation.")
    window: WindowConfig = Field(default=WindowConfig(), description="Large images.")
    post_process: bool = Field(
        default=False, description="Keep the largest piece of every class and fill holes."
    )
    budget: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Of a PaSeR model: the share of the largest net's GFLOP that an image may cost; null: as trained.",
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="Of both test-time methods.")
