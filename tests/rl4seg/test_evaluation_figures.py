"""From the figures of cases to those of all."""

from __future__ import annotations

import numpy as np
import pytest

from reward_data.errors import ConfigError, DataError
from rl4seg.evaluation_figures import evaluation_figures
from rl4seg.package import TrustFlag
from rl4seg.scored_cases import BINS, ERROR_MAP, SOFTMAX, ScoredCase, structures
from rl4seg.uncertainty_statistics import case_bins

FLAG = TrustFlag(
    threshold=0.5, dice_below=0.7, sensitivity=0.8, images=9, bad=3, found=1.0, flagged=0.3, basis="none"
)


def case(name: str, dice: float, trust: float, group: str = "", rules: tuple[str, ...] = ()) -> ScoredCase:
    """Two classes of Dice ``dice`` +- .1; ten pixels of confidence .9, of which five are right."""
    both = {"a": dice + 0.1, "b": dice - 0.1}
    bins = case_bins(np.full(10, 0.9), np.arange(10) < 5, BINS)
    return ScoredCase(
        name, group or name, trust, trust < 0.5, rules, {"a": 4.0, "b": 6.0}, both, both, both,
        {SOFTMAX: bins, ERROR_MAP: bins},
    )  # fmt: skip


def test_figures_worked_out_by_hand() -> None:
    cases = [case("w", 0.5, 0.4), case("x", 0.6, 0.6, rules=("r",)), case("y", 0.8, 0.7), case("z", 0.9, 0.3)]
    found = evaluation_figures(cases, ("a", "b"), FLAG, draws=200)
    assert found["dice_mean"]["value"] == pytest.approx(0.7)
    assert found["dice"]["a"]["value"] == pytest.approx(0.8)
    assert found["dice_mean"]["sd"] == pytest.approx(np.std([0.5, 0.6, 0.8, 0.9], ddof=1))
    assert found["dice_mean"]["low"] < 0.7 < found["dice_mean"]["high"]
    assert found["validity"]["value"] == 0.75
    assert found["violations"] == {"r": 1}
    assert found["calibration"][SOFTMAX]["ece"]["value"] == pytest.approx(0.4)  # .9 said, .5 right
    finding = found["finding"]
    assert finding["bad"] == 2  # w and x are below .7
    assert finding["found"]["value"] == 0.5  # of them w is flagged
    assert finding["flagged"]["value"] == 0.5  # w and z
    # (bad, good) pairs with less trust in the bad: w < y, x < y of four
    assert finding["auroc"]["value"] == pytest.approx(0.5)
    # kept by trust: y, x, w, z with risks .2, .4, .5, .1 and means .2, .3, .3667, .3
    assert finding["risk"] == pytest.approx([0.2, 0.3, 1.1 / 3, 0.3])
    assert finding["aurc"]["value"] == pytest.approx((0.2 + 0.3 + 1.1 / 3 + 0.3) / 4)
    assert found["areas"]["b"]["value"] == 6.0
    # by trust: z .3, w .4, x .6, y .7; bad are w and x
    curve = finding["curve"]
    assert curve["flagged"] == [0, 0.25, 0.5, 0.75, 1]
    assert curve["found"] == [0, 0, 0.5, 1, 1]
    assert curve["threshold"][:4] == [0.3, 0.4, 0.6, 0.7]
    assert (curve["best_found"], curve["least_flagged"]) == (0, 0.75)  # at .2 flagged; for .8 found


def test_without_flag_labels_or_bad_images() -> None:
    good = [case("w", 0.9, 0.4), case("x", 0.85, 0.6)]
    found = evaluation_figures(good, ("a", "b"), None, draws=20)
    assert found["flagged"] is None
    assert found["finding"]["found"] is None
    assert found["finding"]["auroc"]["value"] is None
    assert found["finding"]["curve"] is None
    unlabelled = [ScoredCase("w", "w", 0.4, None, (), {"a": None})]
    found = evaluation_figures(unlabelled, ("a",), None, draws=20)
    assert (found["labelled"], found["dice"], found["finding"], found["areas"]) == (0, None, None, None)
    with pytest.raises(DataError, match="no case"):
        evaluation_figures([], ("a",), None)


def test_patients_are_drawn_whole() -> None:
    """Two patients of equal cases within: every draw has the mean 0, .5 or 1, so the interval is all of it."""
    cases = [case(f"{n}", float(n // 10), 0.5, group=f"p{n // 10}") for n in range(20)]
    interval = evaluation_figures(cases, ("a", "b"), None, draws=200)["dice_mean"]
    assert (interval["low"], interval["high"]) == pytest.approx((0, 1))


def test_unions_are_structures_too() -> None:
    assert structures(("bg", "lv", "myo"), {"epi": ("lv", "myo")}) == {"lv": (1,), "myo": (2,), "epi": (1, 2)}
    with pytest.raises(ConfigError, match="no class 'la'"):
        structures(("bg", "lv"), {"all": ("lv", "la")})
