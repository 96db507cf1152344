"""The choice of the trust flag, by hand and on views of labelled images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from reward_data.case_store import CaseStore, import_cases
from reward_data.errors import DataError
from reward_data.types import Case, LabelMap
from rl4seg.configs.trust import TrustConfig
from rl4seg.trust_flag import choose_flag, chosen_flag, flagged_for, found_at, to_be_found, true_curve
from tests.rl4seg.copying import NAMES, RUNTIME, copying_package, image_of, ring

TRUST = np.array([0.2, 0.4, 0.5, 0.7, 0.8, 0.9])
DICE = np.array([0.1, 0.9, 0.3, 0.4, 0.95, 0.9])  # bad below .5: trusts .2, .5, .7


def test_the_threshold_lies_above_the_last_one_to_be_found() -> None:
    # .6 of 3 are 2: the ones of trust .2 and .5; halfway to .7. Flagged with them is the good one of .4.
    flag = choose_flag(TRUST, DICE, 0.5, 0.6, "six")
    assert flag.threshold == pytest.approx(0.6)
    assert (flag.images, flag.bad, flag.found) == (6, 3, pytest.approx(2 / 3))
    assert flag.flagged == pytest.approx(0.5)
    # all 3: halfway from .7 to .8
    assert choose_flag(TRUST, DICE, 0.5, 1.0, "six").threshold == pytest.approx(0.75)
    # a third of 3 is one, not two by rounding
    assert choose_flag(TRUST, DICE, 0.5, 1 / 3, "six").threshold == pytest.approx(0.3)


def test_of_equal_trust_all_are_flagged() -> None:
    trust, dice = np.array([0.5, 0.5, 0.5, 0.9]), np.array([0.1, 0.2, 0.9, 0.9])
    flag = choose_flag(trust, dice, 0.5, 0.5, "")  # one of two is enough, but both have the same trust
    assert (flag.threshold, flag.found, flag.flagged) == (pytest.approx(0.7), 1.0, 0.75)


def test_without_a_bad_image_nothing_here_is_flagged_but_anything_less_trusted_would_be() -> None:
    flag = choose_flag(TRUST, DICE, 0.05, 0.8, "")
    assert (flag.threshold, flag.bad, flag.found, flag.flagged) == (0.2, 0, None, 0.0)


def test_all_bad() -> None:
    flag = choose_flag(TRUST, DICE, 1.0, 0.8, "")  # 5 of 6, .83: .8 of 6 is 4.8
    assert (flag.bad, flag.found, flag.flagged) == (6, pytest.approx(5 / 6), pytest.approx(5 / 6))
    assert choose_flag(TRUST, DICE, 1.0, 1.0, "").threshold == pytest.approx(0.95)  # halfway to 1


def test_sure_of_the_sensitivity_more_have_to_be_found() -> None:
    # P(Binomial(3, .5) < k) = 1/8, 1/2, 7/8 for k = 1, 2, 3
    assert [to_be_found(3, 0.5, confidence) for confidence in (0.12, 0.49, 0.51, 0.87)] == [1, 2, 3, 3]
    assert to_be_found(3, 0.5, 0.99) == 3  # three are too few for that: all
    # P(Binomial(30, .8) < 27) = .877, < 28: .956
    assert (to_be_found(30, 0.8, 0.95), to_be_found(30, 0.8, None)) == (28, 24)
    flag = choose_flag(TRUST, DICE, 0.5, 0.5, "", confidence=0.8)  # all 3: halfway from .7 to .8
    assert (flag.threshold, flag.confidence) == (pytest.approx(0.75), 0.8)


def test_the_sensitivity_holds_in_that_share_of_draws() -> None:
    rng, kept = np.random.default_rng(0), []
    for _ in range(2000):  # bad masks with a trust uniform in [0, 1]: a threshold finds the share that it is
        flag = choose_flag(rng.uniform(size=40), np.zeros(40), 0.5, 0.8, "", confidence=0.9)
        kept.append(flag.threshold >= 0.8)
    assert 0.88 < np.mean(kept) < 0.99  # .925 and a little for lying above the last one to be found


def test_no_image_is_refused() -> None:
    with pytest.raises(DataError, match="one at least"):
        choose_flag(np.zeros(0), np.zeros(0), 0.5, 0.8, "")


def test_the_true_curve() -> None:
    curve = true_curve(TRUST, DICE, 0.5)
    assert [round(point.flagged * 6) for point in curve] == [0, 1, 2, 3, 4, 5, 6]
    assert [round(point.found * 3) for point in curve] == [0, 1, 1, 2, 3, 3, 3]
    assert found_at(curve, 0.5) == pytest.approx(2 / 3)
    assert found_at(curve, 0.49) == pytest.approx(1 / 3)
    assert flagged_for(curve, 0.6) == pytest.approx(3 / 6)
    assert flagged_for(curve, 0.7) == pytest.approx(4 / 6)
    assert flagged_for(true_curve(TRUST, DICE, 0.05), 0.8) == 1.0  # none is bad: none can be found
    # a tie takes no order: of two images of equal trust, none or both
    assert [point.flagged for point in true_curve(np.array([0.5, 0.5]), np.array([0, 1]), 0.5)] == [0, 1]


@pytest.fixture
def source(tmp_path: Path) -> CaseStore:
    labels = [ring((16, 16), 0.1 + 0.02 * i, 0.4) for i in range(8)]
    cases = (
        Case(f"c{i}", f"p{i}", "s", "val" if i > 2 else "train", image_of(y), y, (1.0, 1.0), np.eye(4))
        for i, y in enumerate(labels)
    )
    settings = copying_package((16, 16)).spec.preprocess
    import_cases(cases, 8, settings, LabelMap(names=NAMES), tmp_path / "cases.h5")
    return CaseStore(tmp_path / "cases.h5")


def test_views_get_worse_until_there_are_enough_bad_masks(source: CaseStore) -> None:
    package = copying_package((16, 16), reward=True)
    seen: list[int] = []
    config = TrustConfig(views=2, strengths=(0.05, 2.0, 4.0), bad=3)
    flag = chosen_flag(package, source, config, 0, RUNTIME, lambda done, total: seen.append(done))
    assert flag is not None
    assert flag.bad >= 3  # at .05 of the strength a copy stays a copy, at 2 it does not, 4 is not needed
    assert (flag.dice_below, flag.images, seen[-1]) == (0.75, 5 + 2 * 10, 25)
    words = "5 validation images of the source, each clean and in 2 degraded views of strengths 0.05, 2"
    assert (flag.basis, flag.confidence) == (words, 0.95)
    limit = chosen_flag(package, source, TrustConfig(views=2, bad=3, dice_below=0.3), 0, RUNTIME)
    assert limit is not None
    assert limit.dice_below == 0.3


def test_too_few_bad_masks_are_said(source: CaseStore) -> None:
    package = copying_package((16, 16), reward=True)
    flag = chosen_flag(package, source, TrustConfig(views=2, strengths=(0.05,)), 0, RUNTIME)
    assert flag is not None
    assert (flag.bad, flag.found) == (0, None)
    assert flag.basis == (
        "5 validation images of the source, each clean and in 2 degraded views of strength 0.05; 0 bad masks are fewer "
        "than the 30 wanted, so the threshold rests on little"
    )
    clean = chosen_flag(package, source, TrustConfig(views=0, bad=1, dice_below=0.3), 0, RUNTIME)
    assert clean is not None
    assert clean.basis.startswith("5 validation images of the source; 0 bad masks")


def test_strengths_have_to_rise() -> None:
    with pytest.raises(ValidationError, match="each larger than the last"):
        TrustConfig(strengths=(1.0, 1.0))
    with pytest.raises(ValidationError, match="above 0"):
        TrustConfig(strengths=(0.0, 1.0))
