import numpy as np
import pytest

from rl4seg.uncertainty_statistics import (
    Scored,
    Truth,
    best,
    calibration_figures,
    case_bins,
    difference,
    differs,
    drawn_figures,
    figures,
    interval,
    mean_over_mask,
    ranking_figures,
    resamples,
)

DICE = np.array([0.9, 0.5, 0.8, 0.7])
TRUTH = Truth(DICE, ("a", "a", "b", "c"), 0.75)


def test_bins_add_up_over_cases() -> None:
    first = case_bins(np.array([0.95, 0.95]), np.array([True, False]), 20)
    second = case_bins(np.array([0.95, 0.25]), np.array([True, True]), 20)
    # last bin: mean confidence .95, accuracy 2 / 3; sixth: .25 against 1
    found = calibration_figures(first + second)
    assert found["ece"] == pytest.approx((3 * (0.95 - 2 / 3) + 0.75) / 4)
    assert found["ace"] == pytest.approx((0.95 - 2 / 3 + 0.75) / 2)
    assert found["mce"] == pytest.approx(0.75)


def test_no_pixels_are_no_perfect_calibration() -> None:
    empty = case_bins(np.zeros(0), np.zeros(0, bool), 20)
    assert np.isnan(list(calibration_figures(empty).values())).all()


def test_the_mean_over_the_mask_reads_the_mask_alone() -> None:
    values, inside = np.array([[0.2, 1.0], [0.6, 1.0]]), np.array([[True, False], [True, False]])
    assert mean_over_mask(values, inside) == pytest.approx(0.4)
    assert mean_over_mask(values, np.array([[False, True], [False, False]])) == 1
    assert mean_over_mask(values, np.zeros((2, 2), bool)) == 0


def test_ranking_by_hand() -> None:
    # bad (Dice < .75): cases 1 and 3 with scores .4, .6; good: .9, .5. Three of four pairs in order
    found = ranking_figures(np.array([0.9, 0.4, 0.5, 0.6]), DICE, 0.75, 0.5)
    assert found["auroc"] == pytest.approx(0.75)
    # the lowest quarter is case 1 alone, which has the lowest score
    assert found["auroc_quartile"] == 1
    # kept in the order 0, 3, 2, 1: risks .1 .3 .2 .5 -> means .1 .2 .2 .275
    assert found["aurc"] == pytest.approx((0.1 + 0.2 + 0.2 + 0.275) / 4)


def test_what_is_not_defined_is_nan_and_never_an_error() -> None:
    found = ranking_figures(np.ones(3), np.full(3, 0.9), 0.8, 0.9)
    assert np.isnan([found["pearson"], found["spearman"], found["auroc"], found["auroc_quartile"]]).all()
    assert found["excess_aurc"] == pytest.approx(0)
    assert interval(float("nan"), np.full(10, np.nan)) == (None, None, None)
    assert interval(0.5, np.array([np.nan] * 6 + [0.4] * 4)) == (0.5, None, None)


def test_patients_are_drawn_with_all_their_cases() -> None:
    samples = resamples(TRUTH.patients, 400, np.random.default_rng(0))
    for sample in samples:
        counts = np.bincount(sample, minlength=4)
        assert counts[0] == counts[1]  # both of patient a, or neither
        assert counts[0] + counts[2] + counts[3] == 3  # three patients
    # every patient once in the mean
    assert np.mean([(s == 3).sum() for s in samples]) == pytest.approx(1, abs=0.15)
    assert resamples((), 5, np.random.default_rng(0)) == []


def test_the_interval_of_a_mean_is_that_of_theory() -> None:
    rng = np.random.default_rng(1)
    drawn = rng.normal(0.5, 0.1, 100_000)
    found = interval(0.5, drawn)
    # 2.5 % and 97.5 % of a normal: 1.96 standard deviations
    assert (found.low, found.high) == (pytest.approx(0.304, abs=0.003), pytest.approx(0.696, abs=0.003))


def test_best_and_those_not_told_apart_go_by_paired_differences() -> None:
    rng = np.random.default_rng(2)
    common = rng.normal(0, 1, 500)  # what both share: their own intervals overlap by far
    values = {"a": {"ece": 0.1}, "b": {"ece": 0.3}, "c": {"ece": 0.11}, "d": {}}
    drawn = {
        "a": {"ece": 0.1 + common},
        "b": {"ece": 0.3 + common + rng.normal(0, 0.01, 500)},
        "c": {"ece": 0.11 + common + rng.normal(0, 0.1, 500)},
        "d": {},
    }
    assert best("ece", values, drawn) == ("a", ("c",))
    assert differs(difference("ece", "b", "a", values, drawn))
    assert best("ece", {"d": {}}, {"d": {}}) is None
    assert best("auroc", {"x": {"auroc": 0.6}, "y": {"auroc": 0.9}},
                {"x": {"auroc": np.full(9, 0.6)}, "y": {"auroc": np.full(9, 0.9)}}) == ("y", ())  # fmt: skip


def test_figures_of_a_resample_are_those_of_its_cases() -> None:
    bins = np.stack(
        [case_bins(np.array([c]), np.array([r]), 10) for c, r in zip(DICE, [1, 0, 1, 1], strict=True)]
    )
    scored = Scored(bins, np.array([0.9, 0.4, 0.5, 0.6]))
    twice = figures(scored, TRUTH, np.array([1, 1]))
    assert twice["ece"] == pytest.approx(0.5)  # confidence .5, always wrong
    drawn = drawn_figures(scored, TRUTH, [np.array([1, 1]), np.array([0, 0])])
    assert drawn["ece"].tolist() == pytest.approx([0.5, 0.1])
    assert "ece" not in figures(Scored(None, scored.score), TRUTH)
