from pathlib import Path

import numpy as np
import pytest

from reward_data.case_store import CaseStore
from reward_data.errors import DataError
from rl4seg.configs.network import NetworkConfig
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.configs.supervised import SupervisedConfig
from rl4seg.histories import read_history
from rl4seg.policies import load_model, spec_for
from rl4seg.predict import Predictions, predict
from rl4seg.runtime import start
from rl4seg.supervised import train_policy

RUNTIME = start(RuntimeConfig(device="cpu", threads=1))
NETWORK = NetworkConfig(features=(4, 8, 8, 8, 8, 8))
QUICK = SupervisedConfig(steps=60, batch_size=8, augment=None, learning_rate=0.02)


def train(store: CaseStore, out: Path, config: SupervisedConfig = QUICK, seed: int = 0) -> dict[str, float]:
    out.mkdir(parents=True)
    chosen = store.indices("train", labelled=True)
    return train_policy(
        store, chosen, spec_for(NETWORK, store), config, seed, RUNTIME, out, out / "checkpoint"
    )


@pytest.mark.learning
def test_discs_are_learned_and_predicted(discs: Path, tmp_path: Path) -> None:
    with CaseStore(discs) as store:
        figures = train(store, tmp_path / "a")
        model = load_model(tmp_path / "a", RUNTIME)
        labelled = store.indices("test", labelled=True)
        predictions = predict(model, store, labelled, RUNTIME)
        agree = (predictions.masks == store.labels(labelled)).mean()
    assert figures["train_dice"] > 0.9
    assert agree > 0.95
    assert len(read_history(tmp_path / "a/history.csv")["loss"]) == 60
    predictions.save(tmp_path / "p.h5")
    assert np.array_equal(Predictions.load(tmp_path / "p.h5").masks, predictions.masks)


def test_equal_seeds_give_equal_bytes(discs: Path, tmp_path: Path) -> None:
    short = QUICK.model_copy(update={"steps": 4, "augment": SupervisedConfig().augment})
    with CaseStore(discs) as store:
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            train(store, tmp_path / name, short, seed)
    files = [(tmp_path / name / "weights.safetensors").read_bytes() for name in "abc"]
    assert files[0] == files[1]
    assert files[0] != files[2]


def test_no_label_and_wrong_weights_are_said(discs: Path, tmp_path: Path) -> None:
    with CaseStore(discs) as store:
        spec = spec_for(NETWORK, store)
        none = np.zeros(0, np.int64)
        with pytest.raises(DataError, match=r"no labelled training case.*policy.checkpoint"):
            train_policy(store, none, spec, QUICK, 0, RUNTIME, tmp_path, tmp_path)
        with pytest.raises(DataError, match="class_weights has 2 values, the label map has 3"):
            train(store, tmp_path / "w", QUICK.model_copy(update={"class_weights": (1.0, 2.0)}))
