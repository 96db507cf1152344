"""The choice of the trust flag, by hand and on views of labelled images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reward_data.case_store import CaseStore, import_cases
from reward_data.errors import DataError
from reward_data.types import Case, LabelMap
from rl4seg.configs.trust import TrustConfig
from rl4seg.trust_flag import (
    choose_flag,
    chosen_flag,
    found_at,
    judging_cases,
    mean_dice,
    score_views,
    true_curve,
)
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


def test_no_image_is_refused() -> None:
    with pytest.raises(DataError, match="one at least"):
        choose_flag(np.zeros(0), np.zeros(0), 0.5, 0.8, "")


def test_the_true_curve() -> None:
    curve = true_curve(TRUST, DICE, 0.5)
    assert [round(point.flagged * 6) for point in curve] == [0, 1, 2, 3, 4, 5, 6]
    assert [round(point.found * 3) for point in curve] == [0, 1, 1, 2, 3, 3, 3]
    assert found_at(curve, 0.5) == pytest.approx(2 / 3)
    assert found_at(curve, 0.49) == pytest.approx(1 / 3)
    # a tie takes no order: of two images of equal trust, none or both
    assert [point.flagged for point in true_curve(np.array([0.5, 0.5]), np.array([0, 1]), 0.5)] == [0, 1]


def test_mean_dice_over_classes() -> None:
    mask, label = np.array([[1, 1, 2, 0]], np.uint8), np.array([[1, 0, 2, 0]], np.uint8)
    assert mean_dice(mask, label, 3) == pytest.approx((2 / 3 + 1) / 2)


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


def test_views_of_labelled_images_are_scored_alike_in_any_batch(source: CaseStore) -> None:
    package = copying_package((16, 16), reward=True)
    indices, basis = judging_cases(source)
    assert indices.tolist() == [3, 4, 5, 6, 7]
    assert basis == "5 validation images of the source"
    config = TrustConfig(views=2)
    scored = score_views(package, source, indices, config, 0, RUNTIME)
    assert scored.clean.tolist() == [True] * 5 + [False] * 10
    assert scored.dice[:5] == pytest.approx(1.0)  # it copies clean images
    assert scored.dice[5:].min() < 0.9  # and darkened ones to the wrong class
    again = score_views(package, source, indices[2:3], config, 0, RUNTIME)
    assert again.dice == pytest.approx(scored.dice[[2, 7, 12]])
    assert again.trust == pytest.approx(scored.trust[[2, 7, 12]], abs=1e-6)
    other = score_views(package, source, indices, config, 1, RUNTIME)
    assert not np.array_equal(other.dice[5:], scored.dice[5:])


def test_the_limit_is_three_quarters_of_the_clean_dice_unless_given(source: CaseStore) -> None:
    package = copying_package((16, 16), reward=True)
    flag = chosen_flag(package, source, TrustConfig(views=2), 0, RUNTIME)
    assert flag is not None
    assert (flag.dice_below, flag.images) == (0.75, 15)
    assert flag.basis == "5 validation images of the source, each clean and in 2 degraded views"
    given = chosen_flag(package, source, TrustConfig(views=0, dice_below=0.3), 0, RUNTIME)
    assert given is not None
    assert (given.dice_below, given.bad) == (0.3, 0)
