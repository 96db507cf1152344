"""Views of labelled images that get worse: what is drawn, and how far it can go."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reward_data.case_store import CaseStore, import_cases
from reward_data.types import Case, LabelMap
from rl4seg.configs.augment import DegradeConfig
from rl4seg.configs.trust import TrustConfig
from rl4seg.trust_views import at_strength, judging_cases, mean_dice, scored_views
from tests.rl4seg.copying import NAMES, RUNTIME, copying_package, image_of, ring


def test_mean_dice_over_classes() -> None:
    mask, label = np.array([[1, 1, 2, 0]], np.uint8), np.array([[1, 0, 2, 0]], np.uint8)
    assert mean_dice(mask, label, 3) == pytest.approx((2 / 3 + 1) / 2)


def test_a_degradation_is_made_stronger_within_its_bounds() -> None:
    config = DegradeConfig(share=0.6, attenuation=2.0, blur=0.02, haze=0.4, gamma=0.0, dimming=0.4)
    worse = at_strength(config, 3.0)
    assert (worse.share, worse.attenuation, worse.gamma) == (0.6, 6.0, 0.0)
    assert (worse.blur, worse.haze, worse.dimming) == (
        pytest.approx(0.06),
        1.0,
        0.99,
    )  # 1.2: at most 1; below 1
    DegradeConfig.model_validate(
        at_strength(DegradeConfig(), 100.0).model_dump()
    )  # allowed, whatever the factor
    assert at_strength(config, 1.0) == config


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


def test_views_are_scored_alike_in_any_batch(source: CaseStore) -> None:
    package = copying_package((16, 16), reward=True)
    indices, basis = judging_cases(source)
    assert (indices.tolist(), basis) == ([3, 4, 5, 6, 7], "5 validation images of the source")
    config = TrustConfig(views=2, strengths=(0.05, 2.0))
    clean, mild, strong = scored_views(package, source, indices, config, 0, RUNTIME)
    assert [part.strength for part in (clean, mild, strong)] == [0, 0.05, 2.0]
    assert [len(part.trust) for part in (clean, mild, strong)] == [5, 10, 10]
    assert clean.dice == pytest.approx(1.0)  # it copies clean images
    assert strong.dice.mean() < mild.dice.mean()  # and darkened ones to the wrong class
    one = list(scored_views(package, source, indices[2:3], config, 0, RUNTIME))[2]
    assert one.dice == pytest.approx(strong.dice[[2, 7]])
    assert one.trust == pytest.approx(strong.trust[[2, 7]], abs=1e-6)
    other = list(scored_views(package, source, indices, config, 1, RUNTIME))[2]
    assert not np.array_equal(other.dice, strong.dice)


def test_views_that_are_not_asked_for_are_not_made(source: CaseStore) -> None:
    seen: list[tuple[int, int]] = []
    views = scored_views(
        copying_package((16, 16), reward=True),
        source,
        judging_cases(source)[0],
        TrustConfig(views=2),
        0,
        RUNTIME,
        lambda done, total: seen.append((done, total)),
    )
    next(views)
    assert seen[-1] == (5, 5 * (1 + 2 * 6))
    assert (
        len(
            list(
                scored_views(
                    copying_package((16, 16), reward=True),
                    source,
                    np.arange(2),
                    TrustConfig(views=0),
                    0,
                    RUNTIME,
                )
            )
        )
        == 1
    )
