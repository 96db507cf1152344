"""Is one arm better than another? Paired differences over seeds and patients, with intervals and tests.

Notation: S seeds, N cases, G groups (patients); every case is measured under every seed, so that values are a table
(S, N). A difference is taken case by case and seed by seed before anything is averaged. Two sources of chance are in
it, which seed was trained and which patients were tested: the bootstrap draws both anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from reward_data.errors import DataError
from reward_data.types import Float64

DRAWS = 10_000
LEVEL = 0.95


class Spread(NamedTuple):
    """Mean over seeds and its standard deviation (n - 1), which one seed has not."""

    mean: float
    sd: float | None


class Interval(NamedTuple):
    """An estimate with its confidence interval."""

    value: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """+1 where the interval lies above zero, -1 below, else 0."""
        return int(self.low > 0) - int(self.high < 0)


def over_seeds(values: Sequence[float]) -> Spread:
    """Mean and standard deviation (n - 1) of one value per seed.

    Raises:
        DataError: there is no value.
    """
    if not values:
        raise DataError("no value to average over seeds; wanted at least one seed")
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(float(np.mean(values)), sd)


class Resamples:
    """Bootstrap draws of seeds and of groups, the same for every value that is compared.

    Crossed two-level bootstrap (pigeonhole bootstrap: Owen, Annals of Applied Statistics 1 (2007) 386-411): each draw
    takes S of the S seeds and, on its own, G of the G groups with replacement; a case counts as often as its seed
    times its group was drawn. Patients are drawn whole, as the images of one are not independent. With one seed there
    is nothing to draw on that level: such an interval is about patients alone.

    Args:
        seeds: number of seeds, S.
        groups: group of every case. Shape: (N,).
        rng: where the draws come from.
        draws: how many.

    Raises:
        DataError: there is no seed or no case.
    """

    def __init__(
        self, seeds: int, groups: Sequence[str], rng: np.random.Generator, draws: int = DRAWS
    ) -> None:
        if seeds < 1 or not groups:
            raise DataError(
                f"got {seeds} seeds and {len(groups)} cases to resample; wanted at least one of each"
            )
        names, self._group = np.unique(np.asarray(groups), return_inverse=True)
        self._sizes = np.bincount(self._group).astype(np.float64)
        self._seed_share = _counts(seeds, draws, rng) / seeds
        self._group_count = _counts(len(names), draws, rng)

    def means(self, values: Float64) -> Float64:
        """The mean over seeds and cases in every draw. Shape: (S, N) -> (draws,).

        Raises:
            DataError: the table is of another shape, or holds a value that is not finite.
        """
        shape = (self._seed_share.shape[1], len(self._group))
        if values.shape != shape or not np.isfinite(values).all():
            raise DataError(
                f"got a table of shape {values.shape}, wanted {shape} finite values: one per seed and case"
            )
        sums = np.stack([np.bincount(self._group, row, len(self._sizes)) for row in values])
        drawn = ((self._seed_share @ sums) * self._group_count).sum(1)
        means: Float64 = drawn / (self._group_count @ self._sizes)
        return means

    def interval(self, values: Float64, level: float = LEVEL) -> Interval:
        """Mean with the percentile interval of the draws (Efron and Tibshirani 1993, ch. 13). ``values``: (S, N)."""
        return percentile_interval(float(values.mean()), self.means(values), level)


def _counts(size: int, draws: int, rng: np.random.Generator) -> Float64:
    """How often each of ``size`` things is in each draw of ``size`` with replacement. Shape: (draws, size)."""
    counts: Float64 = rng.multinomial(size, np.full(size, 1 / size), size=draws).astype(np.float64)
    return counts


def percentile_interval(value: float, draws: Float64, level: float = LEVEL) -> Interval:
    """``value`` between the two quantiles of its draws that hold ``level`` of them. ``draws`` Shape: (draws,)."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def signed_rank_p(differences: Float64) -> float:
    """Two-sided p of Wilcoxon's signed-rank test (Biometrics Bulletin 1 (1945) 80-83), zeros left out.

    Differences that are all zero say nothing against equality: p = 1.

    Args:
        differences: one per case, averaged over the seeds. Shape: (N,).
    """
    if not np.any(differences):
        return 1.0
    return float(stats.wilcoxon(differences, zero_method="wilcox").pvalue)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """p-values adjusted for their number by Holm's step-down procedure (Scand. J. Statistics 6 (1979) 65-70).

    The smallest of m is multiplied by m, the next by m - 1, and so on; none becomes smaller than the one before it,
    none larger than 1.
    """
    adjusted = np.ones(len(p_values))
    largest = 0.0
    for rank, place in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return tuple(float(p) for p in adjusted)


def gap_closed(
    loop: Float64, source: Float64, upper: Float64, resamples: Resamples, level: float = LEVEL
) -> Interval | None:
    """(loop - source) / (upper - source) of the means: the share of what target labels would gain.

    None where the gap itself is not above zero by its own interval: a share of nothing means nothing.

    Args:
        loop: values of the adapted policy. Shape: (S, N), like the two others.
        source: of the policy before adaptation.
        upper: of the policy that was trained on target labels.
        resamples: draws of seeds and groups.
        level: share of the draws inside the interval.
    """
    gap = resamples.interval(upper - source, level)
    if gap.sign <= 0:
        return None
    gains, gaps = resamples.means(loop - source), resamples.means(upper - source)
    share = float((loop - source).mean()) / gap.value
    return percentile_interval(share, gains[gaps > 0] / gaps[gaps > 0], level)
