"""Comparisons: which rows are compared, hand-worked figures, what the verdict may say, and the files."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from flows.dashboard import comparison_markdown
from flows.reporting.comparison import case_lines, compared, csv_text, gather, handed_out
from flows.reporting.comparison_data import (
    DICE,
    HD95,
    VALIDITY,
    ComparisonData,
    ComparisonSpec,
    Gap,
    read_comparison,
)
from flows.reporting.comparison_page import page, write_comparison_files
from flows.reporting.comparison_tables import console_tables, p_text
from flows.reporting.comparison_verdict import comparison_verdict
from flows.reporting.data import MAIN, PPO_OFF, SOURCE_ONLY, UPPER_BOUND, EvaluationRow
from flows.reporting.report import Metrics
from reward_data.errors import DataError

CASES = [f"p{patient}-{image}" for patient in range(12) for image in range(2)]


def row(
    arm: str, dice: Sequence[float] | float, valid: float = 1.0, iteration: int = 0, **more: Any
) -> EvaluationRow:
    """A policy on the cases: Dice per case (or of all), the first share of them valid."""
    values = [float(value) for value in np.broadcast_to(np.asarray(dice, float), len(CASES))]
    return EvaluationRow(
        arm=arm,
        iteration=iteration,
        cases=len(CASES),
        dice={"lv": (float(np.mean(values)), 0.0)},
        dice_mean=(float(np.mean(values)), 0.0),
        validity=valid,
        case_dice=dict(zip(CASES, values, strict=True)),
        case_valid={case: place < round(valid * len(CASES)) for place, case in enumerate(CASES)},
        case_group={case: case.partition("-")[0] for case in CASES},
        case_measures={
            "dice_lv": dict(zip(CASES, values, strict=True)),
            "hd95_mean": {case: 10 * (1 - value) for case, value in zip(CASES, values, strict=True)},
        },
        **({"steps": 30, "seconds": 2.0} | more),
    )


def report(*rows: EvaluationRow) -> Metrics:
    return Metrics(
        title="t", run_name="seed", command="c", created="", unit="mm", class_names=("lv",), versions={}, verdict=(),
        rows=rows, synthesis=(), reliability=(), lineage=(), curves=(),
    )  # fmt: skip


def seeds_of(number: int) -> ComparisonSpec:
    return ComparisonSpec(name="x", seeds=tuple(range(number)))


def noisy(mean: float, seed: int) -> list[float]:
    return list(np.random.default_rng(seed).normal(mean, 0.01, len(CASES)))


def compare(reports: Sequence[Metrics], spec: ComparisonSpec | None = None) -> ComparisonData:
    data = compared(gather(spec or seeds_of(len(reports)), reports), "rl4seg run x", {}, "mm")
    return data.model_copy(update={"verdict": comparison_verdict(data)})


def better(number: int) -> list[Metrics]:
    """Reports in which the loop is clearly better than source-only and as good as with PPO off."""
    return [
        report(
            row(SOURCE_ONLY, noisy(0.70, seed), 0.5, steps=0),
            row(PPO_OFF, noisy(0.80, 10 + seed), 0.5, 1),
            row(MAIN, noisy(0.75, 20 + seed), 0.75, 1),
            row(MAIN, noisy(0.80, 30 + seed), 1.0, 2, ece_after=0.04),
            row(UPPER_BOUND, noisy(0.85, 40 + seed), 1.0),
        )
        for seed in range(number)
    ]


# --- which rows ------------------------------------------------------------------------------------------------------


def test_the_last_iteration_is_handed_out_and_all_before_it_are_on_the_way() -> None:
    rows = [row(MAIN, 0.9, iteration=i) for i in (2, 1, 3)]
    found = handed_out(rows, MAIN)
    assert found is not None
    assert (found.chosen.iteration, [one.iteration for one in found.path]) == (3, [1, 2, 3])
    assert handed_out(rows, PPO_OFF) is None


def test_the_chosen_iteration_goes_before_the_last_and_ppo_off_is_taken_there() -> None:
    rows = [
        row(arm, 0.9, iteration=i, chosen=arm == MAIN and i == 2)
        for arm in (MAIN, PPO_OFF)
        for i in (1, 2, 3)
    ]
    rows.append(row("TENT", 0.9))
    for arm in (MAIN, PPO_OFF):
        found = handed_out(rows, arm)
        assert found is not None
        assert (found.chosen.arm, found.chosen.iteration, len(found.path)) == (arm, 2, 2)
    tent = handed_out(rows, "TENT")
    assert tent is not None
    assert tent.chosen.iteration == 0


def test_a_stop_rule_that_hands_out_the_source_policy_is_taken_at_its_word() -> None:
    rows = [
        row(SOURCE_ONLY, 0.7, steps=0, chosen=True),
        row(MAIN, 0.5, iteration=1),
        row(PPO_OFF, 0.8, iteration=1),
    ]
    data = compare([report(*rows)])
    own, off = data.arm(MAIN), data.arm(PPO_OFF)
    assert own is not None
    assert off is not None
    assert (own.measures[DICE].mean, own.iterations, own.steps) == (pytest.approx(0.7), (0,), (0,))
    assert off.measures[DICE].mean == pytest.approx(0.8)


def test_an_arm_that_one_seed_has_not_and_a_missing_report_are_refused() -> None:
    whole = report(row(SOURCE_ONLY, 0.7), row(MAIN, 0.8))
    with pytest.raises(DataError, match="source-only: not in the report of every seed"):
        gather(seeds_of(2), [whole, report(row(MAIN, 0.8))])
    with pytest.raises(DataError, match="got 1 reports, wanted 2"):
        gather(seeds_of(2), [whole])
    other = whole.rows[0].model_copy(update={"case_valid": {"elsewhere": True}})
    with pytest.raises(DataError, match="no target image was scored under every seed"):
        gather(seeds_of(2), [whole, report(other, row(MAIN, 0.8))])


# --- figures ---------------------------------------------------------------------------------------------------------


def test_figures_by_hand() -> None:
    # Dice of the loop .80 and .84 under two seeds, of source-only .70 and .70: differences .10 and .14, mean .12.
    # sd of .80, .84 over seeds: .04 / sqrt 2. The bootstrap draws seeds alone here: .10, .12 or .14.
    data = compare([report(row(SOURCE_ONLY, 0.7), row(MAIN, loop)) for loop in (0.8, 0.84)])
    own, source = data.arm(MAIN), data.arm(SOURCE_ONLY)
    assert own is not None
    assert source is not None
    figure = own.measures[DICE]
    assert (figure.mean, figure.sd) == (pytest.approx(0.82), pytest.approx(0.04 / 2**0.5))
    assert figure.difference is None
    difference = source.measures[DICE].difference
    assert difference is not None
    assert difference.value == pytest.approx(0.12)
    assert (difference.low, difference.high) == (pytest.approx(0.10), pytest.approx(0.14))
    assert difference.per_seed == (pytest.approx(0.10), pytest.approx(0.14))
    # lower is better: 10 (1 - Dice), loop minus arm
    distance = source.measures[HD95].difference
    assert distance is not None
    assert distance.value == pytest.approx(-1.2)
    assert (data.cases, data.patients, data.labelled) == (24, 12, 24)


def test_validity_is_compared_case_by_case() -> None:
    data = compare([report(row(SOURCE_ONLY, 0.7, 0.5), row(MAIN, 0.7, 1.0))])
    source = data.arm(SOURCE_ONLY)
    assert source is not None
    difference = source.measures[VALIDITY].difference
    assert difference is not None
    assert difference.value == pytest.approx(0.5)  # 12 of 24 cases turn valid
    assert difference.low > 0
    dice = source.measures[DICE].difference
    assert dice is not None
    assert (dice.value, dice.p, dice.sign) == (0, 1, 0)


def test_steps_and_wall_time_are_summed_over_the_iterations() -> None:
    data = compare(better(2))
    found = {result.arm: result for result in data.arms}
    assert found[MAIN].steps == (60, 60)
    assert found[SOURCE_ONLY].steps == (0, 0)
    seconds = {arm: result.seconds.mean for arm, result in found.items() if result.seconds}
    assert (seconds[MAIN], seconds[PPO_OFF], seconds[SOURCE_ONLY]) == (4, 2, 2)
    assert found[MAIN].ece is not None
    assert found[MAIN].ece.mean == 0.04
    assert found[PPO_OFF].ece is None


def test_an_arm_that_is_the_source_policy_costs_nothing() -> None:
    data = compare([report(row(SOURCE_ONLY, 0.7, steps=0), row("logit bias", 0.7, steps=0), row(MAIN, 0.8))])
    bias = data.arm("logit bias")
    assert bias is not None
    assert bias.seconds is not None
    assert bias.seconds.mean == 0


def test_the_gap_closed() -> None:
    # .70 -> .80 of .70 -> .85: two thirds
    data = compare(better(3))
    assert data.gap is not None
    assert data.gap.share == pytest.approx(2 / 3, abs=0.03)
    assert compare([report(row(SOURCE_ONLY, 0.7), row(MAIN, 0.8))]).gap is None


def test_one_seed_has_no_spread() -> None:
    data = compare(better(1))
    assert all(figure.sd is None for result in data.arms for figure in result.measures.values())


def test_without_labels_validity_alone_is_compared() -> None:
    blind = {"case_dice": {}, "case_measures": {}, "dice": None, "dice_mean": None, "labelled": False}
    rows = [one.model_copy(update=blind) for one in (row(SOURCE_ONLY, 0.7, 0.5), row(MAIN, 0.8, 1.0))]
    data = compare([report(*rows)])
    assert list(data.arms[0].measures) == [VALIDITY]
    assert any("no labels" in statement.text for statement in data.verdict)
    assert "Dice" not in console_text(data).partition("Δ")[0]


# --- ablations -------------------------------------------------------------------------------------------------------


def test_variants_are_compared_with_the_base_the_other_way_round() -> None:
    spec = ComparisonSpec(name="x", seeds=(0, 1), variants=("base", "new"), question="Is new better?")
    reports = [
        report(row(SOURCE_ONLY, 0.1), row(MAIN, noisy(dice, seed)))
        for seed, dice in enumerate([0.7, 0.8] * 2)
    ]
    data = compare(reports, spec)
    assert (data.reference, [result.arm for result in data.arms]) == ("base", ["base", "new"])
    new = data.arm("new")
    assert new is not None
    difference = new.measures[DICE].difference
    assert difference is not None
    assert difference.value == pytest.approx(0.1, abs=0.01)
    text = " ".join(statement.text for statement in data.verdict)
    assert "Is new better? Better than the base in something and worse in nothing: new." in text
    assert "score what is chosen once on the test images" in text
    assert data.direction == "variant − base"


# --- the verdict -----------------------------------------------------------------------------------------------------


def texts(data: ComparisonData) -> str:
    return "\n".join(f"{statement.tone}: {statement.text}" for statement in data.verdict)


def test_the_verdict_names_what_is_beaten_and_what_is_not() -> None:
    said = texts(compare(better(3)))
    assert re.search(
        r"Mean Dice of RL4Seg: better than source-only \(\+0\.1\d\d \[.*\]\); not told apart from PPO off",
        said,
    )
    assert "neutral: Better than some rivals, worse than none" in said
    assert "good: PPO itself adds validity" in said
    assert "at least half, the goal" in said
    assert "good: 100.0 % of the masks are valid: the goal of 99 % is reached." in said


def test_the_verdict_says_when_a_rival_is_better() -> None:
    data = compare(
        [report(row(SOURCE_ONLY, noisy(0.8, s)), row(MAIN, noisy(0.7, s + 9), 0.5)) for s in range(3)]
    )
    said = texts(data)
    assert "warning: Some rival is better" in said
    assert "worse than source-only (-0.1" in said
    assert "warning: 50.0 % of the masks are valid: the goal of 99 % is missed" in said


def test_one_seed_few_seeds_and_few_patients_are_doubts() -> None:
    assert "One seed: spreads over seeds cannot be given" in texts(compare(better(1)))
    assert "Only 2 seeds" in texts(compare(better(2)))
    assert "12 patients are few" in texts(compare(better(3)))


def test_a_gap_that_is_none_is_called_so() -> None:
    data = compare(better(2)).model_copy(update={"gap": Gap(dice=0.001)})
    assert any("no gap to close" in statement.text for statement in comparison_verdict(data))


# --- files -----------------------------------------------------------------------------------------------------------


def console_text(data: ComparisonData) -> str:
    out = Console(width=200, record=True, file=StringIO())
    for table in console_tables(data):
        out.print(table)
    return out.export_text()


def test_the_files(tmp_path: Path) -> None:
    reports = better(2)
    data, results = compare(reports), gather(seeds_of(2), reports)
    write_comparison_files(data, results, ["seed-0", "seed-1"], tmp_path)
    assert read_comparison(tmp_path / "comparison.json") == data
    lines = list(csv.DictReader((tmp_path / "comparison.csv").open()))
    assert list(lines[0]) == ["seed", "arm", "case", "group", "class", "metric", "value"]
    # 2 seeds x 4 arms x 24 cases x (Dice, validity, Dice lv, HD95)
    assert len(lines) == 2 * 4 * 24 * 4
    assert {(line["class"], line["metric"]) for line in lines} == {
        ("", "dice"), ("", "validity"), ("lv", "dice"), ("", "hd95"),
    }  # fmt: skip
    html = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    for said in ("Comparison · x", "seed-1/report.html", "RL4Seg − arm", "p &lt; .001", "data:image/svg+xml"):
        assert said in html
    assert "{{" not in html
    assert page(data, ["seed-0"]) == page(data, ["seed-0"])


def test_tables_on_the_console_and_in_the_dashboard() -> None:
    data = compare(better(2))
    text = console_text(data)
    for said in (
        "RL4Seg",
        "upper bound",
        "Mean Dice",
        "HD95 (mm)",
        "Reward-net ECE",
        "Optimiser steps",
        "2 seeds",
    ):
        assert said in text
    markdown = comparison_markdown(data, Path("/x/comparison.html"))
    assert markdown.count("| RL4Seg |") == 2
    assert all(statement.text in markdown for statement in data.verdict)


def test_p_values_are_written_as_in_papers() -> None:
    assert [p_text(p) for p in (0.0001, 0.0123, 1.0)] == ["p < .001", "p = .012", "p = 1.000"]


def test_lines_of_an_unlabelled_case_have_no_dice() -> None:
    one = row(MAIN, 0.8)
    partly = one.model_copy(update={"case_dice": {CASES[0]: 0.8}, "case_measures": {}})
    text = csv_text(case_lines(gather(seeds_of(1), [report(partly)])))
    assert len([line for line in text.splitlines() if ",dice," in line]) == 1
    assert len([line for line in text.splitlines() if ",validity," in line]) == len(CASES)
