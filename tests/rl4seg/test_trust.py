"""Trust in predicted masks, and what an expert is shown."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reward_data.case_store import CaseStore, import_cases
from reward_data.preprocess import PreprocessConfig
from reward_data.types import Case, Int64, LabelMap, UInt8
from rl4seg.configs.network import NetworkConfig
from rl4seg.policies import Model, new_model, spec_for
from rl4seg.reward_net import RewardModel
from rl4seg.trust import inspect, mask_trust
from tests.rl4seg.ppo_problem import RUNTIME


class HalfSure(RewardModel):
    """Sure to .75 of class 1, to .25 of class 2, wholly of the background."""

    def __init__(self) -> None:
        self.runtime = RUNTIME

    def score(self, images: Tensor, masks: Tensor) -> Tensor:
        return torch.tensor([1.0, 0.75, 0.25])[masks]


@pytest.fixture
def store(tmp_path: Path) -> CaseStore:
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (3, 1, 16, 16)).astype(np.float32)
    cases = (Case(f"c{i}", f"c{i}", "t", None, images[i], None, (1.0, 1.0), np.eye(4)) for i in range(3))
    import_cases(cases, 3, PreprocessConfig(shape=(16, 16)), LabelMap(), tmp_path / "cases.h5")
    return CaseStore(tmp_path / "cases.h5")


class EvenOdds(nn.Module):
    """Class 0 with probability 1/2, classes 1 and 2 with 1/4 each: exp(log 2, 0, 0) / 4."""

    def forward(self, images: Tensor) -> Tensor:
        logits = torch.zeros(len(images), 3, *images.shape[2:])
        logits[:, 0] = math.log(2)
        return logits


def even_odds(store: CaseStore) -> Model:
    return Model(spec_for(NetworkConfig(), store), EvenOdds())  # type: ignore[arg-type]


def test_trust_is_the_dice_that_reward_times_softmax_lets_expect(store: CaseStore) -> None:
    """Wrong with probability 1 - 1/2 (background), 1 - .75 x 1/4 = .8125 (class 1), 1 - .25 x 1/4 = .9375 (class 2)."""
    masks = np.zeros((3, 16, 16), np.uint8)
    masks[0, :2], masks[0, 2:4] = 1, 2  # 32 pixels of either; reach round(.15 x 8) = 1: the 16 pixels below
    masks[1, 5:9, 5:9] = 1  # 16 pixels; reach 1: the 20 pixels around
    # 1 - (32 x .8125 + 32 x .9375 + 16 x .5) / 128; 1 - (16 x .8125 + 20 x .5) / 32; nothing
    trust = mask_trust(even_odds(store), HalfSure(), store, np.arange(3), masks.__getitem__)
    assert trust == pytest.approx([0.5, 0.28125, 0.0])


def test_masks_are_asked_for_in_batches(store: CaseStore) -> None:
    asked: list[list[int]] = []

    def masks(places: Int64) -> UInt8:
        asked.append(places.tolist())
        return np.full((len(places), 16, 16), 1 + places[0] // 2, np.uint8)

    net = HalfSure()
    net.runtime = replace(RUNTIME, batch_size=2)
    # Cases 0 and 1 are all class 1, 1 - .8125 / 2; case 2 all class 2, 1 - .9375 / 2.
    assert mask_trust(even_odds(store), net, store, np.arange(3), masks) == pytest.approx(
        [0.59375, 0.59375, 0.53125]
    )
    assert asked == [[0, 1], [2]]


def test_expected_errors_are_those_of_the_policys_own_masks(store: CaseStore) -> None:
    network = NetworkConfig(features=(4, 4, 8, 8, 8, 4), fold=1)
    model = new_model(spec_for(network, store), 0, 1)
    shown = inspect(model, HalfSure(), store, np.array([2, 0]), RUNTIME)
    assert shown.probabilities.shape == (2, 3, 16, 16)
    assert shown.probabilities.sum(1) == pytest.approx(np.ones((2, 16, 16)), abs=1e-5)
    wanted = 1 - np.array([1.0, 0.75, 0.25])[shown.probabilities.argmax(1)] * shown.probabilities.max(1)
    assert shown.error == pytest.approx(wanted)
