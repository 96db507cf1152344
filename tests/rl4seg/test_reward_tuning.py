from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reward_data.case_store import CaseStore, import_cases
from reward_data.errors import ConfigError, DataError
from reward_data.preprocess import PreprocessConfig
from reward_data.types import no_progress
from rl4seg.configs.network import NetworkConfig
from rl4seg.configs.reward_tuning import HeadsConfig, ReinforceConfig, TaskRewardConfig, TuningConfig
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.histories import read_history
from rl4seg.policies import load_model, new_model, spec_for
from rl4seg.reward_tuning import TuningBatch, TuningCases, store_class_weights, tune, tune_policy
from rl4seg.runtime import start
from rl4seg.task_rewards import RewardContext
from rl4seg.tuning_losses import TuningLoss
from tests.rl4seg.conftest import LABELS, disc_case

RUNTIME = start(RuntimeConfig(device="cpu", threads=1))
NETWORK = NetworkConfig(features=(4, 4, 8, 8, 8, 4))
ESTIMATORS = ("reinforce", "weighted_ce", "cross_entropy", "dice", "lovasz")


def config(**changes: Any) -> TuningConfig:
    given = {"steps": 4, "batch_size": 4, "learning_rate": 1e-2, "validate_every": 2, "checkpoint_seconds": 0}
    return TuningConfig(**given | changes)


@pytest.fixture(scope="session")
def validated_discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10 training and 3 validation cases on a 32 x 32 grid, the last validation case without a label."""
    path = tmp_path_factory.mktemp("validated_discs") / "cases.h5"
    cases = [disc_case(i, "train") for i in range(10)]
    cases += [disc_case(10 + i, "val", labelled=i < 2) for i in range(3)]
    import_cases(cases, len(cases), PreprocessConfig(shape=(32, 32)), LABELS, path)
    return path


def tuned(
    path: Path, out: Path, settings: TuningConfig, seed: int = 3, progress: Any = no_progress
) -> dict[str, float]:
    out.mkdir(parents=True, exist_ok=True)
    with CaseStore(path) as store:
        policy = new_model(spec_for(NETWORK, store), 5)
        return tune_policy(policy, store, None, settings, seed, RUNTIME, out, out / "checkpoint", progress)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_estimator_trains_and_leaves_tidy_figures(
    estimator: str, validated_discs: Path, tmp_path: Path
) -> None:
    figures = tuned(validated_discs, tmp_path, config(estimator=estimator))
    losses, metrics = read_history(tmp_path / "losses.csv"), read_history(tmp_path / "metrics.csv")
    assert losses["step"] == [1, 2, 3, 4]
    assert metrics["step"] == [0, 2, 4]
    assert list(metrics) == ["step", "miou", "dice", "accuracy", "reward"]
    assert metrics["reward"] == metrics["miou"]  # the default reward
    assert figures["steps"] == 4
    assert figures["val_miou"] == pytest.approx(metrics["miou"][-1], abs=1e-5)
    own = {"reinforce": "reward_sd", "weighted_ce": "image_weight"}.get(estimator)
    assert own is None or np.isfinite(losses[own]).all()
    with CaseStore(validated_discs) as store:
        fresh = new_model(spec_for(NETWORK, store), 5).network.state_dict()
    after = load_model(tmp_path, RUNTIME).network.state_dict()
    assert any(not torch.equal(fresh[name], after[name]) for name in fresh)


@pytest.mark.parametrize("estimator", ["reinforce", "weighted_ce"])
def test_a_killed_tuning_ends_with_the_same_bytes(
    estimator: str, validated_discs: Path, tmp_path: Path
) -> None:
    class Killed(Exception):
        pass

    def die(done: int, total: int, metrics: object = None) -> None:
        if done == 3:
            raise Killed

    settings = config(estimator=estimator)
    tuned(validated_discs, tmp_path / "a", settings)
    with pytest.raises(Killed):
        tuned(validated_discs, tmp_path / "b", settings, progress=die)
    tuned(validated_discs, tmp_path / "b", settings)
    for name in ("weights.safetensors", "losses.csv", "metrics.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    tuned(validated_discs, tmp_path / "c", settings, seed=4)
    assert (tmp_path / "a" / "losses.csv").read_bytes() != (tmp_path / "c" / "losses.csv").read_bytes()


class OnePixelEach(nn.Module):
    """Free logits for every pixel of one image: the optimum is known, and nothing but the loss can reach it."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(1, 3, *shape))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.expand(len(images), *self.logits.shape[1:])


def tuned_freely(settings: TuningConfig, tmp_path: Path, network: nn.Module) -> list[dict[str, float]]:
    truth = torch.zeros(4, 6, 6, dtype=torch.long)
    truth[:, 1:4, 1:4], truth[:, 4:, 4:] = 1, 2
    context = RewardContext(("background", "a", "b"), [(1.0, 1.0)] * 4, settings.ignore_index)
    batch = TuningBatch(torch.zeros(4, 1, 6, 6), truth, context)
    loss = TuningLoss(settings)
    loss.mix.try_out(context, (6, 6))
    return tune(network, lambda step: batch, loss, None, RUNTIME, 1, tmp_path / "checkpoint")


@pytest.mark.parametrize("baseline", ["leave_one_out", "greedy", "batch_mean"])
def test_the_known_optimum_is_found_by_reward_alone(baseline: str, tmp_path: Path) -> None:
    settings = config(
        steps=250, learning_rate=0.1, checkpoint_seconds=60, grad_norm=10,
        reward=TaskRewardConfig(mix={"miou": 1, "accuracy": 1}),
        reinforce=ReinforceConfig(samples=8, baseline=baseline, log_prob="sum"),
    )  # fmt: skip
    history = tuned_freely(settings, tmp_path, OnePixelEach((6, 6)))
    assert history[0]["reward"] < 0.35
    assert history[-1]["reward"] > 0.85


