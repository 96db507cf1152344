"""Settings of the comparison of uncertainty measures."""

from __future__ import annotations

from pydantic import Field

from reward_data.types import Config
from rl4seg.configs.augment import AugmentConfig

MILD = AugmentConfig(
    rotation_degrees=10, scale=0.1, shift=0.05, brightness=0.1, contrast=0.2, gamma=0.2, noise=0.03
)


class UncertaintyConfig(Config):
    """How the trust in a policy's masks is measured."""

    bins: int = Field(
        default=20, ge=2, le=1000, description="Equal-width bins of ECE, ACE and MCE over [0, 1]."
    )
    dice_below: float = Field(
        default=0.8, gt=0, lt=1, description="An image is bad if its mean Dice over classes is below this."
    )
    augmentation_draws: int = Field(
        default=8,
        ge=0,
        le=256,
        description="Test-time augmentations beside the plain image; 0 = leave it out.",
    )
    augmentation: AugmentConfig = Field(
        default=MILD,
        description="What test-time augmentation draws. No flips: left and right mean something in the body.",
    )
    dropout_passes: int = Field(
        default=10, ge=0, le=1000, description="Passes with dropout on at test time; 0 = leave it out."
    )
    dropout_rate: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="Rate of the dropout put in after the activations of a network trained without dropout; one "
        "trained with dropout keeps its own layers and rate.",
    )
    bootstrap_draws: int = Field(
        default=1000, ge=100, le=100_000, description="Resamplings of the patients for the 95 % intervals."
    )
    shown_cases: int = Field(default=6, ge=0, le=24, description="Worst cases shown on the page.")
