"""Signals worked out by hand from two tiny evaluations."""

from __future__ import annotations

import csv
from pathlib import Path

import h5py
import numpy as np
import pytest

from reward_data.errors import ArtifactError
from rl4seg.stop_signals import Observation, mean_areas, measure, read_observation

# Three images of 1 x 10 pixels, classes lv = 1 and myo = 2.
FIRST = np.array(
    [[[1, 1, 1, 1, 2, 2, 0, 0, 0, 0]], [[1, 1, 2, 2, 2, 2, 0, 0, 0, 0]], [[2, 0, 0, 0, 0, 0, 0, 0, 0, 0]]]
)
NOW = np.array(
    [[[1, 1, 2, 2, 2, 2, 0, 0, 0, 0]], [[1, 1, 2, 2, 2, 2, 0, 0, 0, 0]], [[0, 0, 0, 0, 0, 0, 0, 0, 0, 0]]]
)


def observation(
    masks: np.ndarray, valid: tuple[bool, ...], reward: tuple[float, ...] | None = None
) -> Observation:
    areas = {name: (masks == value).mean((1, 2)) for value, name in ((1, "lv"), (2, "myo"))}
    return Observation(
        np.array(valid), None if reward is None else np.array(reward), np.array([0.0, 0.1, 0.2]),
        np.array([0.3, 0.2, 0.1]), areas, masks.astype(np.uint8),
    )  # fmt: skip


def test_signals_by_hand() -> None:
    first = observation(FIRST, (True, True, False), (0.5, 0.5, 0.5))
    found = measure(
        2, observation(NOW, (True, False, False), (0.9, 0.6, 0.3)), first, {"lv": 0.4, "myo": 0.2}
    )
    assert (found.iteration, found.cases) == (2, 3)
    assert np.isclose(found.validity, 1 / 3)
    assert np.isclose(found.mean_reward, 0.6)
    assert np.isclose(found.kl, 0.1)
    assert np.isclose(found.entropy, 0.2)
    # On the two images where the policy given was valid: lv from 4 to 2 and from 2 to 2 pixels, (log .5 + 0) / 2;
    # myo from 2 to 4 and from 4 to 4, (log 2 + 0) / 2
    assert np.isclose(found.area_drift["lv"], -0.3466, atol=1e-4)
    assert np.isclose(found.area_drift["myo"], 0.3466, atol=1e-4)
    # lv on .2, .2, 0 of the images, mean .1333 against .4: log(1/3); myo .4, .4, 0: .2667 against .2: log(4/3)
    assert np.isclose(found.area_to_source["lv"], -1.0986, atol=1e-4)
    assert np.isclose(found.area_to_source["myo"], 0.2877, atol=1e-4)
    # First image: lv 2 x 2 / (4 + 2) = 2/3, myo 2 x 2 / (2 + 4) = 2/3; second: 1, 1
    assert np.isclose(found.agreement, (2 / 3 + 1) / 2)
    assert np.isclose(found.worst_drift, 0.3466, atol=1e-4)


def test_an_empty_class_counts_as_the_smallest_area() -> None:
    empty = observation(np.zeros_like(FIRST), (False,) * 3)
    found = measure(1, empty, observation(FIRST, (True, False, False)))
    # lv from .4 to nothing, which stands at .0001: log(.0001 / .4) = -8.294
    assert np.isclose(found.area_drift["lv"], -8.294, atol=1e-3)
    assert found.agreement == 0
    assert (found.mean_reward, found.shape_agreement, found.area_to_source) == (None, None, {})


def test_without_a_valid_mask_of_the_policy_given_all_are_compared() -> None:
    found = measure(1, observation(NOW, (True,) * 3), observation(FIRST, (False,) * 3))
    # third image: lv 0 to 0; myo from .1 to nothing: log(.0001 / .1) = -6.908; (log 2 + 0 - 6.908) / 3
    assert np.isclose(found.area_drift["myo"], (0.6931 + 0 - 6.9078) / 3, atol=1e-3)


def test_one_single_pixel_of_a_class() -> None:
    dot = np.zeros((1, 1, 10), int)
    dot[0, 0, 3] = 1
    pair = [
        Observation(
            np.array([True]), None, np.zeros(1), np.zeros(1), {"lv": np.array([0.1])}, dot.astype(np.uint8)
        )
        for _ in range(2)
    ]
    found = measure(0, *pair)
    assert (found.area_drift["lv"], found.agreement) == (0, 1)


def test_areas_of_labels() -> None:
    assert mean_areas(FIRST.astype(np.uint8), ("lv", "myo")) == pytest.approx({"lv": 0.2, "myo": 7 / 30})


def write_evaluation(folder: Path, reward: str) -> None:
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(
            file, ["case", "valid", "mean_reward", "entropy", "kl", "areas_lv", "dice_mean"]
        )
        writer.writeheader()
        for number in range(2):
            writer.writerow({"case": number, "valid": number, "mean_reward": reward, "entropy": 0.2, "kl": 0.1,
                             "areas_lv": 0.25, "dice_mean": 0.9})  # fmt: skip
    with h5py.File(folder / "maps.h5", "w") as file:
        file["masks"] = np.ones((2, 4, 4), np.uint8)


def test_an_evaluation_is_read_without_its_labels(tmp_path: Path) -> None:
    write_evaluation(tmp_path, "0.7")
    found = read_observation(tmp_path, ("lv",))
    assert found.valid.tolist() == [False, True]
    assert found.reward is not None
    assert found.reward.tolist() == [0.7, 0.7]
    assert found.areas["lv"].tolist() == [0.25, 0.25]
    assert found.masks.shape == (2, 4, 4)
    write_evaluation(tmp_path, "")
    assert read_observation(tmp_path, ("lv",)).reward is None


def test_what_is_no_evaluation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no evaluation of"):
        read_observation(tmp_path, ("lv",))
    write_evaluation(tmp_path, "0.7")
    with pytest.raises(ArtifactError, match="areas_myo"):
        read_observation(tmp_path, ("lv", "myo"))
