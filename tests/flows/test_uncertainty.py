"""`rl4seg uncertainty` on a run of the tiny config, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from flows.reporting.uncertainty_words import _reward_against_softmax, judged, statements, with_interval
from flows.run_folder import read_status
from flows.uncertainty import measure_run, siblings, uncertainty_config
from reward_data.errors import ArtifactError, ConfigError
from tests.flows import tiny

QUICK = ["augmentation_draws=2", "dropout_passes=2", "bootstrap_draws=100"]


def test_siblings_are_the_other_seeds_of_a_comparison(tmp_path: Path) -> None:
    for name in ("seed-0", "seed-1", "seed-2", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").touch()
    (tmp_path / "seed-3").mkdir()  # not begun
    assert [path.name for path in siblings(tmp_path / "seed-1")] == ["seed-0", "seed-2"]
    assert siblings(tmp_path / "other") == []


def test_settings_come_from_the_command_line_and_wrong_ones_are_refused() -> None:
    config = uncertainty_config(0.7, ["bins=10", "augmentation.noise=0"])
    assert (config.dice_below, config.bins, config.augmentation.noise) == (0.7, 10, 0)
    with pytest.raises(ConfigError, match="unknown key dropout_pases; did you mean dropout_passes"):
        uncertainty_config(None, ["dropout_pases=3"])


def test_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="give the folder of a run"):
        measure_run(tmp_path, [], None, [])


def test_claims_go_by_the_interval() -> None:
    assert judged("ece", {"low": -0.2, "high": -0.1}) == "better"
    assert judged("auroc", {"low": -0.2, "high": -0.1}) == "worse"
    assert judged("aurc", {"low": -0.2, "high": 0.1}) == "not told apart"
    assert judged("aurc", {"low": None, "high": None}) == "not known"
    assert with_interval({"value": 0.5, "low": None, "high": None}) == "0.500"
    assert with_interval({"value": None, "low": None, "high": None}) == "–"


def test_the_question_names_its_rival_and_does_not_hide_the_other_way_to_count() -> None:
    def method(name: str, ece: float) -> dict[str, object]:
        return {"name": name, "all_pixels": {"ece": ece}}

    below, around = {"value": -0.1, "low": -0.2, "high": -0.05}, {"value": 0.0, "low": -0.1, "high": 0.1}
    rows = [method("reward net, calibrated", 0.05), method("maximum softmax", 0.03)]
    pair = {"a": rows[0]["name"], "b": "maximum softmax"}
    pair["figures"] = {"ece": below, "auroc": around, "aurc": around}  # type: ignore[assignment]
    content = {"methods": rows, "pairs": [pair]}
    (said,) = _reward_against_softmax(content)
    assert said.text == (
        "Is the reward net better than softmax? Not shown in everything. reward net, calibrated less maximum softmax: "
        "ECE -0.100 [-0.200, -0.050], better; AUROC +0.000 [-0.100, +0.100], not told apart; "
        "AURC +0.000 [-0.100, +0.100], not told apart. Over all pixels, background included, ECE is "
        "0.050 against 0.030."
    )
    rows.append(method("maximum softmax, temperature", 0.02))
    (said,) = _reward_against_softmax(content)
    assert "maximum softmax (of the softmax rows the better calibrated): ECE" in said.text
    pair["figures"] |= {"auroc": below}  # type: ignore[operator]
    assert "Not in everything" in next(_reward_against_softmax(content)).text
    assert list(_reward_against_softmax({"methods": rows, "pairs": []})) == []


@pytest.mark.flow
def test_a_run_is_measured_once_and_leaves_its_files(undisturbed: tiny.Run) -> None:
    before = [row.label for row in read_status(undisturbed.folder)]
    folder = measure_run(undisturbed.folder, [], 0.95, QUICK)
    content = json.loads((folder / "uncertainty.json").read_text())
    assert (content["cases"], content["dice_below"]) == (4, 0.95)
    assert {row["name"] for row in content["missing"]} == {"ensemble", "softmax and entropy with temperature"}
    assert any(s.text.startswith("Best calibrated") for s in statements(content))
    page = (folder / "uncertainty.html").read_text()
    assert "training-free" in page
    assert "run the config with seed=1" in page.lower()
    assert [row.label for row in read_status(undisturbed.folder)] == before
    seconds = sorted(undisturbed.store.glob("*/seconds.json"))
    assert len(seconds) == 1
    measure_run(undisturbed.folder, [], 0.95, QUICK)
    assert sorted(undisturbed.store.glob("*/seconds.json")) == seconds


@pytest.mark.flow
def test_a_run_on_another_target_is_no_member(undisturbed: tiny.Run, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(undisturbed.folder, other)
    rows = json.loads((other / "lineage.json").read_text())
    target = next(row for row in rows["stages"] if row["label"] == "import target")
    source = next(row for row in rows["stages"] if row["label"] == "import source")
    target["key"], target["digest"] = source["key"], source["digest"]
    (other / "lineage.json").write_text(json.dumps(rows))
    with pytest.raises(ConfigError, match="a run on another target"):
        measure_run(undisturbed.folder, [other], None, QUICK)
