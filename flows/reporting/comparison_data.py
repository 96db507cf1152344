"""What a comparison of arms over seeds says: plain frozen records, written to comparison.json and read back from it.

Figures are means over seeds of means over cases; ``sd`` is over seeds (n - 1), None with a single seed. A difference is
the loop minus an arm or, in an ablation, a variant minus the base: above zero is in favour of what stands first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field

from flows.reporting.data import Unit
from flows.reporting.verdict import Statement
from reward_data.types import Config
from rl4seg.statistics import Interval, over_seeds

PAGE, FIGURES, TABLE = "comparison.html", "comparison.json", "comparison.csv"
DICE, VALIDITY, HD95, HD = "dice_mean", "validity", "hd95_mean", "hd_mean"


class ComparisonSpec(Config):
    """What is compared: the arms of runs that differ in the seed, or variants of a run under every seed."""

    name: str = Field(description="Name of the run.")
    seeds: tuple[int, ...] = Field(min_length=1, description="One run per seed, or one per seed and variant.")
    variants: tuple[str, ...] = Field(
        default=(),
        description="Variants of an ablation, the base first; empty = the arms of the runs are compared.",
    )
    question: str = Field(default="", description="What an ablation asks.")
    changes: dict[str, str] = Field(default_factory=dict, description="Variant -> what it changes, in words.")


class Difference(Config):
    """A paired difference over seeds and cases, with its 95 % interval."""

    value: float = Field(description="Mean over seeds and cases.")
    low: float = Field(description="Lower end of the interval.")
    high: float = Field(description="Upper end of the interval.")
    p: float = Field(
        ge=0, le=1, description="Wilcoxon signed-rank over cases, averaged over the seeds before."
    )
    p_holm: float = Field(ge=0, le=1, description="p after Holm's correction for the number of arms.")
    per_seed: tuple[float, ...] = Field(description="Mean over cases, per seed.")

    @property
    def sign(self) -> int:
        """+1 where the interval lies above zero, -1 below, else 0."""
        return Interval(self.value, self.low, self.high).sign


class Figure(Config):
    """One measured value of an arm."""

    mean: float = Field(description="Mean over seeds.")
    sd: float | None = Field(description="Standard deviation over seeds (n - 1); null with one seed.")
    per_seed: tuple[float, ...] = Field(description="The value of each seed.")
    difference: Difference | None = Field(
        default=None,
        description="Against the loop or the base; null for that one itself, or without cases to pair.",
    )

    @classmethod
    def of(cls, per_seed: tuple[float, ...], difference: Difference | None = None) -> Figure:
        """Mean and spread of one value per seed."""
        spread = over_seeds(per_seed)
        return cls(mean=spread.mean, sd=spread.sd, per_seed=per_seed, difference=difference)


class ArmResult(Config):
    """Everything about one arm."""

    arm: str = Field(description="Its name.")
    iterations: tuple[int, ...] = Field(description="The iteration that was handed out, per seed.")
    measures: dict[str, Figure] = Field(
        description="dice_mean, hd95_mean, hd_mean and validity; dice_NAME, hd95_NAME and hd_NAME of every structure."
    )
    ece: Figure | None = Field(default=None, description="Reward net's ECE after calibration.")
    steps: tuple[int, ...] | None = Field(
        default=None, description="Optimiser steps from the source policy, per seed; null = unknown."
    )
    seconds: Figure | None = Field(
        default=None,
        description="Wall time of what made the arm from the source policy; source-only: of its training.",
    )


class Gap(Config):
    """What target labels would gain over source-only in mean Dice, and the share of it that the loop gains."""

    dice: float = Field(description="Upper bound minus source-only.")
    share: float | None = Field(
        default=None, description="Of the loop; null where there is no gap to speak of."
    )
    low: float | None = Field(default=None, description="Lower end of the share's interval.")
    high: float | None = Field(default=None, description="Upper end of the share's interval.")


class ComparisonData(Config):
    """comparison.json."""

    schema_version: Literal[1] = Field(default=1, description="Raised when a field changes its meaning.")
    spec: ComparisonSpec = Field(description="What was compared.")
    command: str = Field(description="Command that started the run.")
    reference: str = Field(
        description="The arm that the others are compared with: the loop, or the base variant."
    )
    unit: Unit = Field(description="Unit of distances.")
    class_names: tuple[str, ...] = Field(description="Structures, unions included.")
    cases: int = Field(description="Target images that every arm was scored on.")
    patients: int = Field(description="Patients (groups) that they are of.")
    labelled: int = Field(description="Images with a label.")
    arms: tuple[ArmResult, ...] = Field(description="Results in order of appearance.")
    gap: Gap | None = Field(default=None, description="Null without upper bound or labels.")
    verdict: tuple[Statement, ...] = Field(default=(), description="As on the page.")
    versions: dict[str, str] = Field(default_factory=dict, description="Package -> version.")

    @property
    def title(self) -> str:
        """What stands over the tables."""
        what = "Ablation" if self.is_ablation else "Comparison"
        return f"{what} · {self.spec.name}"

    @property
    def is_ablation(self) -> bool:
        """Whether variants are compared, not arms."""
        return bool(self.spec.variants)

    def arm(self, name: str) -> ArmResult | None:
        """The result of an arm, if there is one."""
        return next((result for result in self.arms if result.arm == name), None)

    @property
    def direction(self) -> str:
        """What a difference is: of the loop from the arm, or of the variant from the base."""
        return f"variant − {self.reference}" if self.is_ablation else f"{self.reference} − arm"


class CaseValue(NamedTuple):
    """One line of comparison.csv; ``structure`` is empty for what is about the whole mask."""

    seed: int
    arm: str
    case: str
    group: str
    structure: str
    metric: str
    value: float


def read_comparison(path: Path) -> ComparisonData:
    """Read a ``comparison.json`` back.

    Raises:
        pydantic.ValidationError: not a comparison of this schema version.
    """
    return ComparisonData.model_validate_json(path.read_text(encoding="utf-8"))
