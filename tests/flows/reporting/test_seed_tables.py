"""What pages of several seeds share: spread, judgement, tidy tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.reporting.data import MeanSd
from flows.reporting.seed_tables import form, gather, judged, mean_sd, read_csv, write_csv


def test_mean_and_spread_over_seeds() -> None:
    assert mean_sd([1.0, 3.0]) == MeanSd(2.0, 2**0.5)  # n - 1: sqrt((1 + 1) / 1)
    assert mean_sd([5.0]) == MeanSd(5.0, 0.0)
    assert form(MeanSd(0.5, 0.25), 2, 2, "+") == "+0.50 ± 0.25"
    assert form(MeanSd(0.5, 0.0), 1) == "0.500"
    assert form(None, 3) == "–"


@pytest.mark.parametrize(
    ("gain", "seeds", "end"),
    [
        # sd .01; Student's t at 97.5 %: 4.303 with 3 seeds, 3.182 with 4; bounds .0248 and .0159
        (0.024, 3, "within the noise."),
        (0.026, 3, "better by more than chance."),
        (-0.026, 3, "worse by more than chance."),
        (0.015, 4, "within the noise."),
        (0.017, 4, "better by more than chance."),
        (0.5, 2, "too few to say whether that is more than noise."),
    ],
)
def test_a_difference_is_judged_by_a_t_test_over_seeds(gain: float, seeds: int, end: str) -> None:
    said = judged("It has more", MeanSd(gain, 0.01), seeds, ".01")
    assert said.startswith("It has more")
    assert said.endswith(end)


def test_tables_of_many_folders_become_one(tmp_path: Path) -> None:
    for arm, rows in (("a", [{"step": 1, "loss": 2}]), ("b", [{"step": 1, "reward": 3}])):
        (tmp_path / arm).mkdir()
        write_csv(rows, tmp_path / arm / "history.csv")
    places = [({"arm": arm}, tmp_path / arm) for arm in ("a", "b", "missing")]
    gather("history.csv", [*places, ({"arm": "untrained"}, None)], tmp_path)
    assert read_csv(tmp_path / "history.csv") == [
        {"arm": "a", "step": "1", "loss": "2", "reward": ""},
        {"arm": "b", "step": "1", "loss": "", "reward": "3"},
    ]
    gather("nothing.csv", places, tmp_path)
    assert not (tmp_path / "nothing.csv").exists()
