import csv
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from flows.store import CaseSet, Policy
from flows.tasks import evaluate_policy
from reward_data.anatomy import RuleSet
from reward_data.case_store import CaseStore, import_cases
from reward_data.errors import ConfigError, DataError
from reward_data.preprocess import PreprocessConfig
from rl4seg.configs.evaluation import Decision, EvaluationConfig
from rl4seg.configs.network import NetworkConfig
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.evaluate import Evaluator, evaluate, held_back, held_out
from rl4seg.policies import Model, new_model, spec_for
from rl4seg.runtime import start
from tests.rl4seg.conftest import LABELS, disc_case

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
    return Evaluator(subject, subject, None, RULES, store, config, Decision(), RUNTIME)


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
    assert [row["group"] for row in rows] == [f"patient{i // 2}" for i in range(20, 26)]
    assert rows[5]["dice_disc"] == ""
    for name, (mean, _) in summary["hd95"].items():  # type: ignore[attr-defined]
        assert np.mean([float(row[f"hd95_{name}"]) for row in rows[:5]]) == pytest.approx(mean, abs=1e-3)
    assert summary["split"] == "test"
    wanted = np.mean([(float(r["dice_disc"]) + float(r["dice_ring"])) / 2 for r in rows[:5]])
    assert summary["dice_mean"][0] == pytest.approx(wanted, abs=1e-5)  # type: ignore[index]
    assert json.loads((tmp_path / "summary.json").read_text())["cases"] == 6
    with h5py.File(tmp_path / "maps.h5") as file:
        assert file["masks"].shape == (6, 32, 32)
        assert file["error"].dtype == np.uint8


def test_trust_is_the_dice_that_the_error_map_lets_expect(discs: Path, tmp_path: Path) -> None:
    class Block(torch.nn.Module):
        """A block of disc, sure to .8, on a background sure to .9."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            chances = torch.tensor([0.9, 0.05, 0.05]).reshape(1, 3, 1, 1).repeat(len(images), 1, 32, 32)
            chances[:, :, 8:16, 8:16] = torch.tensor([0.1, 0.8, 0.1]).reshape(1, 3, 1, 1)
            return chances.log()

    with CaseStore(discs) as store:
        subject = evaluator(store)
        subject.model.network = Block()  # type: ignore[assignment]
        summary = evaluate(subject, held_out(store), tmp_path)
    # 64 pixels; reach round(.15 x 8) = 1, 36 pixels around: 1 - (64 x .2 + 36 x .1) / 128
    assert summary["trust"] == pytest.approx(0.871875)
    rows = list(csv.DictReader((tmp_path / "cases.csv").open()))
    assert {row["trust"] for row in rows} == {"0.871875"}  # labelled or not


def test_logit_bias_grows_the_foreground(discs: Path, tmp_path: Path) -> None:
    with CaseStore(discs) as store:
        plain = evaluate(evaluator(store, oracle=False), held_out(store), tmp_path)
        subject = evaluator(store, oracle=False)
        subject.decision = Decision(logit_bias=5.0)
        biased = evaluate(subject, held_out(store), tmp_path)
    total = [sum(mean for mean, _ in s["areas"].values()) for s in (plain, biased)]  # type: ignore[attr-defined]
    assert total[1] > total[0]


class WithSpeck(Thresholds):
    """As its base, with a pixel of disc in a corner and a hole in the middle of each disc."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = super().forward(images)
        disc = (logits.argmax(1) == 1).float()
        for image, scores in zip(disc, logits):
            rows, columns = torch.nonzero(image, as_tuple=True)
            centre = int(rows.float().mean().round()), int(columns.float().mean().round())
            for (row, column), value in (((0, 0), 1), (centre, 0)):
                scores[:, row, column] = torch.nn.functional.one_hot(torch.tensor(value), 3) * 50.0
        return logits


def test_post_processing_on_both_grids(discs: Path, tmp_path: Path) -> None:
    with CaseStore(discs) as store:
        subject = evaluator(store)
        subject.model.network = WithSpeck()  # type: ignore[assignment]
        (tmp_path / "plain").mkdir()
        plain = evaluate(subject, held_out(store), tmp_path / "plain")
        subject.decision = Decision(post_process=True)
        clean = evaluate(subject, held_out(store), tmp_path)
        perfect = evaluator(store)
        perfect.decision = Decision(post_process=True)
        (tmp_path / "perfect").mkdir()
        wanted = evaluate(perfect, held_out(store), tmp_path / "perfect")
    # Two pieces break the rule on the network grid; the far pixel is some 20 px x 2 mm from the disc on the native one.
    assert (plain["validity"], clean["validity"]) == (0, 1)
    assert plain["hd"]["disc"][0] > 20 > clean["hd"]["disc"][0]  # type: ignore[index]
    assert plain["dice"]["disc"][0] < clean["dice"]["disc"][0] == wanted["dice"]["disc"][0]  # type: ignore[index]
    assert clean["areas"] == wanted["areas"]
    with h5py.File(tmp_path / "maps.h5") as file:
        assert (file["masks"][:, 0, 0] == 0).all()


def store_with(folder: Path, *splits: str) -> CaseStore:
    cases = [disc_case(2 * i, split) for i, split in enumerate(splits)]
    path = folder / f"{'-'.join(splits)}.h5"
    import_cases(cases, len(cases), PreprocessConfig(shape=(32, 32)), LABELS, path)
    return CaseStore(path)


@pytest.mark.parametrize(
    ("splits", "test", "validation"),
    [
        (("train", "val", "test"), [2], [1]),
        (("train", "train", "test"), [2], [0, 1]),
        (("train", "val", "train"), [1], [1]),
        (("train", "train", "train"), [0, 1, 2], [0, 1, 2]),
    ],
)
def test_which_cases_score_and_which_choose(
    tmp_path: Path, splits: tuple[str, ...], test: list[int], validation: list[int]
) -> None:
    with store_with(tmp_path, *splits) as store:
        assert held_back(store, "test").tolist() == held_out(store).tolist() == test
        assert held_back(store, "val").tolist() == validation
        summary = evaluate(evaluator(store), held_back(store, "val"), tmp_path)
    assert summary["split"] == splits[validation[0]]


def test_the_key_of_an_evaluation_knows_split_and_decision() -> None:
    ref = {"key": "k", "digest": "d", "size": 0}
    policy, cases = Policy(**ref), CaseSet(**ref)
    arguments = (PLAIN, policy, policy, None, cases, RULES)
    keys = {
        evaluate_policy.key(*arguments, decision, split)
        for decision in (Decision(), Decision(logit_bias=1.0), Decision(post_process=True))
        for split in ("test", "val")
    }
    assert len(keys) == 6
    assert evaluate_policy.key(*arguments) in keys


def test_unknown_union_and_nothing_to_evaluate(discs: Path, tmp_path: Path) -> None:
    with CaseStore(discs) as store:
        with pytest.raises(ConfigError, match=r"unions.all: no class 'lv'; the classes are"):
            evaluator(store, EvaluationConfig(unions={"all": ("lv",)}))
        with pytest.raises(DataError, match="nothing to evaluate"):
            evaluate(evaluator(store), np.zeros(0, np.int64), tmp_path)
