"""Settings of the trust flag."""

from __future__ import annotations

from pydantic import Field

from reward_data.types import Config
from rl4seg.configs.augment import DegradeConfig

WORSE = DegradeConfig(
    share=1.0, attenuation=3.0, blur=0.03, speckle=0.68, haze=0.12, gamma=0.6, dimming=0.6, veil=0.15
)
"""Half as strong again as what the policy learns on: a policy that has learned errs little on that."""


class TrustConfig(Config):
    """How the threshold is chosen below which a mask's trust flags it: on labelled source images, clean and degraded.

    Labels of the target are never used.
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
    views: int = Field(
        default=8, ge=0, le=100, description="Degraded views of every image beside the clean one."
    )
    degrade: DegradeConfig = Field(
        default=WORSE, description="How the views are degraded; see `rl4seg.degrade`."
    )
