from pathlib import Path

import numpy as np
import pytest
import torch

from reward_data.case_store import CaseStore
from reward_data.reward_store import RewardStore
from rl4seg.configs.augment import AugmentConfig, DegradeConfig
from rl4seg.configs.reward_net import RewardNetConfig
from rl4seg.degraded_examples import DegradedExamples
from rl4seg.policies import new_model, spec_for
from rl4seg.reward_net import RewardExamples, train_reward_net
from tests.rl4seg.test_finetune import NETWORK, RUNTIME, rewards  # noqa: F401

STILL = AugmentConfig(rotation_degrees=0, scale=0, shift=0, brightness=0, contrast=0, gamma=0, noise=0)


@pytest.fixture
def made(discs: Path, rewards: Path):  # type: ignore[no-untyped-def]  # noqa: F811
    with CaseStore(discs) as store, RewardStore(rewards) as examples:
        policy = new_model(spec_for(NETWORK, store), 3)

        def examples_of(source: bool = True, **changes: object) -> DegradedExamples:
            config = RewardNetConfig.model_validate({"degraded_augment": STILL} | changes)
            return DegradedExamples(policy, examples, store if source else None, config, 5, RUNTIME)

        yield examples_of, store, examples


def test_half_are_accepted_target_images_of_the_split_and_half_labelled_source(made) -> None:  # type: ignore[no-untyped-def]
    examples_of, store, rewards = made  # noqa: F811
    images, _, _, truths = examples_of().batch("train", 6, 0)
    held = [store.images([int(i)])[0] for i in store.indices("train", labelled=True)]
    anchors = [i for i in rewards.anchors() if rewards.image_splits[int(i)] == "train"]
    for image, truth in zip(images[:3].numpy(), truths[:3].numpy(), strict=True):
        known = [np.allclose(image, rewards.anchor_images(np.array([i]))[0], atol=1e-5) for i in anchors]
        assert any(known)
        assert (truth == rewards.truths(np.array([anchors[known.index(True)]]))[0]).all()
    assert all(any(np.allclose(image, one, atol=1e-5) for one in held) for image in images[3:].numpy())
    assert len(examples_of(source=False).batch("train", 6, 0)[0]) == 6


def test_errors_are_the_policys_own_against_the_truth(made) -> None:  # type: ignore[no-untyped-def]
    examples_of, _, _ = made
    degraded = examples_of(sampled=0.0, degraded_augment=AugmentConfig(degrade=DegradeConfig(share=1)))
    images, masks, errors, truths = degraded.batch("val", 4, 1)
    with torch.no_grad():
        assert torch.equal(masks, degraded.policy.network(images).argmax(1))
    assert torch.equal(errors, (masks != truths).long())
    assert errors.any()


def test_equal_numbers_equal_batches(made) -> None:  # type: ignore[no-untyped-def]
    examples_of, _, _ = made
    first, second, other = (examples_of().batch("train", 4, number) for number in (2, 2, 3))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], other[0])


def test_the_reward_net_is_trained_and_calibrated_on_them(made, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    examples_of, _, rewards = made  # noqa: F811
    degraded = examples_of(degraded_augment=AugmentConfig(degrade=DegradeConfig(share=1)))
    config = RewardNetConfig(network=NETWORK, steps=3, batch_size=2, degraded=4)
    outcome = []
    for name, live in (("with", degraded), ("again", degraded), ("without", None)):
        out = tmp_path / name
        out.mkdir()
        names = ("background", "disc", "ring")
        arguments = (RewardExamples([rewards]), names, config, 1, RUNTIME, out, out / "checkpoint")
        outcome.append(train_reward_net(*arguments, degraded=live))
    assert outcome[0] == outcome[1]
    assert outcome[0]["loss"] != outcome[2]["loss"]
