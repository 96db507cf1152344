import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from reward_data.anatomy import RuleSet
from reward_data.case_store import CaseStore, import_cases
from reward_data.errors import DataError
from reward_data.preprocess import PreprocessConfig
from rl4seg.configs.network import NetworkConfig
from rl4seg.configs.reward_tuning import TuningEvaluationConfig
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.policies import Model, new_model, spec_for
from rl4seg.runtime import start
from rl4seg.tuning_evaluation import TuningEvaluator, evaluate_tuned
from tests.rl4seg.conftest import LABELS, disc_case

RUNTIME = start(RuntimeConfig(device="cpu", threads=1, batch_size=2))
RULES = RuleSet(classes=LABELS.names, rules=())


class ByGrey(nn.Module):
    """Knows the discs by their grey values, less surely in the middle between two."""

    sharpness = 200

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        centres = torch.tensor([20.0, 200.0, 110.0]).reshape(1, 3, 1, 1) / 255
        return -((images - centres) ** 2) * self.sharpness


def evaluator(path: Path) -> TuningEvaluator:
    store = CaseStore(path)
    spec = new_model(spec_for(NetworkConfig(features=(4, 4, 8, 8, 8, 4)), store), 0).spec
    model = Model(spec, ByGrey())  # type: ignore[arg-type]
    return TuningEvaluator(model, store, RULES, TuningEvaluationConfig(), RUNTIME)


def test_cases_and_summary(discs: Path, tmp_path: Path) -> None:
    means = evaluate_tuned(evaluator(discs), "argmax", tmp_path)
    rows = list(csv.DictReader((tmp_path / "cases.csv").open()))
    assert len(rows) == 5  # the sixth test case has no label
    assert means["miou"] > 0.9
    assert means["validity"] == 1
    assert means["reward"] == means["miou"]
    for name in ("miou", "dice", "iou_disc"):
        assert means[name] == pytest.approx(np.mean([float(row[name]) for row in rows]), abs=1e-5)
    ious = [[float(row[f"iou_{name}"]) for name in LABELS.names] for row in rows]
    assert [float(row["miou"]) for row in rows] == pytest.approx(np.mean(ious, 1).tolist(), abs=1e-5)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["split"], summary["rule"], summary["cases"]) == ("test", "argmax", 5)
    assert summary["measures"]["miou"][0] == pytest.approx(means["miou"])


def test_the_decision_rule_makes_other_masks(discs: Path, tmp_path: Path) -> None:
    made = evaluator(discs)
    made.model.network.sharpness = 15  # type: ignore[assignment]
    indices = made.store.indices("test")
    argmax, rank = made.masks(indices, "argmax"), made.masks(indices, "expected_dice")
    assert argmax.shape == rank.shape == (6, 32, 32)
    assert 0 < (argmax != rank).mean() < 0.1
    assert evaluate_tuned(made, "expected_dice", tmp_path)["dice"] > 0.9


def test_without_labelled_held_out_cases_it_says_so(tmp_path: Path) -> None:
    path = tmp_path / "cases.h5"
    cases = [disc_case(0, "train"), disc_case(2, "test", labelled=False)]
    import_cases(cases, 2, PreprocessConfig(shape=(32, 32)), LABELS, path)
    with pytest.raises(DataError, match="no held-out case with a label"):
        evaluate_tuned(evaluator(path), "argmax", tmp_path)
