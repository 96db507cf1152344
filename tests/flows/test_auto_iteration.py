"""The whole flow by its command: what it leaves behind, what it does not do twice, and where it can start."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from flows.evaluate_run import evaluate_run
from flows.reporting.data import LOGIT_BIAS, MAIN, PPO_OFF, SOURCE_ONLY
from flows.reporting.report import read_metrics
from reward_data.errors import ArtifactError
from tests.flows import tiny

pytestmark = pytest.mark.flow
CACHED_SECONDS = (
    60.0  # 10 s where the machine is quiet (the goal is 20); this only catches a stage that runs again
)
ONE_ITERATION = ("iterations=1", "rivals.ppo_off=false", "rivals.logit_bias=false")


def test_a_run_leaves_report_metrics_table_and_lineage(undisturbed: tiny.Run) -> None:
    metrics = read_metrics(undisturbed.folder / "metrics.json")
    arms = [(row.arm, row.iteration) for row in metrics.rows]
    assert sorted(arms) == sorted(
        [(SOURCE_ONLY, 0), (LOGIT_BIAS, 0), (PPO_OFF, 1), (PPO_OFF, 2), (MAIN, 1), (MAIN, 2)]
    )
    assert all(row.labelled and row.cases == 4 and 0 < row.dice_mean[0] < 1 for row in metrics.rows)
    page = (undisturbed.folder / "report.html").read_text(encoding="utf-8")
    assert "<table" in page
    assert "Adaptation report · tiny" in page
    for said in ("Dice disc", SOURCE_ONLY, LOGIT_BIAS, PPO_OFF, MAIN, f"report: {undisturbed.folder}"):
        assert said in undisturbed.said
    for file in ("config.yaml", "versions.json", "seeds.json"):
        assert (undisturbed.folder / file).stat().st_size > 0
    for row in undisturbed.rows():
        assert (undisturbed.store / row["path"] / "manifest.json").is_file()
        assert all(not isinstance(value, dict | list) for value in row["metrics"].values()), row["label"]


def test_the_lineage_names_what_every_artifact_was_made_from(undisturbed: tiny.Run) -> None:
    rows = undisturbed.rows()
    known = {row["digest"] for row in rows}
    assert all(set(row["made_from"]) <= known for row in rows)
    by_label = {row["label"]: row for row in rows}
    ppo = by_label["iteration 2 · PPO"]["made_from"]
    for part in (
        "iteration 1 · PPO",
        "iteration 2 · reward net",
        "iteration 2 · synthesize",
        "import target",
    ):
        assert by_label[part]["digest"] in ppo
    # RL4Seg's reward dataset is cumulative; beside both there are the policy that errs and the labelled source
    made_from = by_label["iteration 2 · reward net"]["made_from"]
    wanted = ("iteration 1 · synthesize", "iteration 2 · synthesize", "iteration 1 · PPO", "import source")
    assert set(made_from) == {by_label[label]["digest"] for label in wanted}


def test_the_control_shares_the_first_reward_dataset(undisturbed: tiny.Run) -> None:
    status, digests = undisturbed.status(), undisturbed.digests()
    for stage in ("predict", "synthesize"):
        assert status[f"{PPO_OFF} · iteration 1 · {stage}"] == "cached"
        assert digests[f"{PPO_OFF} · iteration 1 · {stage}"] == digests[f"iteration 1 · {stage}"]
    assert status[f"{PPO_OFF} · iteration 1 · PPO"] == "built"
    assert digests[f"{PPO_OFF} · iteration 1 · PPO"] != digests["iteration 1 · PPO"]


def test_a_second_run_answers_from_the_store_without_torch(
    workshop: tiny.Workshop, undisturbed: tiny.Run
) -> None:
    run = workshop.start("undisturbed", PYTHONPROFILEIMPORTTIME="1").wait()
    print(f"a run with every stage cached: {run.seconds:.1f} s")
    assert set(run.status().values()) == {"cached"}
    assert [(row["label"], row["digest"]) for row in run.rows()] == [
        (row["label"], row["digest"]) for row in undisturbed.rows()
    ]
    imported = set(re.findall(r"^import time:.*\| +([\w.]+)$", run.said, flags=re.MULTILINE))
    assert "flows.arms" in imported
    assert not imported & {"torch", "monai"}
    assert run.seconds < CACHED_SECONDS


def test_another_ppo_setting_runs_ppo_and_what_follows(
    workshop: tiny.Workshop, undisturbed: tiny.Run
) -> None:
    run = workshop.start("undisturbed", "iterations=1", "ppo.entropy=0.1", name="entropy").wait()
    # The control has no entropy bonus: its fine-tuning is asked anew, writes the same bytes, and nothing follows.
    assert run.built() == [
        "iteration 1 · PPO", "iteration 1 · evaluate", f"{PPO_OFF} · iteration 1 · PPO", "package", "report",
    ]  # fmt: skip
    assert run.digests()["iteration 1 · PPO"] != undisturbed.digests()["iteration 1 · PPO"]
    control = f"{PPO_OFF} · iteration 1 · PPO"
    assert run.digests()[control] == undisturbed.digests()[control]


def test_a_run_starts_from_a_checkpoint_without_source(
    workshop: tiny.Workshop, undisturbed: tiny.Run
) -> None:
    policy = undisturbed.artifact("source training")
    start = ("source=null", *ONE_ITERATION)
    run = workshop.start("undisturbed", *start, f"policy.checkpoint={policy}", name="folder").wait()
    assert list(run.status()) == [
        "import target", "load checkpoint", f"{SOURCE_ONLY} · evaluate", "iteration 1 · predict",
        "iteration 1 · synthesize", "iteration 1 · reward net", "iteration 1 · PPO", "iteration 1 · evaluate",
        "package", "report",
    ]  # fmt: skip
    loaded = run.artifact("load checkpoint") / "weights.safetensors"
    assert loaded.read_bytes() == (policy / "weights.safetensors").read_bytes()
    # the same policy, the same figures as in the run that trained it
    rows = [read_metrics(one.folder / "metrics.json").rows[0] for one in (run, undisturbed)]
    assert rows[0].dice_mean == rows[1].dice_mean

    # the same weights as a bare state dict: the same policy, from which everything is known already
    bare = workshop.folder / "bare.safetensors"
    save_file(load_file(policy / "weights.safetensors"), bare)
    again = workshop.start("undisturbed", *start, f"policy.checkpoint={bare}", name="bare").wait()
    assert again.built() == ["load checkpoint", "report"]
    assert again.digests() == run.digests()
    assert json.loads((again.folder / "seeds.json").read_text()) == {"seed": 0}


def test_any_policy_of_a_run_can_be_scored_again(undisturbed: tiny.Run, tmp_path: Path) -> None:
    folder = evaluate_run(undisturbed.folder, None, tmp_path / "last", None)
    rows = list(csv.DictReader((folder / "cases.csv").open()))
    assert len(rows) == 4  # imagesTs
    wanted = json.loads((undisturbed.artifact("iteration 2 · evaluate") / "summary.json").read_text())
    content = json.loads((folder / "evaluation.json").read_text())
    assert (content["model"]["iteration"], content["split"]) == (2, "test")
    for name, (mean, sd) in wanted["dice"].items():
        assert (content["dice"][name]["value"], content["dice"][name]["sd"]) == pytest.approx((mean, sd))
    assert content["validity"]["value"] == wanted["validity"]
    with pytest.raises(ArtifactError, match=r"no policy of iteration 9; there are \[0, 1, 2\]"):
        evaluate_run(undisturbed.folder, None, tmp_path / "none", 9)
