"""Every rival of a run, as the flow makes it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from flows.reporting.data import (
    ARMS,
    LOGIT_BIAS,
    MAIN,
    MEAN_TEACHER,
    POST_PROCESSING,
    PPO_OFF,
    SELF_TRAINING,
    SOURCE_ONLY,
    STRONG_AUGMENTATION,
    TENT,
    UPPER_BOUND,
)
from flows.reporting.report import read_metrics
from rl4seg.configs.ppo import PPOConfig
from rl4seg.configs.rivals import RivalsConfig, StepBudget
from tests.flows import tiny

pytestmark = pytest.mark.flow
TRAINED = (STRONG_AUGMENTATION, TENT, MEAN_TEACHER, SELF_TRAINING, UPPER_BOUND)
UNTRAINED = (SOURCE_ONLY, LOGIT_BIAS, POST_PROCESSING)
ALL_ON = tuple(
    f"rivals.{name}=true"
    for name, value in RivalsConfig().all(upper_bound=True).model_dump().items()
    if value is True
)
STEPS = StepBudget.of(2, PPOConfig(epochs=tiny.PPO_EPOCHS, batch_size=tiny.PPO_BATCH, updates=2)).steps(
    tiny.TRAINING_IMAGES
)


@pytest.fixture(scope="module")
def everybody(workshop: tiny.Workshop, undisturbed: tiny.Run) -> tiny.Run:
    """The undisturbed run again, with every rival on."""
    return workshop.start("undisturbed", *ALL_ON, name="everybody").wait()


def test_every_rival_has_a_row_with_figures_and_time(everybody: tiny.Run) -> None:
    rows = read_metrics(everybody.folder / "metrics.json").rows
    assert {row.arm for row in rows} == set(ARMS)
    assert [row.iteration for row in rows if row.arm in (MAIN, PPO_OFF)] == [1, 2, 1, 2]
    for row in rows:
        assert row.cases == 4, row.arm
        assert 0 < row.dice_mean[0] < 1, row.arm
        assert row.seconds > 0, row.arm
        assert set(row.case_dice) == set(rows[0].case_dice), row.arm
    figures = {row.arm: row.dice_mean for row in rows}
    assert len(set(figures.values())) == len(ARMS), "two arms are the same policy"
    assert "left out" not in everybody.said


def test_the_rivals_take_as_many_steps_as_the_loop(everybody: tiny.Run) -> None:
    assert STEPS == 2 * tiny.PPO_ROUNDS * 2  # two iterations, two updates a round
    by_label = {row["label"]: row for row in everybody.rows()}
    assert sum(by_label[f"iteration {i} · PPO"]["metrics"]["steps"] for i in (1, 2)) == STEPS
    for arm in TRAINED:
        assert by_label[f"{arm} · train"]["metrics"]["steps"] == STEPS, arm


def test_every_rival_starts_from_the_source_policy(everybody: tiny.Run) -> None:
    by_label = {row["label"]: row for row in everybody.rows()}
    source = by_label["source training"]["digest"]
    weights = load_file(everybody.artifact("source training") / "weights.safetensors")
    for arm in TRAINED:
        assert source in by_label[f"{arm} · train"]["made_from"], arm
        after = load_file(everybody.artifact(f"{arm} · train") / "weights.safetensors")
        changed = {name for name, value in weights.items() if (value != after[name]).any()}
        assert changed, arm
        assert len(changed) < len(weights) or arm != TENT


def test_self_training_has_every_valid_prediction_and_counts_its_making(everybody: tiny.Run) -> None:
    summary = json.loads(
        (everybody.artifact(f"{SELF_TRAINING} · pseudo-labels") / "summary.json").read_text()
    )
    assert summary["accepted"] == summary["valid"] > 0
    assert set(summary["examples"]) == {"identity"}
    seconds = {row["label"]: row["seconds"] for row in everybody.rows()}
    row = next(
        row for row in read_metrics(everybody.folder / "metrics.json").rows if row.arm == SELF_TRAINING
    )
    parts = (f"{SELF_TRAINING} · pseudo-labels", f"{SELF_TRAINING} · train")
    assert row.seconds == pytest.approx(sum(seconds[part] for part in parts), abs=0.01)


def test_evaluations_hold_what_a_comparison_reads(everybody: tiny.Run) -> None:
    for arm in (*UNTRAINED, *TRAINED):
        folder = everybody.artifact(f"{arm} · evaluate")
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["split"] == "test"
        assert set(summary["dice"]) == {"disc", "ring"}
        rows = list(csv.DictReader((folder / "cases.csv").open()))
        assert {"case", "group", "dice_disc", "dice_ring", "hd95_disc", "hd95_ring", "valid"} <= set(rows[0])


def test_a_policy_gradient_setting_trains_no_rival_again(
    workshop: tiny.Workshop, everybody: tiny.Run
) -> None:
    run = workshop.start("undisturbed", *ALL_ON, "ppo.entropy=0.1", "iterations=2", name="entropy-all").wait()
    assert not [label for label in run.built() if label.startswith(TRAINED)]


def test_without_a_source_one_line_says_what_is_left_out(
    workshop: tiny.Workshop, everybody: tiny.Run
) -> None:
    policy = everybody.artifact("source training")
    others = (
        "rivals.upper_bound=false",
        "rivals.tent=false",
        "rivals.self_training=false",
        "rivals.ppo_off=false",
    )
    run = workshop.start(
        "undisturbed", *ALL_ON, *others, "source=null", f"policy.checkpoint={policy}", "iterations=1", name="alone"
    ).wait()  # fmt: skip
    assert run.said.count(f"{STRONG_AUGMENTATION}: left out, it needs a labelled source") == 1
    arms = {row.arm for row in read_metrics(run.folder / "metrics.json").rows}
    assert arms == {SOURCE_ONLY, LOGIT_BIAS, POST_PROCESSING, MEAN_TEACHER, MAIN}


def test_names_of_stages(everybody: tiny.Run) -> None:
    labels = list(everybody.status())
    assert labels.index("iteration 2 · evaluate") < labels.index(f"{LOGIT_BIAS} · evaluate")
    assert Path(everybody.artifact(f"{MEAN_TEACHER} · train") / "history.csv").is_file()
