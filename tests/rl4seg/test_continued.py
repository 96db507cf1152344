from pathlib import Path

import numpy as np
import pytest
import torch

from reward_data.case_store import CaseStore, import_cases
from reward_data.errors import DataError
from reward_data.preprocess import PreprocessConfig
from reward_data.types import no_progress
from rl4seg.configs.augment import AugmentConfig
from rl4seg.configs.network import NetworkConfig
from rl4seg.configs.rivals import ContinuedConfig
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.continued import LabelledCases, continue_training, descend
from rl4seg.histories import read_history
from rl4seg.policies import load_model, new_model, spec_for
from rl4seg.runtime import start
from tests.rl4seg.conftest import LABELS, disc_case

RUNTIME = start(RuntimeConfig(device="cpu", threads=1))
NETWORK = NetworkConfig(features=(4, 4, 8, 8, 8, 4))
CONFIG = ContinuedConfig(
    batch_size=8, replay=4, learning_rate=0.01, grad_norm=1.0, augment=AugmentConfig(), checkpoint_seconds=0
)


class Killed(Exception):
    pass


def trained(
    discs: Path, out: Path, replay: bool = True, steps: int = 8, seed: int = 3, progress=no_progress
) -> dict[str, float]:  # type: ignore[no-untyped-def]
    out.mkdir(parents=True, exist_ok=True)
    with CaseStore(discs) as store:
        policy = new_model(spec_for(NETWORK, store), 5)
        parts = [LabelledCases(store, 8), *([LabelledCases(store, 4)] if replay else [])]
        return continue_training(
            policy, parts, CONFIG, steps, seed, RUNTIME, out, out / "checkpoint", progress
        )


def test_a_killed_training_ends_with_the_same_bytes(discs: Path, tmp_path: Path) -> None:
    def die(done: int, total: int, metrics: object = None) -> None:
        if done == 3:
            raise Killed

    assert trained(discs, tmp_path / "a")["steps"] == 8
    with pytest.raises(Killed):
        trained(discs, tmp_path / "b", progress=die)
    trained(discs, tmp_path / "b")
    for name in ("weights.safetensors", "history.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_seed_and_replay_change_the_policy(discs: Path, tmp_path: Path) -> None:
    for name, changes in (("a", {}), ("b", {"seed": 4}), ("c", {"replay": False})):
        trained(discs, tmp_path / name, steps=2, **changes)  # type: ignore[arg-type]
    files = {(tmp_path / name / "weights.safetensors").read_bytes() for name in "abc"}
    assert len(files) == 3


@pytest.mark.learning
def test_it_goes_on_from_where_the_policy_is(discs: Path, tmp_path: Path) -> None:
    trained(discs, tmp_path / "first", replay=False, steps=60)
    with CaseStore(discs) as store:
        policy = load_model(tmp_path / "first", RUNTIME)
        (tmp_path / "second").mkdir()
        continue_training(
            policy, [LabelledCases(store, 8)], CONFIG, 10, 9, RUNTIME, tmp_path / "second", tmp_path / "checkpoint"
        )  # fmt: skip
    first, second = (read_history(tmp_path / name / "history.csv")["loss"] for name in ("first", "second"))
    assert np.mean(first[-10:]) < 0.5 * first[0]
    assert np.mean(second) < 1.2 * np.mean(first[-10:])  # no jump back to the start


def test_only_labelled_training_cases_are_read(discs: Path, tmp_path: Path) -> None:
    cases = [disc_case(0, "train"), disc_case(2, "train", labelled=False), disc_case(4, "test")]
    import_cases(cases, 3, PreprocessConfig(shape=(32, 32)), LABELS, tmp_path / "few.h5")
    with CaseStore(tmp_path / "few.h5") as store:
        part = LabelledCases(store, 8)
        assert part.indices.tolist() == [0]
        images, labels = part.read(0, 1)
        assert (images.shape, labels.shape) == (
            (1, 1, 32, 32),
            (1, 32, 32),
        )  # fewer than asked for, none twice
    import_cases(cases[1:], 2, PreprocessConfig(shape=(32, 32)), LABELS, tmp_path / "none.h5")
    with (
        CaseStore(tmp_path / "none.h5") as store,
        pytest.raises(DataError, match="no labelled training case"),
    ):
        LabelledCases(store, 8)


def test_a_step_is_clipped() -> None:
    # d(3 x)/dx = 3, clipped to .5; plain gradient descent with rate 1 then moves x from 1 to .5, unclipped to -2
    for limit, wanted in ((0.5, 0.5), (None, -2.0)):
        x = torch.tensor([1.0], requires_grad=True)
        descend(torch.optim.SGD([x], lr=1.0), 3 * x.sum(), [x], limit)
        assert x.item() == pytest.approx(wanted, abs=1e-5)
