"""The page of a comparison: one self-contained HTML file in the look of the run report, and the files beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flows.reporting import comparison_figures, comparison_tables
from flows.reporting.comparison import Results, case_lines, csv_text
from flows.reporting.comparison_data import FIGURES, PAGE, TABLE, VALIDITY, ArmResult, ComparisonData
from flows.reporting.report import GLOSSARY
from flows.reporting.tables import Cell
from flows.reporting.templates import template

OWN_GLOSSARY = {
    "difference": "Δ: paired difference, taken case by case under every seed and then averaged. Its 95 % interval is a "
    "percentile bootstrap of 10,000 draws that draws seeds and patients anew. Bold: the interval does not hold zero.",
    "p": "p: Wilcoxon signed-rank test over cases on the differences averaged over seeds, corrected by Holm for the "
    "number of arms. It treats images of one patient as independent; the interval does not.",
    "seconds": "Wall time: of everything that made the arm from the source policy, mean over seeds; cached stages keep "
    "the time of their making. Source-only: of its training.",
    "steps": "Optimiser steps: from the source policy to the one that is scored. Trained arms take equal numbers, "
    "unless the loop was stopped before its end.",
    "iteration": "Iteration: the one that was handed out and scored; 0 = the stop rule kept the source policy.",
    "gap": "Gap closed: (loop − source-only) / (upper bound − source-only) of the mean Dice.",
    "validity": GLOSSARY["validity"],
    "hd95": GLOSSARY["hd95"],
    "hd": GLOSSARY["hd"],
    "dice": "Dice: overlap of mask and truth, 2|A∩B| / (|A|+|B|); mean over cases, then mean ± sd over seeds.",
    "dice_mean": "Mean Dice: per case the mean over the foreground classes; over cases; then mean ± sd over seeds.",
    "ece": "Reward-net ECE: expected calibration error after temperature scaling, on test labels where there are any.",
}
ABOUT = {
    "source-only": "the policy before adaptation.",
    "logit bias": "source-only with a bias on the foreground logits; no training.",
    "post-processing": "source-only, largest piece of every class kept, holes filled; no training.",
    "strong augmentation": "the source policy trained on with strongly augmented source images.",
    "TENT": "entropy minimisation of the normalisation layers on target images.",
    "mean teacher": "consistency with an averaged teacher on target images.",
    "self-training": "trained on the source policy's own valid predictions, with augmentation.",
    "PPO off": "the same loop without the policy gradient, at the iteration that the loop hands out.",
    "RL4Seg": "the loop, at the iteration that its stop rule hands out.",
    "upper bound (target labels)": "trained on the target's labels: no rival, a bound.",
}


class DetailLine(NamedTuple):
    """All differences of one arm in one measure, for the table of details."""

    arm: str
    structure: str
    metric: str
    mean: str
    value: str
    interval: str
    p: str
    beyond: bool


def write_comparison_files(data: ComparisonData, results: Results, reports: Sequence[str], out: Path) -> None:
    """Write comparison.html, comparison.json and comparison.csv into ``out``.

    Args:
        data: the figures, with their verdict.
        results: the rows behind them.
        reports: links to the reports of the single runs.
        out: an existing folder.
    """
    (out / FIGURES).write_text(data.model_dump_json(indent=1) + "\n", encoding="utf-8")
    (out / TABLE).write_text(csv_text(case_lines(results)), encoding="utf-8")
    (out / PAGE).write_text(page(data, reports), encoding="utf-8")


def page(data: ComparisonData, reports: Sequence[str]) -> str:
    """The page as text."""
    functions = {"arm_colour": comparison_figures.colours(data).__getitem__}
    return template(PAGE, functions).render(**_context(data, reports))


def _context(data: ComparisonData, reports: Sequence[str]) -> dict[str, Any]:
    quality = comparison_tables.used(comparison_tables.quality_columns(data), data.arms)
    differences = comparison_tables.used(comparison_tables.difference_columns(data), data.arms)
    return {
        "data": data,
        "glossary": {key: text.partition(": ")[::2] for key, text in OWN_GLOSSARY.items()},
        "about": data.spec.changes or {arm.arm: ABOUT[arm.arm] for arm in data.arms if arm.arm in ABOUT},
        "cards": _cards(data),
        "tables": [
            ("How good the masks are", quality, _rows(data, quality)),
            ("How different, and at what cost", differences, _rows(data, differences)),
        ],
        "differences": comparison_figures.difference_charts(data),
        "levels": comparison_figures.level_charts(data),
        "details": _details(data),
        "reports": reports,
        "one_seed": len(data.spec.seeds) == 1,
    }


def _rows(
    data: ComparisonData, columns: Sequence[comparison_tables.Column]
) -> list[tuple[ArmResult, list[Cell]]]:
    return list(zip(data.arms, comparison_tables.lines(columns, data.arms), strict=True))


def _cards(data: ComparisonData) -> list[tuple[str, str, str, str]]:
    """(glossary key, label, value, what it is compared with) of the key figures."""
    own = data.arm(data.reference)
    if own is None:
        return []
    first = data.arm("source-only") or own
    columns = {column.label: column for column in comparison_tables.quality_columns(data)}
    cards = []
    for label in ("Mean Dice", "Validity", "Reward-net ECE"):
        column = columns[label]
        cell, before = column.cell(own), column.cell(first)
        if cell.text != "–":
            beside = f"source-only {before.text}" if first is not own and before.text != "–" else cell.sd
            cards.append((column.key, label, cell.text, beside))
    if (
        data.gap is not None
        and data.gap.share is not None
        and data.gap.low is not None
        and data.gap.high is not None
    ):
        interval = f"[{100 * data.gap.low:.0f}, {100 * data.gap.high:.0f}] of {data.gap.dice:.3f} Dice"
        cards.append(("gap", "Gap closed", f"{100 * data.gap.share:.0f} %", interval))
    return cards


def _details(data: ComparisonData) -> list[DetailLine]:
    """Every difference, per class and metric."""
    found = []
    for arm in data.arms:
        for measure, figure in arm.measures.items():
            if figure.difference is None:
                continue
            metric, _, structure = measure.partition("_")
            show = comparison_tables.points if measure == VALIDITY else comparison_tables.signed
            difference = figure.difference
            found.append(
                DetailLine(
                    arm.arm,
                    "all masks" if measure == VALIDITY else structure.replace("mean", "mean over classes"),
                    {"dice": "Dice", "validity": "validity"}.get(metric, metric.upper()),
                    f"{figure.mean:.3f}",
                    show(difference.value),
                    f"[{show(difference.low)}, {show(difference.high)}]",
                    comparison_tables.p_text(difference.p_holm),
                    difference.sign != 0,
                )
            )
    return found
