"""Settings of the evaluation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from reward_data.types import Config

Split = Literal["test", "val"]
"""Which held-back images: those that score a result, or those that choose between policies."""


class EvaluationConfig(Config):
    """What is measured."""

    unions: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="Further structures as unions of classes, e.g. epicardium: [lv, myo]; not in the mean Dice.",
    )
    logit_bias: float = Field(
        default=1.0,
        description="The logit-bias baseline: added to every foreground logit of the source policy.",
    )
    montage_cases: int = Field(default=6, ge=0, le=24, description="Cases shown in the report's montages.")


class Decision(Config):
    """How a mask is made of a policy's logits; the defaults are the plain argmax."""

    logit_bias: float = Field(default=0.0, description="Added to every foreground logit.")
    post_process: bool = Field(
        default=False, description="Keep the largest piece of every class and fill holes."
    )


ARGMAX = Decision()
"""The plain argmax."""
