"""An expert's mask in PPO: the action replaced, reward 1, and its siblings judged by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from reward_data.case_store import CaseStore, import_cases
from reward_data.distortions import Identity
from reward_data.preprocess import PreprocessConfig
from reward_data.reward_store import ImageEntry, RewardStore, RewardStoreWriter
from reward_data.types import Case, LabelMap
from rl4seg.configs.ppo import PPOConfig
from rl4seg.target_data import target_data
from tests.rl4seg.ppo_problem import RUNTIME, batch, config, learner


def acted(baseline: str, reviewed: tuple[bool, ...] = (True, False)):  # type: ignore[no-untyped-def]
    """A rollout over two images; the expert's mask of each is its darker half, the opposite of what is rewarded."""
    plain = batch(3, 2)
    truth = (plain.images[:, 0] <= 0.5).long()
    given = plain._replace(truth=truth, accepted=torch.tensor(reviewed), reviewed=torch.tensor(reviewed))
    one = learner(config(baseline))
    logits, value = one.logits(given.images), one.value(given.images)
    rollout, _ = one.act(given, logits.detach(), value, torch.Generator().manual_seed(1))
    return rollout, truth, one


def test_with_a_critic_the_action_is_the_mask_and_earns_1() -> None:
    rollout, truth, _ = acted("critic")
    assert (rollout.actions[0, 0] == truth[0]).all()
    assert (rollout.reward[0] == 1).all()
    assert not (rollout.actions[1, 0] == truth[1]).all()
    assert (rollout.reward[1] == (rollout.actions[1] != truth[1])).all()  # TruthReward, as ever


def test_in_a_group_the_last_sample_is_the_mask_and_its_siblings_earn_their_agreement() -> None:
    rollout, truth, one = acted("group")
    assert (rollout.actions[0, -1] == truth[0]).all()
    assert not (rollout.actions[0, 0] == truth[0]).all()
    assert (rollout.reward[0] == (rollout.actions[0] == truth[0])).all()
    assert (rollout.reward[0, -1] == 1).all()
    # Something is left to compare: where a sibling is wrong, the expert's mask has the advantage.
    gain, weight = one.advantage(rollout)
    wrong = (rollout.actions[0, 0] != truth[0]) & (weight[0, -1] > 0)
    assert wrong.any()
    assert (gain[0, -1][wrong] > 0).all()
    assert (gain[0, 0][wrong] < 0).all()


def test_without_reviews_nothing_changes() -> None:
    plain = batch(3, 2)
    rollouts = []
    for given in (plain, plain._replace(reviewed=torch.tensor([False, False]))):
        one = learner(config("group"))
        logits, value = one.logits(given.images).detach(), one.value(given.images)
        rollouts.append(one.act(given, logits, value, torch.Generator().manual_seed(1))[0])
    assert all(torch.equal(a, b) for a, b in zip(*rollouts, strict=True))


def test_minibatches_and_anchors_carry_the_experts_masks(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (4, 1, 16, 16)).astype(np.float32)
    cases = (Case(f"c{i}", f"c{i}", "t", None, images[i], None, (1.0, 1.0), np.eye(4)) for i in range(4))
    import_cases(cases, 4, PreprocessConfig(shape=(16, 16)), LabelMap(), tmp_path / "cases.h5")
    truth = np.zeros((16, 16), np.uint8)
    truth[4:9, 4:9] = 2
    with RewardStoreWriter(tmp_path / "rewards.h5", 1, (16, 16)) as writer:
        for i, reviewed in ((1, True), (2, False)):
            grey = np.rint(images[i]).astype(np.uint8)
            writer.add(ImageEntry(f"c{i}", "train", True, grey, truth, reviewed), [(Identity(), truth)])
    with CaseStore(tmp_path / "cases.h5") as store, RewardStore(tmp_path / "rewards.h5") as rewards:
        # c1 is an expert's, c2 merely accepted: without accepted_images=as_actions only c1 has its mask as action.
        settings = PPOConfig(batch_size=4, source_replay=0, anchor_augment=None, anchor_batch=2)
        data = target_data(store, rewards, None, settings, 5, RUNTIME)
        mini = data.minibatch(0)
        assert mini.reviewed is not None
        assert int(mini.reviewed.sum()) == 1
        place = int(mini.reviewed.int().argmax())
        assert (mini.images[place].numpy() == store.images([1])[0]).all()
        assert (mini.truth[place].numpy() == truth).all()
        assert int((mini.truth.flatten(1) > 0).any(1).sum()) == 1
        assert int(mini.accepted.sum()) == 2
        assert (data.anchor_batches(0)[0].masks.numpy() == truth).all()
