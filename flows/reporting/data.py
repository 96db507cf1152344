"""What a run tells its report: plain frozen records, filled by the flow and read by `flows.reporting.report`.

Numbers are per-image means with the standard deviation over cases (not over seeds). A value that was not measured is
None, never NaN. Class names are foreground classes only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, ConfigDict, Field

from reward_data.types import Config, Float32, UInt8
from rl4seg.stop_rule import Judgement

MAIN = "RL4Seg"
PPO_OFF = "PPO off"
LOGIT_BIAS = "logit bias"
POST_PROCESSING = "post-processing"
STRONG_AUGMENTATION = "strong augmentation"
SELF_TRAINING = "self-training"
TENT = "TENT"
MEAN_TEACHER = "mean teacher"
SOURCE_ONLY = "source-only"
UPPER_BOUND = "upper bound (target labels)"
ARMS = (
    SOURCE_ONLY, LOGIT_BIAS, POST_PROCESSING, STRONG_AUGMENTATION, TENT, MEAN_TEACHER, SELF_TRAINING, PPO_OFF, MAIN,
    UPPER_BOUND,
)  # fmt: skip
"""Order of appearance; other names follow."""

Unit = Literal["mm", "px (spacing unknown)"]
Stage = Literal["source training", "reward net", "ppo"]


class MeanSd(NamedTuple):
    """Mean and standard deviation over cases."""

    mean: float
    sd: float


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _column(values: Any) -> Any:
    return [_finite_or_none(float(v)) if v is not None else None for v in values]


Measured = Annotated[float | None, BeforeValidator(_finite_or_none)]
Column = Annotated[tuple[float | None, ...], BeforeValidator(_column)]


class EvaluationRow(Config):
    """One policy on the evaluation cases; one row of the result table.

    A NaN or infinite scalar becomes None; inside a mean or sd it is refused.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    arm: str = Field(description="Which policy: one of ARMS, or any other name.")
    iteration: int = Field(
        ge=0, description="0 for source-only, logit bias and the upper bound; 1, 2, ... of a loop."
    )
    cases: int = Field(ge=0, description="Images evaluated.")
    labelled: bool = Field(
        default=True, description="False: no target labels, so dice, hd95 and hd are None."
    )
    dice: dict[str, MeanSd] | None = Field(default=None, description="Foreground class -> Dice in [0, 1].")
    dice_mean: MeanSd | None = Field(default=None, description="Mean over classes per case, then over cases.")
    hd95: MeanSd | None = Field(
        default=None, description="95th percentile Hausdorff distance, report's unit."
    )
    hd: MeanSd | None = Field(default=None, description="Hausdorff distance, report's unit.")
    validity: Measured = Field(default=None, description="Share of masks that pass every rule, in [0, 1].")
    violations: dict[str, int] = Field(default_factory=dict, description="Rule -> masks that break it.")
    mean_reward: Measured = Field(default=None, description="Mean calibrated reward over images, in [0, 1].")
    ece_before: Measured = Field(default=None, description="Reward net's ECE before calibration.")
    ece_after: Measured = Field(default=None, description="Reward net's ECE after calibration.")
    kl: Measured = Field(default=None, description="Mean KL(policy || reference) per pixel, nats.")
    entropy: Measured = Field(default=None, description="Mean entropy of the policy per pixel, nats.")
    seconds: Measured = Field(default=None, description="Wall time of the stages that made this policy.")
    class_area: dict[str, float] = Field(
        default_factory=dict, description="Class -> mean area as a share of the image; needs no labels."
    )
    case_dice: dict[str, float] = Field(
        default_factory=dict, description="Case id -> mean Dice; lets two rows be compared case by case."
    )
    case_trust: dict[str, float] = Field(
        default_factory=dict, description="Case id -> trust in its mask, in [0, 1]; needs no labels."
    )
    case_valid: dict[str, bool] = Field(
        default_factory=dict,
        description="Case id -> passes every rule; lets validity be compared case by case.",
    )
    case_group: dict[str, str] = Field(default_factory=dict, description="Case id -> its patient.")
    case_measures: dict[str, dict[str, float]] = Field(
        default_factory=dict,
        description="dice_NAME, hd95_NAME or hd_NAME of a structure, hd95_mean and hd_mean over the classes -> case "
        "id -> value, where there is a label.",
    )
    chosen: bool = Field(
        default=False, description="The policy that the run hands out; one row at most, by the stop rule."
    )
    steps: int | None = Field(
        default=None,
        ge=0,
        description="Optimiser steps that made this policy of the one before it; 0 = none.",
    )


