"""Settings of the trust flag."""

from __future__ import annotations

from pydantic import Field, model_validator

from reward_data.types import Config
from rl4seg.configs.augment import DegradeConfig


class TrustConfig(Config):
    """How the threshold is chosen below which a mask's trust flags it: on labelled source images, clean and degraded.

    A policy that has learned on degraded images errs little on them, and a threshold cannot be chosen on one bad mask.
    So the views get worse, strength by strength, until there are enough bad masks. Labels of the target are never used.
    """

    dice_below: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="What is to be found: masks with a mean Dice over classes below this. Null: three quarters of the "
        "mean Dice on the clean images.",
    )
    sensitivity: float = Field(
        default=0.8, gt=0, le=1, description="Share of these masks that the flag has to find."
    )
    confidence: float | None = Field(
        default=0.95,
        gt=0,
        lt=1,
        description="How sure that has to be of bad masks like those that it is chosen on, of which there are few: "
        "probability that no less than the sensitivity is found. Null: that share of those at hand.",
    )
    bad: int = Field(
        default=30,
        ge=1,
        description="Bad masks to choose it on: once there are so many, views are degraded no further.",
    )
    views: int = Field(
        default=8,
        ge=0,
        le=100,
        description="Degraded views of every image at every strength, beside the clean one.",
    )
    strengths: tuple[float, ...] = Field(
        default=(1.0, 1.5, 2.0, 2.5, 3.0, 4.0),
        min_length=1,
        description="How strongly they are degraded, one after the other: factors on the strengths of `degrade`.",
    )
    degrade: DegradeConfig = Field(
        default=DegradeConfig(share=1.0),
        description="How the views are degraded at strength 1; see `rl4seg.degrade`. The default is what the policy "
        "learns on by default.",
    )

    @model_validator(mode="after")
    def _views_get_worse(self) -> TrustConfig:
        if min(self.strengths) <= 0 or list(self.strengths) != sorted(set(self.strengths)):
            raise ValueError(f"strengths {self.strengths}: wanted numbers above 0, each larger than the last")
        return self
