"""The report of reward tuning: arms over seeds, the validation curves and their trends, tidy tables.

Equal data give equal bytes. ``tuning.json`` has everything on the page but the pictures; ``losses.csv`` and
``metrics.csv`` have one row per arm, seed and step, ``cases.csv`` one per arm, seed and held-out case.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import Field
from rich import box
from rich.table import Table

from flows.console import console
from flows.reporting.data import MeanSd
from flows.reporting.templates import template
from flows.reward_tuning_config import MAIN, START
from reward_data.types import Config
from rl4seg.histories import read_history
from rl4seg.trends import regression_line

PAGE, FIGURES = "report.html", "tuning.json"
REFERENCE = "CE continued"
MEASURES = ("miou", "dice", "accuracy", "boundary", "hausdorff", "validity", "reward")
NEED = 2.0  # standard errors of a difference over seeds that are called more than noise


class ArmFolder(NamedTuple):
    """Where the files of one arm of one seed are; ``policy`` is None where it was not trained."""

    arm: str
    seed: int
    evaluation: Path
    policy: Path | None


class ArmRow(Config):
    """One arm: mean and standard deviation over the seeds of its means over the held-out cases."""

    arm: str = Field(description="Which arm.")
    seeds: int = Field(description="How many seeds.")
    measures: dict[str, MeanSd] = Field(description="By measure.")
    over_reference: MeanSd | None = Field(
        default=None, description="mIoU less that of the reference arm, seed by seed."
    )
    slope: float | None = Field(
        default=None, description="mIoU of the validation per 100 steps, regression line."
    )


class TuningContent(Config):
    """Everything on the page but the pictures."""

    run_name: str = Field(description="Name of the run.")
    config: str = Field(description="Its configuration.")
    split: str = Field(description="Which split was measured.")
    cases: int = Field(description="Held-out cases per seed.")
    reference: str = Field(description="The arm that the others are compared with.")
    rows: tuple[ArmRow, ...] = Field(description="The arms.")
    verdict: str = Field(description="What can be said.")


@dataclass(frozen=True)
class _Seed:
    """One arm of one seed, read."""

    arm: str
    seed: int
    measures: dict[str, float]
    slope: float | None


def collect(run_name: str, config_yaml: str, folders: Sequence[ArmFolder]) -> TuningContent:
    """Read the evaluations and histories of all arms and seeds."""
    summaries = [json.loads((folder.evaluation / "summary.json").read_text("utf-8")) for folder in folders]
    seen = [
        _Seed(
            folder.arm,
            folder.seed,
            {name: mean for name, (mean, _) in summary["measures"].items()},
            _slope(folder),
        )
        for folder, summary in zip(folders, summaries, strict=True)
    ]
    arms = list(dict.fromkeys(folder.arm for folder in folders))
    reference = REFERENCE if REFERENCE in arms else START
    rows = tuple(_row(arm, seen, reference) for arm in arms)
    return TuningContent(
        run_name=run_name,
        config=config_yaml,
        split=summaries[0]["split"],
        cases=summaries[0]["cases"],
        reference=reference,
        rows=rows,
        verdict=verdict(rows, reference),
    )


def _slope(folder: ArmFolder) -> float | None:
    metrics = validation(folder)
    line = regression_line(metrics["step"], metrics["miou"]) if metrics else None
    return None if line is None else 100 * line.slope


def validation(folder: ArmFolder) -> dict[str, list[float]]:
    """``metrics.csv`` of an arm; empty where it was not trained or not validated."""
    file = folder.policy / "metrics.csv" if folder.policy else None
    return read_history(file) if file is not None and file.is_file() else {}


def _row(arm: str, seen: Sequence[_Seed], reference: str) -> ArmRow:
    own = [item for item in seen if item.arm == arm]
    measures = {
        name: _mean_sd([item.measures[name] for item in own if name in item.measures])
        for name in dict.fromkeys(name for item in own for name in item.measures)
    }
    base = {item.seed: item.measures["miou"] for item in seen if item.arm == reference}
    gains = [item.measures["miou"] - base[item.seed] for item in own if item.seed in base]
    slopes = [item.slope for item in own if item.slope is not None]
    return ArmRow(
        arm=arm,
        seeds=len(own),
        measures=measures,
        over_reference=_mean_sd(gains) if gains and arm != reference else None,
        slope=float(np.mean(slopes)) if slopes else None,
    )


def _mean_sd(values: Sequence[float]) -> MeanSd:
    return MeanSd(mean=float(np.mean(values)), sd=float(np.std(values, ddof=1)) if len(values) > 1 else 0.0)


def verdict(rows: Sequence[ArmRow], reference: str) -> str:
    """Whether the tuning beats the reference by more than the spread over the seeds lets expect by chance."""
    main = next(row for row in rows if row.arm == MAIN)
    gain = main.over_reference
    if gain is None:
        return f"{MAIN} was not compared with anything."
    said = f"{MAIN} has {gain.mean:+.4f} mIoU against {reference}"
    if main.seeds < 3:
        return f"{said}, in {main.seeds} seed(s): too few to say whether that is more than noise."
    error = gain.sd / main.seeds**0.5
    if abs(gain.mean) <= NEED * error:
        return f"{said} (± {gain.sd:.4f} over {main.seeds} seeds): within the noise."
    return f"{said} (± {gain.sd:.4f} over {main.seeds} seeds): {'better' if gain.mean > 0 else 'worse'} than by chance."


def write(content: TuningContent, folders: Sequence[ArmFolder], out: Path) -> None:
    """Write the page, the figures and the tidy tables."""
    from flows.reporting.tuning_charts import charts

    (out / FIGURES).write_text(content.model_dump_json(indent=1) + "\n", encoding="utf-8")
    for name in ("losses.csv", "metrics.csv", "cases.csv"):
        _write_tidy(name, folders, out)
    shown = [name for name in MEASURES if any(name in row.measures for row in content.rows)]
    page = template("tuning.html", {"form": _form}).render(
        content=content, measures=shown, charts=charts(folders, content.reference), glossary={}
    )
    (out / PAGE).write_text(page, encoding="utf-8")


def _form(value: MeanSd | None, seeds: int, sign: str = "") -> str:
    if value is None:
        return "–"
    return f"{value.mean:{sign}.4f}" + (f" ± {value.sd:.4f}" if seeds > 1 else "")


def _write_tidy(name: str, folders: Sequence[ArmFolder], out: Path) -> None:
    """One table of that name of all arms and seeds, with these as its first columns."""
    rows: list[dict[str, str]] = []
    for folder in folders:
        place = folder.evaluation if name == "cases.csv" else folder.policy
        if place is not None and (place / name).is_file():
            with (place / name).open(newline="", encoding="utf-8") as file:
                rows += [{"arm": folder.arm, "seed": str(folder.seed), **row} for row in csv.DictReader(file)]
    if rows:
        with (out / name).open("w", newline="", encoding="utf-8") as file:
            columns = list(dict.fromkeys(column for row in rows for column in row))
            writer = csv.DictWriter(file, columns, lineterminator="\n", restval="")
            writer.writeheader()
            writer.writerows(rows)


def show_tuning(run_folder: Path) -> Path:
    """Print the table and the verdict of a finished run; returns its page's path."""
    content, out = TuningContent.model_validate_json((run_folder / FIGURES).read_text("utf-8")), console()
    table = Table(
        title=f"{content.run_name}: {content.cases} {content.split} images, {content.rows[0].seeds} seed(s)",
        title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False,
    )  # fmt: skip
    table.add_column("arm")
    for head in ("mIoU", f"over {content.reference}", "Dice", "boundary F1"):
        table.add_column(head, justify="right")
    for row in content.rows:
        values = [_form(row.measures["miou"], row.seeds), _form(row.over_reference, row.seeds, "+")]
        values += [_form(row.measures[name], row.seeds) for name in ("dice", "boundary")]
        table.add_row(row.arm, *values)
    out.print(table)
    out.print(f"- {content.verdict}", highlight=False, markup=False)
    page = run_folder / PAGE
    out.print(f"report: {page}", highlight=False, soft_wrap=True)
    return page
