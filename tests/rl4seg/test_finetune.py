"""The fine-tuning of `rl4seg.ppo` and the training of `rl4seg.reward_net` on files, as the flow calls them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from reward_data.anatomy import RuleSet
from reward_data.case_store import CaseStore
from reward_data.distortions import Identity
from reward_data.errors import DataError
from reward_data.mask_damage import Warp, damage_mask
from reward_data.reward_store import ImageEntry, RewardStore, RewardStoreWriter
from reward_data.types import no_progress
from rl4seg.configs.network import NetworkConfig
from rl4seg.configs.ppo import PPOConfig, RewardConfig, ShrinkPerturb
from rl4seg.configs.reward_net import RewardNetConfig
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.policies import Model, new_model, spec_for
from rl4seg.ppo import finetune
from rl4seg.reward_net import RewardExamples, load_reward_model, train_reward_net
from rl4seg.runtime import start
from rl4seg.target_data import target_data

RUNTIME = start(RuntimeConfig(device="cpu", threads=1))
NETWORK = NetworkConfig(features=(4, 4, 8, 8, 8, 4))
RULES = RuleSet.model_validate(
    {
        "name": "discs",
        "classes": ["background", "disc", "ring"],
        "rules": [{"kind": "present", "structure": "disc"}, {"kind": "one_piece", "structure": "disc"}],
    }
)
CONFIG = PPOConfig(
    epochs=1,
    batch_size=8,
    updates=2,
    anchor_batch=4,
    checkpoint_seconds=0,
    reward=RewardConfig(verdict=1, learned=0),
)


class Killed(Exception):
    pass


@pytest.fixture(scope="session")
def rewards(discs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 accepted discs with their truth, each with itself and with three warped masks; the last 6 are validation."""
    path = tmp_path_factory.mktemp("rewards") / "rewards.h5"
    with CaseStore(discs) as store, RewardStoreWriter(path, store.channels, store.shape) as writer:
        for i in range(12):
            one = np.array([i])
            truth = store.labels(one)[0]
            image = np.rint(store.images(one)[0] * 255).astype(np.uint8)
            entry = ImageEntry(store.ids[i], "train" if i < 6 else "val", True, image, truth)
            records = [Warp(strength=0.2, length=0.5, seed=10 * i + j) for j in range(3)]
            writer.add(
                entry, [(Identity(), truth), *((record, damage_mask(record, truth)) for record in records)]
            )
    return path


def tune(
    discs: Path, rewards: Path, out: Path, config: PPOConfig, progress=no_progress, iteration: int = 1
) -> Model:  # type: ignore[no-untyped-def]
    out.mkdir(parents=True, exist_ok=True)
    with CaseStore(discs) as store, RewardStore(rewards) as examples:
        policy = new_model(spec_for(NETWORK, store), 3)
        data = target_data(store, examples, store, config, 7, RUNTIME)
        finetune(policy, None, data, RULES, iteration, out, out / "checkpoint", progress)
    return policy


@pytest.mark.parametrize("changes", [{}, {"policy_weight": 0.0}, {"baseline": "critic", "samples": 1}])
def test_a_killed_fine_tuning_ends_with_the_same_bytes(
    discs: Path, rewards: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    config = CONFIG.model_copy(update=changes)

    def die(done: int, total: int, metrics: object = None) -> None:
        if done == 2:
            raise Killed

    tune(discs, rewards, tmp_path / "a", config)
    with pytest.raises(Killed):
        tune(discs, rewards, tmp_path / "b", config, die)
    assert not (tmp_path / "b/weights.safetensors").exists()
    tune(discs, rewards, tmp_path / "b", config)
    for name in ("weights.safetensors", "history.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_anchor_holds_accepted_and_replayed_images(discs: Path, rewards: Path) -> None:
    with CaseStore(discs) as store, RewardStore(rewards) as examples:
        for replay, wanted in ((0, 4), (3, 7)):
            config = CONFIG.model_copy(update={"source_replay": replay, "anchor_augment": None})
            data = target_data(store, examples, store, config, 7, RUNTIME)
            batches = data.anchor_batches(0)
            assert [len(anchor.images) for anchor in batches] == [wanted] * config.updates
        sources = [torch.from_numpy(store.images(np.array([i]))[0]) for i in range(20)]
        for image in batches[0].images[4:]:
            assert any(torch.allclose(image, source) for source in sources)


def test_shrink_and_perturb_starts_the_second_iteration(discs: Path, rewards: Path, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"shrink_perturb": ShrinkPerturb(), "learning_rate": 1e-12})
    first = tune(discs, rewards, tmp_path / "1", config, iteration=1)
    second = tune(discs, rewards, tmp_path / "2", config, iteration=2)
    sizes = [
        sum(float(p.detach().abs().sum()) for p in m.network.parameters() if p.ndim > 1)
        for m in (first, second)
    ]
    assert sizes[1] == pytest.approx(0.5 * sizes[0], rel=0.2)


def test_nothing_to_learn_from(discs: Path, rewards: Path, tmp_path: Path) -> None:
    with CaseStore(discs) as store, RewardStore(rewards) as examples:
        data = target_data(store, examples, None, CONFIG, 7, RUNTIME)
        data.indices = np.zeros(0, np.int64)
        with pytest.raises(DataError, match="no training image"):
            finetune(new_model(spec_for(NETWORK, store), 3), None, data, RULES, 1, tmp_path, tmp_path)


@pytest.mark.learning
def test_the_reward_net_learns_where_masks_are_wrong(rewards: Path, tmp_path: Path) -> None:
    config = RewardNetConfig(network=NETWORK, steps=150, batch_size=8, augment=None, learning_rate=0.01)
    with RewardStore(rewards) as store:
        examples = RewardExamples([store])
        names = ("background", "disc", "ring")
        figures = train_reward_net(examples, names, config, 1, RUNTIME, tmp_path, tmp_path / "checkpoint")
        reward = load_reward_model(tmp_path, RUNTIME)
        images, masks, errors = examples.read(examples.split("val"))
        scores = reward.score(RUNTIME.tensor(images), RUNTIME.tensor(masks, torch.long)[:, None])[
            :, 0
        ].numpy()
    assert figures["error_auroc"] > 0.8
    assert figures["ece_after"] <= figures["ece_before"] + 0.02
    assert scores[errors].mean() < scores[~errors].mean() - 0.2
