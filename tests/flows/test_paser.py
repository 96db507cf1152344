"""The flow of PaSeR, stage by stage without Prefect, on small simulated micrographs."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows import paser
from flows.config_loader import dump_config
from flows.paser_config import PaserConfig, check
from flows.paser_tasks import PaserReport
from flows.reporting.data import MeanSd
from flows.reporting.paser import MethodRow, show_paser, verdict
from flows.run_folder import RunFolder
from flows.stages import StageEnvironment, environment
from flows.store import ArtifactStore
from reward_data.errors import ConfigError, DataError

SMALL = {"name": "unet", "features": [4, 8], "fold": 1, "norm": "batch", "dropout": 0.2}
LARGE = {"name": "unet", "features": [32, 32], "fold": 1, "norm": "batch"}


def config(**changes: Any) -> PaserConfig:
    content: dict[str, Any] = {
        "name": "tiny",
        "dataset": {
            "format": "micrographs",
            "labels": {"names": ["matrix", "small", "large"]},
            "validation_fraction": 0.15,
            "test_fraction": 0.25,
            "micrographs": {"cases": 16, "shape": [33, 32], "seed": 1},
        },
        "preprocess": {"shape": [33, 32]},
        "nets": [
            {"name": "small", "network": SMALL, "steps": 12, "learning_rate": 0.01},
            {"name": "large", "network": LARGE, "steps": 12, "learning_rate": 0.01},
        ],
        "pretraining": {"batch_size": 4},
        "routing": {"grid": [2, 3], "passes": 2, "resolution": 3, "width": 8},
        "policy": {"steps": 20, "views": 2},
        "finetuning": {"steps": 2, "batch_size": 2},
        "evaluation": {"budget": 0.9, "points": 6, "random_draws": 4, "repeats": 1},
        "runtime": {"device": "cpu", "threads": 1},
    }
    return PaserConfig.model_validate(content | changes)


def run(settings: PaserConfig, folder: Path, plan: list[str] | None = None) -> tuple[PaserReport, RunFolder]:
    run_folder = RunFolder.create(folder / "run", dump_config(settings), settings.seeds_used())
    store = ArtifactStore(folder / "store")
    with environment(StageEnvironment(store, run_folder, None, settings.runtime, plan=plan)):
        return paser.stages(settings), run_folder


def statuses(folder: RunFolder) -> dict[str, str]:
    return {row.label: row.status for row in folder.rows}


def test_a_run_from_the_images_to_the_report(tmp_path: Path, capsys: Any) -> None:
    settings = config(seeds=[0, 1])
    check(settings)
    first, folder = run(settings, tmp_path)
    content = json.loads((folder.path / "paser.json").read_text())
    methods = [
        "small", "large", "policy", "policy as trained", "large on every patch", "random", "entropy cascade", "oracle",
    ]  # fmt: skip
    assert [row["method"] for row in content["rows"]] == methods
    rows = list(csv.DictReader((folder.path / "paser.csv").open()))
    assert [(row["seed"], row["method"]) for row in rows] == [(seed, m) for seed in "01" for m in methods]
    assert all(float(row["ms"]) > 0 for row in rows)
    curves = {row["curve"] for row in csv.DictReader((folder.path / "curves.csv").open())}
    assert curves == {"policy", "entropy cascade to large", "random", "oracle"}
    page = (folder.path / "report.html").read_text()
    assert page.count('class="wide"') == 4
    assert page.count('class="case"') == 4  # routing maps
    assert (folder.path / "policy" / "paser" / "router.json").is_file()
    show_paser(folder.path)
    assert "entropy cascade" in capsys.readouterr().out

    second, again = run(settings, tmp_path)
    assert second == first
    assert set(statuses(again).values()) == {"cached"}


def test_the_stages_of_a_run_are_known_beforehand(tmp_path: Path) -> None:
    plan: list[str] = []
    run(config(), tmp_path, plan)
    assert plan == [
        "import", "costs", "large · pretrain", "small · pretrain", "policy", "finetune", "calibrate", "evaluate",
        "latency", "package", "report",
    ]  # fmt: skip


def test_a_budget_that_cannot_be_kept_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    settings = config(evaluation={"budget": 0.01})
    with pytest.raises(ConfigError, match=r"budget=0\.01: the smallest net.*give 0\.\d+ or more"):
        run(settings, tmp_path)
    lineage = json.loads((tmp_path / "run" / "lineage.json").read_text())
    assert "pretrain" not in json.dumps(lineage)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nets": [{"name": "small", "network": SMALL}]}, "got 1, wanted two or more"),
        ({"routing": {"grid": [40, 2]}}, "does not fit images"),
        ({"routing": {"grid": [2]}}, "does not fit images"),
        ({"reward": {"lambda_cost": -0.1}}, "greater than or equal to 0"),
        ({"dataset": {"format": "micrographs", "path": "x"}}, "format=micrographs reads no files"),
        ({"policy": {"samples": 1}}, "samples=2 or more"),
        ({"nets": [{"name": "a", "network": LARGE}, {"name": "b", "network": LARGE}]}, "needs dropout"),
        ({"nets": [{"name": "a", "network": SMALL}, {"name": "a", "network": LARGE}]}, "must differ"),
        ({"seeds": [1, 1]}, "different seeds"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**changes)


def test_class_weights_of_the_wrong_length_are_refused_before_anything_runs() -> None:
    for changes in ({"class_weights": [1, 2]}, {"reward": {"class_weights": [1, 2, 3, 4]}}):
        with pytest.raises(ConfigError, match=r"class_weights has . values, the label map has 3 classes"):
            check(config(**changes))


def test_a_dataset_with_too_few_groups_is_refused(tmp_path: Path) -> None:
    for kind in ("images", "labels"):
        for split, count in (("train", 2), ("val", 1)):
            (tmp_path / split / kind).mkdir(parents=True)
            for number in range(count):
                _write(tmp_path / split / kind / f"{split}{number}.png")
    dataset = {"path": str(tmp_path), "labels": {"names": ["a", "b"]}}
    with pytest.raises(DataError, match="2 labelled training group"):
        check(config(dataset=dataset))
    check(config(dataset=dataset, shares={"together": True}))


def _write(path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)


def test_the_verdict_holds_the_policy_against_the_goal() -> None:
    def row(method: str, iou: float, ms: float) -> MethodRow:
        one = MeanSd(1.0, 0.0)
        return MethodRow(
            method=method, iou=MeanSd(iou, 0), gflop=one, bare_gflop=one, ms=MeanSd(ms, 0), efficiency=one,
            bare_efficiency=one, patches=(1.0,),
        )  # fmt: skip

    def said(at_goal: float) -> str:
        others = [row(name, 0.5, 1.0) for name in ("entropy cascade", "random", "oracle")]
        rows = [row("large", 0.8, 100.0), row("policy", 0.78, 55.0), *others]
        return verdict(rows, ("tiny", "large"), MeanSd(0, 0), 1.0, MeanSd(at_goal, 0.001), 3)[0]

    assert "in 55 % of its measured time. At 60 % of that time its curve is at -0.009" in said(-0.0091)
    assert "is reached" in said(-0.0099)
    assert "is missed" in said(-0.0101)


def test_the_curve_is_read_at_sixty_percent_of_the_time(tmp_path: Path) -> None:
    folder = run(config(), tmp_path)[1].path
    content = json.loads((folder / "paser.json").read_text())
    latency = json.loads(next(tmp_path.glob("store/*/latency.json")).read_text())
    ms, iou, _ = zip(*sorted(latency["curve"]))
    largest = next(row for row in content["rows"] if row["method"] == "large")
    expected = np.interp(0.6 * latency["ms"]["large"], ms, iou) - largest["iou"][0]
    assert content["at_goal"][0] == pytest.approx(expected)
