"""Statistics of a comparison: values worked out by hand, and scipy's where it has the same thing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from reward_data.errors import DataError
from rl4seg.statistics import (
    Interval,
    Resamples,
    gap_closed,
    holm,
    over_seeds,
    percentile_interval,
    signed_rank_p,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_the_spread_over_seeds_has_n_minus_one_and_one_seed_has_none() -> None:
    # mean 2; squares of the deviations -1, 0, 1 sum to 2; 2 / (3 - 1) = 1; sqrt = 1
    assert over_seeds([1.0, 2.0, 3.0]) == (2.0, 1.0)
    assert over_seeds([0.7]) == (0.7, None)
    with pytest.raises(DataError, match="at least one seed"):
        over_seeds([])


def test_equal_values_have_an_interval_of_no_width() -> None:
    found = Resamples(3, ["a", "b", "b"], rng()).interval(np.full((3, 3), 0.25))
    assert found.value == 0.25
    assert found.low == pytest.approx(0.25)
    assert found.high == pytest.approx(0.25)
    assert found.sign == 1


def test_means_of_the_draws_by_hand() -> None:
    # Two groups of one case with values 0 and 1: a draw of two holds 0, 1 or 2 of the second with probability
    # 1/4, 1/2, 1/4, so that the means are 0, 1/2 and 1.
    means = Resamples(1, ["a", "b"], rng(), 40_000).means(np.array([[0.0, 1.0]]))
    assert set(np.unique(means)) == {0.0, 0.5, 1.0}
    assert np.mean(means == 0.5) == pytest.approx(0.5, abs=0.01)


def test_groups_are_drawn_whole_and_weigh_by_their_cases() -> None:
    # Group a has one case of value 3, group b two of value 0. Drawn: aa -> 3, ab -> 3 / (1 + 2) = 1, bb -> 0.
    means = Resamples(1, ["a", "b", "b"], rng(), 20_000).means(np.array([[3.0, 0.0, 0.0]]))
    assert set(np.unique(means)) == {0.0, 1.0, 3.0}
    assert np.mean(means == 1.0) == pytest.approx(0.5, abs=0.02)


def test_seeds_are_drawn_as_well() -> None:
    # Cases do not differ, seeds do (0 and 1): the mean is the share of the second seed, 0, 1/2 or 1.
    values = np.array([[0.0] * 5, [1.0] * 5])
    means = Resamples(2, list("abcde"), rng(), 20_000).means(values)
    assert np.allclose(np.unique(np.round(means, 12)), [0.0, 0.5, 1.0])
    # and with one seed, its patients alone: no spread at all
    assert np.ptp(Resamples(1, list("abcde"), rng()).means(values[1:])) < 1e-12


def test_the_variance_of_the_draws_is_that_of_both_levels() -> None:
    # value = a_s + b_n with independent parts: the bootstrap's variance is var(a)/S + var(b)/N (n in the
    # denominator) when seeds and cases are drawn on their own.
    a, b = np.array([0.0, 0.3, 0.9]), rng(1).normal(size=40)
    means = Resamples(3, [str(i) for i in range(40)], rng(), 60_000).means(a[:, None] + b)
    assert means.var() == pytest.approx(a.var() / 3 + b.var() / 40, rel=0.03)


def test_patients_alone_agree_with_the_bootstrap_of_scipy() -> None:
    values = rng(3).normal(0.02, 0.1, 60)
    ours = Resamples(1, [str(i) for i in range(60)], rng(), 20_000).interval(values[None])
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=rng(1)
    ).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.001)


def test_the_same_generator_gives_the_same_interval() -> None:
    values = rng(5).normal(size=(2, 9))
    first, again = (Resamples(2, list("aabbccdde"), rng(7)).interval(values) for _ in range(2))
    assert first == again


def test_a_table_of_another_shape_or_with_a_gap_is_refused() -> None:
    resamples = Resamples(2, ["a", "b"], rng(), 10)
    with pytest.raises(DataError, match=r"\(1, 2\), wanted \(2, 2\)"):
        resamples.means(np.zeros((1, 2)))
    with pytest.raises(DataError, match="finite"):
        resamples.means(np.array([[0.0, np.nan], [0.0, 0.0]]))
    with pytest.raises(DataError, match="at least one of each"):
        Resamples(1, [], rng())


def test_the_percentile_interval_by_hand() -> None:
    # 0..100: the 2.5 % and 97.5 % quantiles are 2.5 and 97.5
    assert percentile_interval(50.0, np.arange(101.0)) == pytest.approx((50.0, 2.5, 97.5))
    assert [Interval(0, *ends).sign for ends in ((1, 2), (-2, -1), (-1, 1), (0, 1))] == [1, -1, 0, 0]


def test_signed_rank_by_hand_and_by_scipy() -> None:
    # 1, 2, 3 all positive: of the 2^3 signs one is as extreme on each side, p = 2 / 8
    assert signed_rank_p(np.array([1.0, 2.0, 3.0])) == pytest.approx(0.25)
    # a zero is left out: the same p
    assert signed_rank_p(np.array([1.0, 2.0, 3.0, 0.0])) == pytest.approx(0.25)
    values = rng(2).normal(0.1, 1, 50)
    assert signed_rank_p(values) == stats.wilcoxon(values).pvalue


def test_differences_that_are_all_zero_have_p_one() -> None:
    assert signed_rank_p(np.zeros(5)) == 1.0


def test_holm_by_hand() -> None:
    # sorted .01, .03, .04: 3 x .01 = .03; 2 x .03 = .06; 1 x .04 = .04, raised to .06 before it
    assert holm([0.04, 0.01, 0.03]) == pytest.approx((0.06, 0.03, 0.06))
    assert holm([0.5, 0.9]) == (1.0, 1.0)
    assert holm([]) == ()


def test_the_gap_closed_by_hand() -> None:
    # source .70, upper .90, loop .80: half of the gap, in every draw
    source, resamples = np.full((2, 3), 0.7), Resamples(2, list("abc"), rng(), 100)
    found = gap_closed(source + 0.1, source, source + 0.2, resamples)
    assert found is not None
    assert tuple(found) == pytest.approx((0.5, 0.5, 0.5))


def test_no_gap_no_share() -> None:
    source, resamples = np.full((1, 4), 0.7), Resamples(1, list("abcd"), rng(), 100)
    assert gap_closed(source + 0.1, source, source - 0.1, resamples) is None
    noisy = source + np.array([[0.3, -0.3, 0.2, -0.2]])
    assert gap_closed(source + 0.1, source, noisy, resamples) is None
