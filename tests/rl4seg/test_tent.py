from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from reward_data.case_store import CaseStore
from reward_data.errors import ConfigError, DataError
from reward_data.types import no_progress
from rl4seg.configs.network import NetworkConfig
from rl4seg.configs.rivals import TentConfig
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.histories import read_history
from rl4seg.losses import categorical_entropy
from rl4seg.networks import norm_parameter_names
from rl4seg.policies import Model, new_model, spec_for
from rl4seg.runtime import start
from rl4seg.tent import minimise_entropy

RUNTIME = start(RuntimeConfig(device="cpu", threads=1))
FEATURES = (8, 8, 8, 8, 8, 8)


class Killed(Exception):
    pass


def adapted(discs: Path, out: Path, norm: str = "instance", steps: int = 12, progress=no_progress) -> Model:  # type: ignore[no-untyped-def]
    out.mkdir(parents=True, exist_ok=True)
    with CaseStore(discs) as store:
        policy = new_model(spec_for(NetworkConfig(features=FEATURES, norm=norm), store), 5)  # type: ignore[arg-type]
        config = TentConfig(learning_rate=0.01)
        chosen = store.indices("train")
        minimise_entropy(
            policy, store, chosen, config, 8, steps, 3, RUNTIME, out, out / "checkpoint", progress, 0.0
        )
    return policy


def mean_entropy(discs: Path, policy: Model) -> float:
    with CaseStore(discs) as store, torch.no_grad():
        images = RUNTIME.tensor(store.images(store.indices("train")))
        return float(categorical_entropy(policy.network(images)).mean())


@pytest.mark.parametrize("norm", ["instance", "group", "batch"])
def test_entropy_falls_and_nothing_but_scale_and_shift_moves(discs: Path, tmp_path: Path, norm: str) -> None:
    policy = adapted(discs, tmp_path, norm)
    with CaseStore(discs) as store:
        before = new_model(spec_for(NetworkConfig(features=FEATURES, norm=norm), store), 5)  # type: ignore[arg-type]
    free = norm_parameter_names(before.network)
    start_of = dict(before.network.named_parameters())
    for name, parameter in policy.network.named_parameters():
        assert torch.equal(parameter, start_of[name]) == (name not in free), name
    entropy = read_history(tmp_path / "history.csv")["entropy"]
    assert len(entropy) == 12
    assert entropy[-1] < 0.98 * entropy[0]  # the first batch holds every second image
    assert mean_entropy(discs, policy) < 0.98 * mean_entropy(discs, before) or norm == "batch"


def test_batch_statistics_are_the_targets(discs: Path, tmp_path: Path) -> None:
    policy = adapted(discs, tmp_path, "batch", steps=1)
    first = next(m for m in policy.network.modules() if isinstance(m, nn.BatchNorm2d))
    assert not torch.allclose(first.running_mean, torch.zeros_like(first.running_mean))  # 0 where it was made


def test_a_killed_adaptation_ends_with_the_same_bytes(discs: Path, tmp_path: Path) -> None:
    def die(done: int, total: int, metrics: object = None) -> None:
        if done == 5:
            raise Killed

    adapted(discs, tmp_path / "a", "batch")
    with pytest.raises(Killed):
        adapted(discs, tmp_path / "b", "batch", progress=die)
    assert not (tmp_path / "b/weights.safetensors").exists()
    assert (tmp_path / "b/checkpoint/state.pt").exists()
    adapted(discs, tmp_path / "b", "batch")
    for name in ("weights.safetensors", "history.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_no_normalisation_and_no_image_are_said(discs: Path, tmp_path: Path) -> None:
    with CaseStore(discs) as store:
        spec = spec_for(NetworkConfig(), store)
        bare = Model(spec, nn.Conv2d(1, 3, 1))  # type: ignore[arg-type]
        chosen = store.indices("train")
        with pytest.raises(ConfigError, match=r"this policy has none; set rivals.tent=false"):
            minimise_entropy(bare, store, chosen, TentConfig(), 8, 1, 0, RUNTIME, tmp_path, tmp_path)
        with pytest.raises(DataError, match="no training image"):
            minimise_entropy(
                new_model(spec), store, np.zeros(0, np.int64), TentConfig(), 8, 1, 0, RUNTIME, tmp_path, tmp_path
            )  # fmt: skip
