"""The report of reward tuning: arms over seeds, the validation curves and their trends, tidy tables.

Equal data give equal bytes. ``tuning.json`` has everything on the page but the pictures; ``losses.csv`` and
``metrics.csv`` have one row per arm, seed and step, ``cases.csv`` one per arm, seed and held-out case.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import Field

from flows.reporting.data import MeanSd
from flows.reporting.seed_tables import FEW, form, gather, judged, mean_sd, show
from flows.reporting.templates import template
from flows.reward_tuning_config import MAIN, START
from reward_data.types import Config
from rl4seg.histories import read_history
from rl4seg.trends import regression_line

PAGE, FIGURES = "report.html", "tuning.json"
REFERENCE = "CE continued"
MEASURES = ("miou", "dice", "accuracy", "boundary", "hausdorff", "validity", "reward")
HEADS = {"miou": "mIoU", "dice": "Dice", "boundary": "boundary F1"}


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
    over_start: MeanSd | None = Field(
        default=None, description="mIoU less that of the policy before tuning, seed by seed."
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
    verdict: tuple[str, ...] = Field(description="What can be said.")


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
        name: mean_sd([item.measures[name] for item in own if name in item.measures])
        for name in dict.fromkeys(name for item in own for name in item.measures)
    }
    slopes = [item.slope for item in own if item.slope is not None]
    return ArmRow(
        arm=arm,
        seeds=len(own),
        measures=measures,
        over_reference=_gain(own, seen, reference),
        over_start=_gain(own, seen, START),
        slope=float(np.mean(slopes)) if slopes else None,
    )


def _gain(own: Sequence[_Seed], seen: Sequence[_Seed], other: str) -> MeanSd | None:
    base = {item.seed: item.measures["miou"] for item in seen if item.arm == other}
    gains = [item.measures["miou"] - base[item.seed] for item in own if item.seed in base]
    return mean_sd(gains) if gains and own[0].arm != other else None


def verdict(rows: Sequence[ArmRow], reference: str) -> tuple[str, ...]:
    """Whether the tuning beats the reference, and its own start, by more than the spread over the seeds explains."""
    main = next(row for row in rows if row.arm == MAIN)
    said = [_against(main, reference, main.over_reference)] if main.over_reference else []
    if reference != START and main.over_start:
        said.append(_against(main, START, main.over_start))
    compared = [row for row in rows if row.arm != reference and row.over_reference]
    if main.seeds >= FEW and compared:
        best = max(compared, key=lambda row: row.over_reference.mean if row.over_reference else 0.0)
        value = best.measures["miou"]
        said.append(f"Highest in the mean: {best.arm}, mIoU {value.mean:.3f} ± {value.sd:.3f}.")
    return tuple(said) or (f"{MAIN} was not compared with anything.",)


def _against(row: ArmRow, other: str, gain: MeanSd) -> str:
    return judged(f"{row.arm} has {gain.mean:+.3f} mIoU against {other}", gain, row.seeds, f"{gain.sd:.3f}")


def write(content: TuningContent, folders: Sequence[ArmFolder], out: Path) -> None:
    """Write the page, the figures and the tidy tables."""
    from flows.reporting.tuning_charts import charts

    (out / FIGURES).write_text(content.model_dump_json(indent=1) + "\n", encoding="utf-8")
    for name in ("losses.csv", "metrics.csv", "cases.csv"):
        places = [(f, f.evaluation if name == "cases.csv" else f.policy) for f in folders]
        gather(name, [({"arm": f.arm, "seed": f.seed}, place) for f, place in places], out)
    shown = [name for name in MEASURES if any(name in row.measures for row in content.rows)]
    page = template("tuning.html", {"form": form}).render(
        content=content, measures=shown, heads=HEADS, charts=charts(folders, content.reference), glossary={}
    )
    (out / PAGE).write_text(page, encoding="utf-8")


def show_tuning(run_folder: Path) -> Path:
    """Print the table and the verdict of a finished run; returns its page's path."""
    content = TuningContent.model_validate_json((run_folder / FIGURES).read_text("utf-8"))
    rows = [
        [
            row.arm,
            form(row.measures["miou"], row.seeds),
            form(row.over_reference, row.seeds, sign="+"),
            *(form(row.measures[name], row.seeds) for name in ("dice", "boundary")),
        ]
        for row in content.rows
    ]
    title = f"{content.run_name}: {content.cases} {content.split} images, {content.rows[0].seeds} seed(s)"
    heads = ("arm", "mIoU", f"over {content.reference}", "Dice", "boundary F1")
    return show(title, heads, rows, content.verdict, run_folder / PAGE)
