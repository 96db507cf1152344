"""`rl4seg.configs.rivals`: the number of steps is the loop's own, and all rivals can be had at once."""

from pathlib import Path

import numpy as np
import pytest

from reward_data.anatomy import RuleSet
from reward_data.case_store import CaseStore
from reward_data.reward_store import ImageEntry, RewardStore, RewardStoreWriter
from rl4seg.configs.network import NetworkConfig
from rl4seg.configs.ppo import PPOConfig, RewardConfig
from rl4seg.configs.rivals import RivalsConfig, StepBudget
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.policies import new_model, spec_for
from rl4seg.ppo import Learner, finetune
from rl4seg.runtime import start
from rl4seg.target_data import target_data

RUNTIME = start(RuntimeConfig(device="cpu", threads=1))
NETWORK = NetworkConfig(features=(4, 4, 4, 4, 4, 4))
RULES = RuleSet.model_validate({"name": "any", "classes": ["background", "disc", "ring"], "rules": []})


@pytest.mark.parametrize(
    ("images", "steps"),
    [
        (300, 4 * 3 * 19 * 3),  # 300 / 16 = 18.75, so 19 rounds an epoch: the 684 steps of the study
        (304, 4 * 3 * 19 * 3),  # 19 full batches
        (305, 4 * 3 * 20 * 3),
        (1, 4 * 3 * 1 * 3),
    ],
)
def test_steps_by_hand(images: int, steps: int) -> None:
    assert StepBudget.of(4, PPOConfig()).steps(images) == steps


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_budget_is_what_the_loop_does(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weight: float
) -> None:
    """Optimiser steps of two iterations of the real fine-tuning, counted."""
    reward = RewardConfig(verdict=1.0, learned=0.0)
    config = PPOConfig(epochs=2, batch_size=8, updates=2, anchor_batch=4, policy_weight=weight, reward=reward)
    counted: list[int] = []
    update = Learner.update
    monkeypatch.setattr(Learner, "update", lambda self, loss: (counted.append(1), update(self, loss))[1])
    with CaseStore(discs) as store:
        with RewardStoreWriter(tmp_path / "rewards.h5", store.channels, store.shape) as writer:
            image = np.rint(store.images([0])[0] * 255).astype(np.uint8)
            writer.add(ImageEntry(store.ids[0], "train", True, image, store.labels([0])[0]), [])
        policy = new_model(spec_for(NETWORK, store), 0)
        for iteration in (1, 2):
            out = tmp_path / str(iteration)
            out.mkdir()
            with RewardStore(tmp_path / "rewards.h5") as rewards:
                data = target_data(store, rewards, None, config, 0, RUNTIME)
                finetune(policy, None, data, RULES, iteration, out, out / "checkpoint")
        images = len(store.indices("train"))
    assert images == 20  # three batches of 8 an epoch
    assert len(counted) == StepBudget.of(2, config).steps(images) == 2 * 2 * 3 * 2


def test_all_rivals_keep_their_settings() -> None:
    mine = RivalsConfig(logit_bias=False, tent_training={"learning_rate": 0.5})
    for wanted in (True, False):
        every = mine.all(upper_bound=wanted)
        switches = {name: value for name, value in every.model_dump().items() if isinstance(value, bool)}
        assert len(switches) == 8
        assert {name for name, on in switches.items() if not on} == (set() if wanted else {"upper_bound"})
        assert every.tent_training.learning_rate == 0.5


def test_the_defaults_are_the_quick_ones() -> None:
    on = {name for name, value in RivalsConfig().model_dump().items() if value is True}
    assert on == {"logit_bias", "ppo_off"}