class Curve(Config):
    """The history of one training stage."""

    arm: str = Field(description="Arm that trained it; MAIN for the shared source training.")
    iteration: int = Field(ge=0, description="0 for source training; 1, 2, ... of a loop.")
    stage: Stage = Field(description="Which training.")
    columns: dict[str, Column] = Field(
        description="Column -> values, `step` included; equal lengths. As rl4seg.training.read_history gives it."
    )


class ReliabilityCurve(Config):
    """Confidence against accuracy in bins; empty bins have count 0."""

    title: str = Field(description="E.g. 'iteration 4, after calibration'.")
    confidence: tuple[float, ...] = Field(description="Mean confidence per bin, in [0, 1].")
    accuracy: tuple[float, ...] = Field(description="Share of right pixels per bin, in [0, 1].")
    counts: tuple[int, ...] = Field(description="Pixels per bin.")
    ece: float = Field(description="Expected calibration error.")


class SynthesisSummary(Config):
    """What one iteration's predictions became in the reward dataset."""

    iteration: int = Field(ge=0, description="Iteration of the loop; 0 outside it.")
    arm: str = Field(default=MAIN, description="Arm.")
    images: int = Field(ge=0, description="Target images predicted.")
    accepted: float = Field(ge=0, le=1, description="Share accepted as pseudo ground truth.")
    corrected: float = Field(ge=0, le=1, description="Share invalid but corrected into a valid mask.")
    examples: dict[str, int] = Field(default_factory=dict, description="Kind of example -> number.")
    violated: dict[str, float] = Field(default_factory=dict, description="Rule -> share of predictions.")
    reviewed: dict[str, int] = Field(
        default_factory=dict, description="Cases that an expert has accepted, corrected and rejected so far."
    )

    @property
    def judged(self) -> int:
        """Cases that an expert has judged so far."""
        return sum(self.reviewed.values())


@dataclass(frozen=True)
class MontageColumn:
    """One policy's mask of a montage case. ``mask``, ``error`` Shape: (H, W).

    ``error`` is the predicted probability in [0, 1] that a pixel is wrong (1 - calibrated reward), or None.
    """

    title: str
    mask: UInt8
    error: Float32 | None = None
    dice: float | None = None


@dataclass(frozen=True)
class MontageCase:
    """One target image with the masks of successive policies. ``image`` (0..255) and ``truth`` Shape: (H, W)."""

    case_id: str
    image: UInt8
    truth: UInt8 | None
    columns: tuple[MontageColumn, ...]


@dataclass(frozen=True)
class ReportData:
    """Everything on the report. Any tuple may be empty: its section then says so or is left out."""

    title: str
    run_name: str
    command: str
    config_yaml: str
    class_names: tuple[str, ...]
    rows: tuple[EvaluationRow, ...]
    created: str = ""
    unit: Unit = "mm"
    versions: Mapping[str, str] = field(default_factory=dict)
    curves: tuple[Curve, ...] = ()
    montages: tuple[MontageCase, ...] = ()
    reliability: tuple[ReliabilityCurve, ...] = ()
    synthesis: tuple[SynthesisSummary, ...] = ()
    lineage: tuple[Mapping[str, Any], ...] = ()
    stop: Judgement | None = None  # what the stop rule says of the whole loop; None = it was not asked
    flag: Mapping[str, Any] | None = (
        None  # the model package's trust flag (rl4seg.package.TrustFlag); None = none
    )
