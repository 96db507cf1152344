"""The report of a run: one self-contained HTML file for people, one metrics.json for programs.

Equal data give equal bytes: no clock, no paths, no random ids. The look is `templates/report.html` and
`templates/style.css`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from flows.reporting import figures, montage, tables, training_curves
from flows.reporting.data import (
    MAIN,
    SOURCE_ONLY,
    Curve,
    EvaluationRow,
    ReliabilityCurve,
    ReportData,
    Stage,
    SynthesisSummary,
    Unit,
)
from flows.reporting.signals import signal_table
from flows.reporting.templates import template
from flows.reporting.verdict import Statement, handed_out, honest_verdict, last_row
from reward_data.types import Config
from rl4seg.stop_rule import Judgement

REPORT, METRICS = "report.html", "metrics.json"
STAGES: tuple[Stage, ...] = ("ppo", "reward net", "source training")
WORST_CASES = 8

GLOSSARY = {
    "dice": "Dice: overlap of mask and truth, 2|A∩B| / (|A|+|B|); 1 is perfect. Per image, then mean ± sd over images.",
    "dice_mean": "Dice mean: per image the mean over the foreground classes, then mean ± sd over images.",
    "hd95": "HD95: 95th percentile of the distances between the two borders, worst of both directions; mean over "
    "classes; lower is better. A missing structure counts as the image diagonal.",
    "hd": "HD: Hausdorff distance, the largest distance between the two borders; lower is better.",
    "validity": "Validity: share of predicted masks that pass every anatomical rule. Needs no labels. Not accuracy: "
    "a valid mask can be wrong.",
    "trust": "Trust: the Dice that the mask's error map (calibrated reward x softmax; softmax alone where there is no "
    "reward net) lets expect; from 0 to 1, needs no labels.",
    "reward": "Mean reward: what the policy's masks earn on average. Rewards of different iterations come from "
    "different reward nets: compare with care.",
    "ece": "ECE: expected calibration error of the reward net, the mean gap between its predicted probability that a "
    "pixel is right and how often it is; before and after temperature scaling; lower is better.",
    "kl": "KL to reference: mean Kullback-Leibler divergence per pixel (nats) of the policy from the frozen policy "
    "that the iteration started from; how far it moved.",
    "entropy": "Entropy: mean entropy per pixel (nats) of the policy's class probabilities; falls as it gets surer.",
    "seconds": "Wall time: of the stages that made this policy; reused (cached) stages keep the time of their making.",
    "clip_fraction": "Clip fraction: share of sampled pixels whose probability ratio left the trust region of PPO.",
    "approx_kl": "Approximate KL: how far one round of updates moved the policy from the one that sampled.",
    "anchor": "Anchor: supervised loss on accepted predictions (pseudo ground truth), which holds the policy in place.",
    "arms": "Arms: source-only = the policy before adaptation; logit bias = the same with a bias on the foreground "
    "logits; PPO off = the same loop without the policy gradient; RL4Seg = the loop; upper bound = trained on target "
    "labels.",
}


class Metrics(Config):
    """metrics.json: everything on the report but the pictures."""

    schema_version: Literal[1] = Field(default=1, description="Raised when a field changes its meaning.")
    title: str = Field(description="Title of the report.")
    run_name: str = Field(description="Name of the run.")
    command: str = Field(description="Command that started the run.")
    created: str = Field(description="When, as the flow said it; may be empty.")
    unit: Unit = Field(description="Unit of hd95 and hd.")
    class_names: tuple[str, ...] = Field(description="Foreground classes.")
    versions: dict[str, str] = Field(description="Package -> version.")
    verdict: tuple[Statement, ...] = Field(description="As on the report.")
    rows: tuple[EvaluationRow, ...] = Field(description="The result table.")
    synthesis: tuple[SynthesisSummary, ...] = Field(description="Reward datasets.")
    reliability: tuple[ReliabilityCurve, ...] = Field(description="Reliability diagrams.")
    stop: Judgement | None = Field(
        default=None, description="Label-free signals, alarm and choice; null where the stop rule was off."
    )
    lineage: tuple[dict[str, Any], ...] = Field(description="Stages and their artifacts.")
    curves: tuple[Curve, ...] = Field(description="Training histories.")


class LookAt(NamedTuple):
    """A case that a person should look at; ``dice`` and ``change``, against source-only, are None where unknown."""

    case_id: str
    trust: float | None
    dice: float | None
    change: float | None


class ResultTable(NamedTuple):
    """One HTML table over the evaluation rows."""

    columns: Sequence[tables.TableColumn]
    lines: Sequence[tuple[EvaluationRow, Sequence[tables.Cell]]]


class Card(NamedTuple):
    """A key figure: of the policy handed out, and source-only for comparison."""

    label: str
    key: str
    value: str
    before: str


def render(data: ReportData, out_dir: Path) -> Path:
    """Write ``report.html`` and ``metrics.json`` into ``out_dir`` (created if needed); returns the report's path."""
    out_dir.mkdir(parents=True, exist_ok=True)
    metrics = collect_metrics(data)
    (out_dir / METRICS).write_text(metrics_text(metrics), encoding="utf-8")
    path = out_dir / REPORT
    path.write_text(render_html(data, metrics.verdict), encoding="utf-8")
    return path


