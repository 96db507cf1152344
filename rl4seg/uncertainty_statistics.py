"""Figures of one way to be sure, and their 95 % intervals over patients: pure functions of per-case arrays.

Intervals are percentile bootstraps that resample patients with all their images (Efron & Tibshirani 1993, chapter 13);
every method is judged on the same resamples, so that the difference of two methods has an interval of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from reward_data.types import Bool, Float64, Int64
from rl4seg.metrics import Floats, Reliability, aurc, auroc, excess_aurc, pearson, reliability, spearman

#: Statistic -> which end is better.
BETTER = {
    "ece": "low", "ace": "low", "mce": "low", "pearson": "high", "spearman": "high", "auroc": "high",
    "auroc_quartile": "high", "aurc": "low", "excess_aurc": "low",
}  # fmt: skip
CALIBRATION = ("ece", "ace", "mce")
ENOUGH = 0.5  # of the resamples have to define a statistic, or it has no interval


class Interval(NamedTuple):
    """A figure with its 95 % interval; None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Scored:
    """What one method says of n cases. ``bins`` Shape: (n, 3, bins), see `case_bins`, None where it is a score only.

    ``score`` (n,): one number per image, higher is surer.
    """

    bins: Float64 | None
    score: Float64


@dataclass(frozen=True)
class Truth:
    """What is true of n cases: mean Dice (n,), patient (n,), the limit below which an image is bad."""

    dice: Float64
    patients: tuple[str, ...]
    dice_below: float

    @property
    def quartile(self) -> float:
        """The lowest quartile of Dice; NaN for no cases."""
        return float(np.quantile(self.dice, 0.25)) if len(self.dice) else float("nan")


def case_bins(confidence: Floats, correct: Bool, bins: int) -> Float64:
    """Sums of confidence, of right pixels, and of pixels per bin: what adds up over cases. Shape: (p,) -> (3, bins)."""
    curve = reliability(confidence, correct, bins)
    sums: Float64 = np.stack([curve.confidence * curve.counts, curve.accuracy * curve.counts, curve.counts])
    return sums


def curve_of(sums: Floats) -> Reliability:
    """The reliability curve of summed bins. Shape: (3, bins)."""
    counts = np.maximum(sums[2], 1)
    return Reliability(sums[0] / counts, sums[1] / counts, np.rint(sums[2]).astype(np.int64))


def mean_over_mask(values: Floats, inside: Bool) -> float:
    """Mean of a map over the mask's foreground; 0 for a mask without any. Shape: (*S), (*S).

    Blind to what was missed around the mask: compared beside `reward_data.trust.expected_dice`, the image score.
    """
    return float(np.asarray(values, np.float64)[inside].mean()) if inside.any() else 0.0


def calibration_figures(sums: Floats) -> dict[str, float]:
    """ECE, ACE, MCE of summed bins (3, bins); NaN where there is no pixel."""
    curve = curve_of(sums)
    if not curve.counts.sum():
        return dict.fromkeys(CALIBRATION, float("nan"))
    return {"ece": curve.ece, "ace": curve.ace, "mce": curve.mce}


def ranking_figures(score: Floats, dice: Floats, dice_below: float, quartile: float) -> dict[str, float]:
    """How well a score (n,) finds images of low Dice (n,); NaN where a figure is not defined."""
    return {
        "pearson": pearson(score, dice),
        "spearman": spearman(score, dice),
        "auroc": auroc(-score, dice < dice_below),
        "auroc_quartile": auroc(-score, dice <= quartile),
        "aurc": aurc(score, 1 - dice),
        "excess_aurc": excess_aurc(score, 1 - dice),
    }


def figures(scored: Scored, truth: Truth, cases: Int64 | None = None) -> dict[str, float]:
    """All statistics on some cases (with repetitions; default: all, once)."""
    chosen = np.arange(len(truth.dice)) if cases is None else cases
    found = {} if scored.bins is None else calibration_figures(scored.bins[chosen].sum(0))
    return found | ranking_figures(scored.score[chosen], truth.dice[chosen], truth.dice_below, truth.quartile)


def resamples(patients: Sequence[str], draws: int, generator: np.random.Generator) -> list[Int64]:
    """``draws`` times as many patients as there are, drawn with replacement: the indices of their cases."""
    _, owner = np.unique(np.asarray(patients), return_inverse=True)
    own = [np.flatnonzero(owner == number) for number in range(int(owner.max(initial=-1)) + 1)]
    if not own:
        return []
    return [
        np.concatenate([own[g] for g in generator.integers(len(own), size=len(own))]) for _ in range(draws)
    ]


def drawn_figures(scored: Scored, truth: Truth, samples: Sequence[Int64]) -> dict[str, Float64]:
    """Statistic -> its value on every resample. Shape: (draws,) each."""
    rows = [figures(scored, truth, sample) for sample in samples]
    return {name: np.array([row[name] for row in rows]) for name in (rows[0] if rows else ())}


def interval(value: float, drawn: Floats) -> Interval:
    """The value with the central 95 % of its resamples; no limits where too few resamples define it."""
    known = np.asarray(drawn)[np.isfinite(drawn)]
    if not np.isfinite(value):
        return Interval(None, None, None)
    if len(known) == 0 or len(known) < ENOUGH * len(drawn):
        return Interval(float(value), None, None)
    low, high = np.percentile(known, [2.5, 97.5])
    return Interval(float(value), float(low), float(high))


class Best(NamedTuple):
    """The best method by a statistic, and those whose difference from it has an interval that holds 0."""

    name: str
    equal: tuple[str, ...]


def best(
    statistic: str, values: Mapping[str, Mapping[str, float]], drawn: Mapping[str, Mapping[str, Float64]]
) -> Best | None:
    """Who is best by ``statistic`` among the methods that have it; None where none has."""
    known = {name: row[statistic] for name, row in values.items() if np.isfinite(row.get(statistic, np.nan))}
    if not known:
        return None
    first = (min if BETTER[statistic] == "low" else max)(known, key=lambda name: known[name])
    equal = [
        name
        for name in known
        if name != first and not differs(difference(statistic, name, first, values, drawn))
    ]
    return Best(first, tuple(equal))


def difference(
    statistic: str,
    a: str,
    b: str,
    values: Mapping[str, Mapping[str, float]],
    drawn: Mapping[str, Mapping[str, Float64]],
) -> Interval:
    """Method a less method b, paired by resample."""
    value = values[a].get(statistic, float("nan")) - values[b].get(statistic, float("nan"))
    if not np.isfinite(value):
        return Interval(None, None, None)
    return interval(value, drawn[a][statistic] - drawn[b][statistic])


def differs(found: Interval) -> bool:
    """Whether the interval of a difference lies on one side of 0."""
    return found.low is not None and found.high is not None and (found.low > 0 or found.high < 0)