class TwoOutputs(OnePixelEach):
    """A fine output and a coarse auxiliary one."""

    def __init__(self) -> None:
        super().__init__((6, 6))
        self.coarse = OnePixelEach((3, 3))

    def forward(self, images: Tensor) -> Any:
        return {"out": super().forward(images), "aux": self.coarse(images)}


@pytest.mark.parametrize("auxiliary", ["same", "cross_entropy"])
def test_every_output_learns_with_its_own_weight(auxiliary: str, tmp_path: Path) -> None:
    network = TwoOutputs()
    heads = HeadsConfig(weights={"aux": 0.5}, auxiliary=auxiliary)
    history = tuned_freely(config(heads=heads), tmp_path, network)
    row = history[-1]
    assert row["loss"] == pytest.approx(row["loss_out"] + 0.5 * row["loss_aux"], rel=1e-5)
    assert network.logits.any()
    assert network.coarse.logits.any()
    if auxiliary == "cross_entropy":  # of even odds among three classes, at the first step
        assert history[0]["loss_aux"] == pytest.approx(np.log(3), rel=1e-5)


def test_class_weights_as_list_file_and_computed(validated_discs: Path, tmp_path: Path) -> None:
    with CaseStore(validated_discs) as store:
        train = store.indices("train", labelled=True)
        assert store_class_weights(config(), store, train) is None
        assert store_class_weights(config(class_weights=(1, 2, 3)), store, train) == (1, 2, 3)
        (tmp_path / "weights.yaml").write_text("class_weights: [3, 2, 1]")
        given = config(class_weights=str(tmp_path / "weights.yaml"))
        assert store_class_weights(given, store, train) == (3, 2, 1)
        found = store_class_weights(config(class_weights="computed", class_smooth=0.2), store, train)
        counts = np.bincount(store.labels(train).ravel(), minlength=3)
        raw = 1 / (counts + 0.2 * counts.sum())
        assert found == pytest.approx(3 * raw / raw.sum())
        assert found[1] > found[2] > found[0]  # the disc is the rarest


def test_bad_input_is_one_clear_error_before_the_training(validated_discs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="class_weights has 2 values, the label map has 3 classes"):
        tuned(validated_discs, tmp_path, config(class_weights=(1.0, 2.0)))
    with pytest.raises(ConfigError, match="no reward 'mioU'"):
        tuned(validated_discs, tmp_path, config(reward={"mix": {"mioU": 1}}))
    with pytest.raises(ConfigError, match="needs anatomical rules"):
        tuned(validated_discs, tmp_path, config(reward={"mix": {"validity": 1}}))
    unlabelled = tmp_path / "cases.h5"
    import_cases([disc_case(0, "train", False)], 1, PreprocessConfig(shape=(32, 32)), LABELS, unlabelled)
    with pytest.raises(DataError, match="no labelled training case"):
        tuned(unlabelled, tmp_path, config())
    alone = (
        tmp_path / "one.h5"
    )  # one image fills the batch of four, and its one mask has no other to compare with
    import_cases([disc_case(0, "train")], 1, PreprocessConfig(shape=(32, 32)), LABELS, alone)
    one_mask = ReinforceConfig(samples=1, baseline="batch_mean")
    with pytest.raises(ConfigError, match=r"set reinforce.samples=2"):
        tuned(alone, tmp_path, config(reinforce=one_mask))


def test_a_batch_of_one_is_no_trouble(validated_discs: Path, tmp_path: Path) -> None:
    for estimator in ESTIMATORS:
        figures = tuned(
            validated_discs, tmp_path / estimator, config(estimator=estimator, batch_size=1, steps=1)
        )
        assert np.isfinite(figures["loss"])


def test_a_batch_without_a_class_that_counts_is_one_clear_error(tmp_path: Path) -> None:
    settings = config(estimator="weighted_ce")
    context = RewardContext(("background", "a", "b"), [(1.0, 1.0)])
    loss = TuningLoss(settings, torch.tensor([0.0, 0.0, 1.0]))
    with pytest.raises(DataError, match=r"has the classes \[0\] only"):
        loss(torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long), context, torch.Generator())


def test_a_reward_that_breaks_later_stops_the_training_with_its_name(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "import torch\ncalls = []\n\n\ndef reward(masks, truth, context):\n    calls.append(1)\n"
        "    return torch.full(masks.shape[:2], float('nan') if len(calls) > 2 else 0.5)\n"
    )
    settings = config(reward=TaskRewardConfig(mix={f"{file}:reward": 1}))
    with pytest.raises(ConfigError, match=r"own.py:reward' returned nan for image 0"):
        tuned_freely(settings, tmp_path, OnePixelEach((6, 6)))


def test_batches_are_those_of_continued_training(validated_discs: Path) -> None:
    from rl4seg.continued import ORDER, LabelledCases

    with CaseStore(validated_discs) as store:
        settings = config(augment=None)
        cases = TuningCases(store, store.indices("train", labelled=True), settings, RUNTIME)
        for step in (0, 3):
            images, labels = LabelledCases(store, 4).read(step, 7, ORDER, 0)
            batch = cases.training(step, 7)
            np.testing.assert_array_equal(batch.images.numpy(), images)
            np.testing.assert_array_equal(batch.truth.numpy(), labels)


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match="samples=2 or more"):
        ReinforceConfig(samples=1)
    with pytest.raises(ValueError, match="batch_mean"):
        TuningConfig(batch_size=1, reinforce=ReinforceConfig(samples=1, baseline="batch_mean"))
    with pytest.raises(ValueError, match="0 or more"):
        TuningConfig(class_weights=(1.0, -1.0))
