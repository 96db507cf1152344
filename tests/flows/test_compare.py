"""Comparisons and ablations by their commands: real processes, killed and resumed, on the tiny config."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
import yaml

from flows.reporting.comparison_data import ComparisonData, read_comparison
from flows.reporting.data import LOGIT_BIAS, MAIN, PPO_OFF, SOURCE_ONLY
from tests.flows import tiny

pytestmark = [
    pytest.mark.flow,
    pytest.mark.skipif(sys.platform != "linux", reason="asks /proc what processes do"),
]
RIVALS = ("post_processing", "strong_augmentation", "self_training", "tent", "mean_teacher", "upper_bound")
QUICK = ("iterations=1", "stop.enabled=false", *(f"rivals.{name}=false" for name in RIVALS))


def figures(run: tiny.Run) -> ComparisonData:
    return read_comparison(run.folder / "comparison.json")


@pytest.fixture(scope="module")
def two_seeds(workshop: tiny.Workshop, undisturbed: tiny.Run) -> tiny.Run:
    """Two seeds in the store of a plain run of the first."""
    return workshop.start("undisturbed", *QUICK, "seeds=0,1", name="both", command="compare").wait()


def test_a_comparison_shares_its_stages_with_plain_runs(two_seeds: tiny.Run) -> None:
    status = two_seeds.status()
    assert list(status)[-1] == "comparison"
    assert all(label.startswith(("seed 0 · ", "seed 1 · ")) for label in list(status)[:-1])
    first = {
        status[label]
        for label in status
        if label.startswith("seed 0 · ") and not label.endswith(("package", "report"))
    }
    assert first == {"cached"}
    assert status["seed 1 · import target"] == "cached"
    assert status["seed 1 · iteration 1 · PPO"] == "built"
    plain = json.loads((two_seeds.folder / "seed-1" / "lineage.json").read_text())["stages"]
    assert [row["label"] for row in plain] == [
        label.removeprefix("seed 1 · ") for label in status if label.startswith("seed 1 · ")
    ]


def test_its_folder_holds_page_figures_table_and_the_runs(two_seeds: tiny.Run) -> None:
    data = figures(two_seeds)
    assert {result.arm for result in data.arms} == {SOURCE_ONLY, LOGIT_BIAS, PPO_OFF, MAIN}
    own = data.arm(MAIN)
    assert own is not None
    assert own.steps == (tiny.PPO_ROUNDS * 2, tiny.PPO_ROUNDS * 2)  # two updates per round
    assert {"dice_mean", "validity", "hd95_mean", "hd_mean", "dice_ring", "hd95_disc"} <= set(own.measures)
    lines = list(csv.DictReader((two_seeds.folder / "comparison.csv").open()))
    assert {line["seed"] for line in lines} == {"0", "1"}
    assert {line["case"] for line in lines} == {f"target-{number}" for number in range(12, 16)}
    for seed in (0, 1):
        assert (two_seeds.folder / f"seed-{seed}" / "report.html").is_file()
        assert json.loads((two_seeds.folder / f"seed-{seed}" / "seeds.json").read_text()) == {"seed": seed}
    page = (two_seeds.folder / "comparison.html").read_text(encoding="utf-8")
    assert "Comparison · both" in page
    for said in (
        "seed 1 · iteration 1 · PPO",
        "Optimiser steps",
        "Only 2 seeds",
        f"{two_seeds.folder}/comparison.html",
    ):
        assert said in two_seeds.said


@pytest.mark.slow
def test_a_comparison_killed_half_way_goes_on_by_resume(workshop: tiny.Workshop, two_seeds: tiny.Run) -> None:
    killed = "seed 2 · iteration 1 · PPO"
    run = workshop.start("undisturbed", *QUICK, "seeds=0,2", name="killed", command="compare", embedded=True)
    run.kill_in(killed)
    assert not (run.folder / "comparison.json").exists()
    again = workshop.call("resume", str(run.folder))
    assert "continuing" in again.said
    rows = json.loads((run.folder / "lineage.json").read_text())["stages"]
    status = {row["label"]: row["status"] for row in rows}
    before = list(status)[: list(status).index(killed)]
    assert {status[label] for label in before} == {"cached"}
    assert status[killed] == "built"
    assert figures(run).spec.seeds == (0, 2)
    told = workshop.call("status", str(run.folder)).said
    assert "seed-2/ppo@1" in told
    assert "Δ = RL4Seg − arm" in workshop.call("report", str(run.folder)).said


def test_one_seed_says_that_there_is_no_spread_and_begins_anew_where_asked(
    workshop: tiny.Workshop, two_seeds: tiny.Run
) -> None:
    restart = ("seeds=1", "from=iteration-1")
    refused = workshop.start("undisturbed", *QUICK, *restart, name="one", command="compare")
    refused.said, _ = refused.process.communicate(timeout=3 * tiny.START_SECONDS)
    assert refused.process.returncode == 2
    assert "no such stage" in refused.said
    assert "seed-1/ppo@1" in refused.said
    run = workshop.start("undisturbed", *QUICK, "seeds=1", "from=ppo@1", name="one", command="compare").wait()
    assert "One seed: spreads over seeds cannot be given" in run.said
    assert all(figure.sd is None for result in figures(run).arms for figure in result.measures.values())
    assert [label for label in run.built() if not label.endswith(("package", "report", "comparison"))] == [
        "seed 1 · iteration 1 · PPO", "seed 1 · iteration 1 · evaluate",
    ]  # fmt: skip


def test_an_ablation_is_scored_on_held_back_images_and_shares_stages(
    workshop: tiny.Workshop, tmp_path: Path
) -> None:
    study = tmp_path / "study.yaml"
    variants = {"with bonus": {}, "no bonus": {"ppo.entropy": 0.0}}
    study.write_text(
        yaml.safe_dump({"name": "bonus", "question": "A bonus?", "variants": variants}, sort_keys=False)
    )
    overrides = ("iterations=1", "stop.enabled=false", "seeds=0", "target.validation_fraction=0.25")
    run = workshop.start("ablation", str(study), *overrides, name="bonus", command="ablate").wait()
    status = run.status()
    other = {label: status[label] for label in status if label.startswith("seed 0 · no bonus · ")}
    assert [label.rpartition(" · ")[2] for label, how in other.items() if how == "built"] == [
        "PPO",
        "evaluate",
        "package",
        "report",
    ]
    data = figures(run)
    assert (data.reference, [result.arm for result in data.arms]) == (
        "with bonus",
        ["with bonus", "no bonus"],
    )
    assert data.spec.question == "A bonus?"
    lines = list(csv.DictReader((run.folder / "comparison.csv").open()))
    assert {line["case"] for line in lines}.isdisjoint(f"target-{number}" for number in range(12, 16))
    assert len({line["case"] for line in lines}) == 3  # a quarter of the twelve
    saved = yaml.safe_load((run.folder / "seed-0" / "no-bonus" / "config.yaml").read_text())
    assert (saved["pipeline"], saved["ppo"]["entropy"]) == ("auto-iteration", 0.0)
    evaluated = run.artifact("seed 0 · no bonus · iteration 1 · evaluate")
    assert json.loads((evaluated / "summary.json").read_text())["split"] == "val"
