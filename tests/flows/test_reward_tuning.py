"""The flow of reward tuning, stage by stage without Prefect, on pictures of discs in rings."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flows import reward_tuning, reward_tuning_config
from flows.config_loader import dump_config
from flows.models import open_model
from flows.reporting.tuning import ArmRow, show_tuning, verdict
from flows.reward_tuning_config import MAIN, RULE, START, RewardTuningConfig, check, with_weights
from flows.reward_tuning_tasks import TuningReport
from flows.run_folder import RunFolder
from flows.stages import StageEnvironment, environment
from flows.store import ArtifactStore
from reward_data.errors import ConfigError, DataError
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.runtime import start
from tests.flows import tiny

OWN_REWARD = (
    "def reward(masks, truth, context):\n    return (masks == truth[:, None]).flatten(2).float().mean(2)\n"
)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ and val/ with images/ and labels/ of 8 and 3 discs in rings."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 3)):
        for number in range(count):
            for kind, values in zip(("images", "labels"), tiny.disc_in_ring(rng, False)):
                (root / split / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(root / split / kind / f"{split}{number}.png")
    return root


def config(pictures: Path, **changes: Any) -> RewardTuningConfig:
    content: dict[str, Any] = {
        "name": "tiny",
        "dataset": {"path": str(pictures), "labels": tiny.LABELS},
        "preprocess": {"shape": [32, 32]},
        "policy": {"network": tiny.NETWORK},
        "pretraining": {"steps": 25, "batch_size": 4, "learning_rate": 0.02},
        "tuning": {"steps": 4, "batch_size": 4, "validate_every": 2, "class_weights": "computed"},
        "runtime": {"device": "cpu", "threads": 1},
    }
    return RewardTuningConfig.model_validate(content | changes)


def run(
    settings: RewardTuningConfig, folder: Path, plan: list[str] | None = None
) -> tuple[TuningReport, RunFolder]:
    run_folder = RunFolder.create(folder / "run", dump_config(settings), settings.seeds_used())
    store = ArtifactStore(folder / "store")
    with environment(StageEnvironment(store, run_folder, None, settings.runtime, plan=plan)):
        return reward_tuning.tuning(settings), run_folder


def statuses(folder: RunFolder) -> dict[str, str]:
    return {row.label: row.status for row in folder.rows}


def test_a_run_from_the_pictures_to_the_report(pictures: Path, tmp_path: Path, capsys: Any) -> None:
    own = tmp_path / "own.py"
    own.write_text(OWN_REWARD)
    settings = config(
        pictures, seeds=[0, 1], rivals=["cross_entropy"],
        variants={"own reward": {"estimator": "weighted_ce", "reward": {"mix": {f"{own}:reward": 1}}}},
    )  # fmt: skip
    check(settings)
    first, folder = run(settings, tmp_path)
    arms = [START, RULE, MAIN, f"{MAIN} + {RULE}", "own reward", "CE continued"]
    content = json.loads((folder.path / "tuning.json").read_text())
    assert [row["arm"] for row in content["rows"]] == arms
    assert {row["seeds"] for row in content["rows"]} == {2}
    metrics = list(csv.DictReader((folder.path / "metrics.csv").open()))
    assert [row["step"] for row in metrics if row["arm"] == MAIN and row["seed"] == "1"] == ["0", "2", "4"]
    starts = {row["miou"] for row in metrics if row["step"] == "0" and row["seed"] == "0"}
    assert len(starts) == 1  # all from the same policy
    cases = list(csv.DictReader((folder.path / "cases.csv").open()))
    assert len(cases) == 3 * 2 * len(arms)
    assert (folder.path / "losses.csv").is_file()
    page = (folder.path / "report.html").read_text()
    assert page.count("<img") == 2 + 3  # all arms, the differences, and one per trained arm
    show_tuning(folder.path)
    shown = capsys.readouterr().out
    assert "too few to say" in shown
    assert "CE continued" in shown

    # the tuned policy of the first seed is there to be used
    package = open_model(folder.path, None, start(RuntimeConfig(device="cpu", threads=1)))
    assert package.spec.name == settings.name
    assert package.spec.labels == settings.dataset.labels

    # again: everything is cached, but what depends on one's own reward once that is edited
    second, again = run(settings, tmp_path)
    assert second == first
    assert set(statuses(again).values()) == {"cached"}
    own.write_text(OWN_REWARD + "\n")
    _, edited = run(settings, tmp_path)
    built = {label for label, status in statuses(edited).items() if status == "built"}
    assert built == {
        "seed 0 · own reward · tune",
        "seed 1 · own reward · tune",
    }  # the same bytes: nothing follows


def test_the_stages_of_a_run_are_known_beforehand(pictures: Path, tmp_path: Path) -> None:
    plan: list[str] = []
    run(config(pictures, rivals=[], decision_rule=False), tmp_path, plan)
    assert plan == [
        "import", "pretraining", f"{START} · evaluate", f"{MAIN} · tune", f"{MAIN} · evaluate", "package",
        "report",
    ]  # fmt: skip


def test_variants_change_what_they_name_and_nothing_else(pictures: Path) -> None:
    settings = config(pictures, variants={"greedy": {"reinforce": {"baseline": "greedy"}, "steps": 3}})
    greedy = settings.arms()["greedy"]
    assert (greedy.reinforce.baseline, greedy.steps) == ("greedy", 3)
    assert greedy.model_copy(update={"steps": 4, "reinforce": settings.tuning.reinforce}) == settings.tuning
    assert list(settings.arms()) == [MAIN, "greedy", "CE continued", "Dice loss", "Lovász"]
    assert settings.arms()["Lovász"] == settings.tuning.model_copy(update={"estimator": "lovasz"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": {"greedy": {"reinforce": {"baselin": "greedy"}}}}, "variants.greedy.reinforce.baselin"),
        ({"variants": {MAIN: {}}}, "no name for an arm"),
        ({"seeds": [1, 1]}, "different seeds"),
        ({"tuning": {"reinforce": {"samples": 1}}}, "samples=2 or more"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    pictures: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        config(pictures, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tuning": {"class_weights": [1, 2]}}, "class_weights has 2 values, the label map has 3 classes"),
        ({"tuning": {"class_weights": "nowhere.yaml"}}, "class_weights=nowhere.yaml: cannot be read"),
        ({"tuning": {"reward": {"mix": {"mioo": 1}}}}, "no reward 'mioo'.*did you mean miou"),
        ({"variants": {"v": {"reward": {"mix": {"validity": 1}}}}}, "needs anatomical rules"),
        ({"rules": "lv_myo"}, "rule set 'lv_myo' is for classes"),
        ({"policy": {"checkpoint": "nowhere"}}, "no such file or folder"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(
    pictures: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check(config(pictures, **changes))


def test_a_dataset_without_held_out_labels_is_refused(pictures: Path) -> None:
    dataset = {"path": str(pictures / "train"), "labels": tiny.LABELS, "validation_fraction": 0}
    with pytest.raises(DataError, match="no labelled validation or test image"):
        check(config(pictures, dataset=dataset))


def test_class_weights_of_a_file_become_part_of_the_config(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "weights.yaml").write_text("[1, 2, 3]")
    settings = config(pictures, tuning={"class_weights": str(tmp_path / "weights.yaml")})
    assert with_weights(settings.tuning, settings.class_names).class_weights == (1, 2, 3)
    assert settings.located().tuning.class_weights == (1, 2, 3)


def test_files_of_ones_own_are_found_from_elsewhere(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN_REWARD)
    Path("weights.yaml").write_text("[1, 2, 3]")
    mix = {"own.py:reward": 1.0, "miou": 2.0, "package.module:reward": 3.0}
    variants = {
        "v": {"reward": {"mix": mix}, "class_weights": "weights.yaml"},
        "w": {"class_weights": "computed"},
    }
    settings = config(pictures, tuning={"reward": {"mix": mix}}, variants=variants).located()
    wanted = {f"{tmp_path}/own.py:reward": 1.0, "miou": 2.0, "package.module:reward": 3.0}
    assert settings.tuning.reward.mix == settings.variants["v"]["reward"]["mix"] == wanted
    assert settings.variants["v"]["class_weights"] == str(tmp_path / "weights.yaml")
    assert settings.variants["w"]["class_weights"] == "computed"


def test_the_verdict_goes_by_the_spread_over_seeds() -> None:
    def said(gain: float, sd: float, seeds: int, over_start: float | None = None) -> str:
        content = {
            "arm": MAIN,
            "seeds": seeds,
            "measures": {"miou": {"mean": 0.5, "sd": sd}},
            "over_reference": {"mean": gain, "sd": sd},
            "over_start": None if over_start is None else {"mean": over_start, "sd": sd},
        }
        return "\n".join(verdict([ArmRow.model_validate(content)], "CE continued"))

    # standard error .01 / sqrt(4) = .005; times 3.182, Student's t at 97.5 % with 3 degrees of freedom: .0159
    assert "within the noise" in said(0.015, 0.01, 4)
    assert "better by more than chance" in said(0.017, 0.01, 4)
    assert "worse by more than chance" in said(-0.017, 0.01, 4)
    assert "too few" in said(0.5, 0.0, 2)
    # better than the rival, and yet worse than what it started from: both are said
    both = said(0.017, 0.01, 4, over_start=-0.02).splitlines()
    assert [line.rpartition(": ")[2] for line in both[:2]] == [
        "better by more than chance.",
        "worse by more than chance.",
    ]
    assert f"against {START}" in both[1]
    assert "CE continued" in reward_tuning_config.RIVAL_NAMES.values()
