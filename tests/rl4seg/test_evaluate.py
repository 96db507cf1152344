import csv
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from reward_data.anatomy import RuleSet
from reward_data.case_store import CaseStore
from reward_data.errors import ConfigError, DataError
from rl4seg.configs.evaluation import EvaluationConfig
from rl4seg.configs.network import NetworkConfig
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.evaluate import Evaluator, evaluate, held_out
from rl4seg.policies import Model, new_model, spec_for
from rl4seg.runtime import start

RUNTIME = start(RuntimeConfig(device="cpu", threads=1, batch_size=4))
PLAIN = EvaluationConfig()
RULES = RuleSet.model_validate(
    {
        "name": "discs",
        "classes": ["background", "disc", "ring"],
        "rules": [
            {"kind": "present", "structure": "disc"},
            {"kind": "one_piece", "structure": ["disc", "ring"]},
        ],
    }
)


class Thresholds(torch.nn.Module):
    """Reads the planted intensities: dark, bright disc, grey ring."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        centres = torch.tensor([20.0, 200.0, 110.0]).reshape(1, 3, 1, 1) / 255
        return -200 * (images - centres) ** 2


def evaluator(store: CaseStore, config: EvaluationConfig = PLAIN, oracle: bool = True) -> Evaluator:
    model = new_model(spec_for(NetworkConfig(features=(4, 4, 8, 8, 8, 4)), store), 0)
    subject = Model(model.spec, Thresholds()) if oracle else model  # type: ignore[arg-type]
    return Evaluator(subject, subject, None, RULES, store, config, 0.0, RUNTIME)


def test_a_perfect_policy_scores_one_and_files_agree(discs: Path, tmp_path: Path) -> None:
    with CaseStore(discs) as store:
        subject = evaluator(store, EvaluationConfig(unions={"whole": ("disc", "ring")}))
        summary = evaluate(subject, held_out(store), tmp_path)
    assert (summary["cases"], summary["labelled"]) == (6, 5)
    assert summary["dice"]["whole"][0] > 0.97  # type: ignore[index]
    assert summary["dice_mean"][0] > 0.95  # type: ignore[index]
    assert summary["validity"] == 1
    assert summary["kl"] == pytest.approx(0, abs=1e-6)
    rows = list(csv.DictReader((tmp_path / "cases.csv").open()))
    assert [row["case"] for row in rows] == [f"case{i:03d}" for i in range(20, 26)]
    assert rows[5]["dice_disc"] == ""
    wanted = np.mean([(float(r["dice_disc"]) + float(r["dice_ring"])) / 2 for r in rows[:5]])
    assert summary["dice_mean"][0] == pytest.approx(wanted, abs=1e-5)  # type: ignore[index]
    assert json.loads((tmp_path / "summary.json").read_text())["cases"] == 6
    with h5py.File(tmp_path / "maps.h5") as file:
        assert file["masks"].shape == (6, 32, 32)
        assert file["error"].dtype == np.uint8


def test_logit_bias_grows_the_foreground(discs: Path, tmp_path: Path) -> None:
    with CaseStore(discs) as store:
        plain = evaluate(evaluator(store, oracle=False), held_out(store), tmp_path)
        subject = evaluator(store, oracle=False)
        subject.logit_bias = 5.0
        biased = evaluate(subject, held_out(store), tmp_path)
    total = [sum(mean for mean, _ in s["areas"].values()) for s in (plain, biased)]  # type: ignore[attr-defined]
    assert total[1] > total[0]


def test_unknown_union_and_nothing_to_evaluate(discs: Path, tmp_path: Path) -> None:
    with CaseStore(discs) as store:
        with pytest.raises(ConfigError, match=r"unions.all: no class 'lv'; the classes are"):
            evaluator(store, EvaluationConfig(unions={"all": ("lv",)}))
        with pytest.raises(DataError, match="nothing to evaluate"):
            evaluate(evaluator(store), np.zeros(0, np.int64), tmp_path)
