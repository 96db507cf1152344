"""Settings of the stop rule and of the collapse alarm."""

from __future__ import annotations

from pydantic import Field, model_validator

from reward_data.types import Config


class AlarmBounds(Config):
    """Beyond any of these a policy has collapsed. Differences are against the policy that the loop was given.

    Chosen on two seeds of `tests.benchmarks.stop_rule`, away from all sound iterations there (KL to .12, areas within
    15 %, agreement from .87, validity never below the given policy's); on two others all 8 collapses were caught, none
    late, without a false alarm in 6 sound runs.
    """

    validity_drop: float = Field(default=0.2, ge=0, le=1, description="Largest fall of the validity.")
    validity_share: float = Field(
        default=0.25, ge=0, le=1, description="Smallest validity, as a share of the given policy's."
    )
    reward_drop: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Largest fall of the mean reward, all judged by one reward net.",
    )
    kl: float = Field(default=0.3, gt=0, description="Largest mean KL per pixel, nats.")
    area_drift: float = Field(
        default=0.4,
        gt=0,
        description="Largest |log ratio| of a class's area; .4 is a third less or half more.",
    )
    agreement: float = Field(
        default=0.8, ge=0, le=1, description="Smallest mean Dice with the given policy's valid masks."
    )
    entropy_share: float = Field(
        default=0.1, ge=0, lt=1, description="Smallest entropy, as a share of the given policy's."
    )


class StopConfig(Config):
    """Which iteration is handed out, and when the loop stops because the policy collapses. No labels are needed.

    Candidates are the policy given and every iteration within `kl`, `area_drift` and `agreement`; of those the one with
    the highest score, validity + `reward_weight` x mean reward, is handed out.
    """

    enabled: bool = Field(
        default=True, description="False: all iterations are run and the last one is handed out, unjudged."
    )
    alarm: AlarmBounds = Field(default=AlarmBounds(), description="When the loop stops.")
    kl: float = Field(default=0.15, gt=0, description="Largest mean KL of a candidate, nats per pixel.")
    area_drift: float = Field(
        default=0.25, gt=0, description="Largest |log ratio| of a class's area of a candidate."
    )
    agreement: float = Field(
        default=0.85,
        ge=0,
        le=1,
        description="Smallest mean Dice of a candidate with the given policy's valid masks.",
    )
    reward_weight: float = Field(
        default=0.0,
        ge=0,
        description="Weight of the mean reward beside the validity; 0: on the phantom it hardly moves (by .001).",
    )

    @model_validator(mode="after")
    def _the_alarm_is_wider(self) -> StopConfig:
        for name in ("kl", "area_drift"):
            own, bound = getattr(self, name), getattr(self.alarm, name)
            if own > bound:
                raise ValueError(f"{name} {own} is above alarm.{name} {bound}: give a smaller one")
        if self.agreement < self.alarm.agreement:
            raise ValueError(
                f"agreement {self.agreement} is below alarm.agreement {self.alarm.agreement}: give a larger one"
            )
        return self
