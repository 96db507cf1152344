"""Settings of the evaluation."""

from __future__ import annotations

from pydantic import Field

from reward_data.types import Config


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