def collect_metrics(data: ReportData) -> Metrics:
    """The numbers of the report as one record."""
    return Metrics(
        title=data.title,
        run_name=data.run_name,
        command=data.command,
        created=data.created,
        unit=data.unit,
        class_names=data.class_names,
        versions=dict(data.versions),
        verdict=honest_verdict(data.rows, data.stop, data.flag),
        stop=data.stop,
        rows=tables.ordered(data.rows),
        synthesis=data.synthesis,
        reliability=data.reliability,
        lineage=tuple(dict(row) for row in data.lineage),
        curves=data.curves,
    )


def metrics_text(metrics: Metrics) -> str:
    """JSON text; `read_metrics` reads it back to an equal record."""
    plain = metrics.model_dump(mode="json")
    curves = plain.pop("curves")
    head = json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False)
    lines = ",\n".join(json.dumps(curve, ensure_ascii=False, allow_nan=False) for curve in curves)
    return f'{head.removesuffix("}").rstrip()},\n "curves": [\n{lines}\n]\n}}\n'


def read_metrics(path: Path) -> Metrics:
    """Read a ``metrics.json`` back.

    Raises:
        pydantic.ValidationError: not a metrics file of this schema version.
    """
    return Metrics.model_validate_json(path.read_text(encoding="utf-8"))


def render_html(data: ReportData, verdict: Sequence[Statement]) -> str:
    """The page as text."""
    functions: dict[str, Any] = {
        "arm_colour": figures.arm_colour,
        "class_colour": montage.class_colour,
        "arm_dashes": figures.arm_dashes,
    }
    filters: dict[str, Any] = {"percent": tables.percent, "duration": tables.duration}
    return template(REPORT, functions, filters).render(**_context(data, verdict))


def _context(data: ReportData, verdict: Sequence[Statement]) -> dict[str, Any]:
    rows = tables.ordered(data.rows)
    length = tables.short_unit(data.unit)
    return {
        "data": data,
        "verdict": verdict,
        "glossary": {key: text.partition(": ")[::2] for key, text in GLOSSARY.items()},
        "cards": list(_cards(rows, data)),
        "tables": [
            _table(rows, tables.quality_columns(data.class_names, data.unit)),
            _table(rows, tables.signal_columns()),
        ],
        "same_cases": len({row.cases for row in rows}) == 1,
        "arms": list(dict.fromkeys(row.arm for row in rows)),
        "progress": figures.progress_charts(rows, length),
        "violations": figures.violation_chart(_last_of_each_arm(rows)),
        "montages": montage.montage_rows(data.montages, len(data.class_names)),
        "colour_bar": montage.colour_bar_uri(),
        "reliability": figures.reliability_charts(data.reliability),
        "training": [
            (stage, charts)
            for stage in STAGES
            if (charts := training_curves.training_charts(data.curves, stage))
        ],
        "kinds": sorted({kind for part in data.synthesis for kind in part.examples}),
        "look_at": _cases_to_look_at(rows),
        "signals": signal_table(data.stop) if data.stop else None,
        "lineage_columns": list(dict.fromkeys(key for row in data.lineage for key in row)),
        "lineage": [_lineage_cells(row) for row in data.lineage],
    }


def _table(rows: Sequence[EvaluationRow], columns: Sequence[tables.TableColumn]) -> ResultTable:
    shown = tables.used(columns, rows)
    return ResultTable(shown, list(zip(rows, tables.cells(shown, rows), strict=True)))


def _cards(rows: Sequence[EvaluationRow], data: ReportData) -> Iterator[Card]:
    last, source = handed_out(rows), last_row(rows, SOURCE_ONLY)
    if last is None or source is None:
        return
    columns = (*tables.quality_columns(data.class_names, data.unit), *tables.signal_columns())
    wanted = {"dice_mean", "validity", "hd95", "ece"}
    for column in columns:
        if column.key in wanted and column.label != "ECE before":
            (now,), (before,) = tables.cells([column], [last, source])
            if now.text != "–":
                yield Card(
                    column.label.replace("ECE after", "Reward-net ECE"), column.key, now.text, before.text
                )


def _last_of_each_arm(rows: Sequence[EvaluationRow]) -> tuple[EvaluationRow, ...]:
    chosen = handed_out(rows)
    number = chosen.iteration if chosen is not None and chosen.arm == MAIN else None
    found = (
        last_row(rows, arm, number if arm == MAIN else None) for arm in dict.fromkeys(row.arm for row in rows)
    )
    return tuple(row for row in found if row is not None)


def _cases_to_look_at(rows: Sequence[EvaluationRow]) -> tuple[LookAt, ...]:
    """The worst cases of the policy handed out: by Dice, or where none has a label by trust."""
    last, source = handed_out(rows), last_row(rows, SOURCE_ONLY)
    if last is None:
        return ()
    before: Mapping[str, float] = source.case_dice if source else {}
    worst = sorted((last.case_dice or last.case_trust).items(), key=lambda pair: (pair[1], pair[0]))
    found = []
    for case, _ in worst[:WORST_CASES]:
        dice = last.case_dice.get(case)
        change = None if dice is None or case not in before else dice - before[case]
        found.append(LookAt(case, last.case_trust.get(case), dice, change))
    return tuple(found)


def _lineage_cells(row: Mapping[str, Any]) -> dict[str, str]:
    shown = {key: "" if value is None else str(value) for key, value in row.items()}
    if isinstance(row.get("seconds"), int | float):
        shown["seconds"] = tables.duration(float(row["seconds"]))
    if isinstance(row.get("cached"), bool):
        shown["cached"] = "cached" if row["cached"] else "ran"
    return shown
