"""What the Prefect dashboard keeps of a finished stage: its figures as a table, and a page with its picture.

Sent by a thread that the stage waits for a few seconds at most: a server that is slow, silent or gone neither fails nor
holds up a run. Keys tell labels apart, not runs, so that the history of a key compares runs.
"""

from __future__ import annotations

import base64
import contextvars
import io
import json
import logging
import math
import re
import socket
import sys
import threading
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.reporting.data import EvaluationRow
from flows.reporting.tables import Cell, cells, duration, ordered, quality_columns, signal_columns, used

if TYPE_CHECKING:
    from flows.reporting.comparison_data import ComparisonData

log = logging.getLogger(__name__)
Value = float | int | str | bool | None
Figures = Mapping[str, Value]

MARKDOWN_BYTES = 950_000  # the dashboard shows pages below 1 MB
LONGEST_TEXT, MOST_FIGURES = 200, 200  # letters of a value, rows of a table
PATIENCE_SECONDS = 5.0  # that a stage waits for the server to take its page
UNITS = {"seconds": "s", "mm": "mm", "px": "px", "nats": "nats", "degrees": "°", "percent": "%"}
METRICS, FIGURES, SUMMARY, MANIFEST = "metrics.json", "figures.json", "summary.json", "manifest.json"

_under_way: list[threading.Thread] = []


# --- publishing ------------------------------------------------------------------------------------------------------


def publish_stage(label: str, stage: str, figures: Figures, seconds: float | None, png: bytes | None) -> None:
    """Two artifacts of the current task run: a table of the figures, and a page of figures, wall time and picture.

    Outside a Prefect run nothing happens. Call it once the stage's artifact is in the store.

    Args:
        label: what the dashboard calls the stage, e.g. "iteration 2 · PPO".
        stage: name of the stage's function, for a label without letters.
        figures: its figures by name; see `stage_figures`.
        seconds: wall time of building the artifact, None where unknown.
        png: its picture, see `stage_pictures.picture`.
    """

    def send() -> None:
        from prefect.artifacts import create_markdown_artifact, create_table_artifact

        key, rows = artifact_key(label) or artifact_key(stage), figure_rows(figures, seconds)
        if rows:
            create_table_artifact(rows, key=f"{key}-figures", description=f"{label}: figures")
        page = stage_markdown(label, figures, seconds, png)
        create_markdown_artifact(page, key=f"{key}-picture", description=f"{label}: figures and picture")

    _send(label, send)


def publish_report(run_folder: Path | None, report_folder: Path) -> None:
    """One artifact with the run's result: table, verdict, masks before and after, and where the report lies.

    Args:
        run_folder: where the report was copied to, None where the run has no folder.
        report_folder: the report's artifact, in the store.
    """

    def send() -> None:
        from prefect.artifacts import create_markdown_artifact

        metrics = json.loads((report_folder / METRICS).read_text(encoding="utf-8"))
        report = (run_folder or report_folder).resolve() / "report.html"
        page = report_markdown(metrics, report, _result_picture(metrics, report_folder.parent))
        name = metrics["run_name"]
        create_markdown_artifact(page, key=artifact_key(f"report {name}"), description=f"{name}: result")

    _send("report", send)


def publish_comparison(run_folder: Path | None, folder: Path) -> None:
    """One artifact with what a comparison has found: verdict, tables, and where its page lies.

    Args:
        run_folder: where the page was copied to, None where the run has no folder.
        folder: the comparison's artifact, in the store.
    """

    def send() -> None:
        from prefect.artifacts import create_markdown_artifact

        from flows.reporting.comparison_data import FIGURES as COMPARISON
        from flows.reporting.comparison_data import PAGE, read_comparison

        data = read_comparison(folder / COMPARISON)
        page = comparison_markdown(data, (run_folder or folder).resolve() / PAGE)
        key = artifact_key(f"comparison {data.spec.name}")
        create_markdown_artifact(page, key=key, description=f"{data.spec.name}: result")

    _send("comparison", send)


def _send(label: str, send: Callable[[], None]) -> None:
    """Run ``send`` in a thread, with this run's context; wait for it, but not long."""
    if not _inside_run():
        return
    _under_way[:] = [thread for thread in _under_way if thread.is_alive()]
    if _under_way:
        log.info("%s: not shown in the dashboard, which has not taken an earlier stage yet", label)
        return
    context = contextvars.copy_context()  # with it the artifacts belong to this task run
    thread = threading.Thread(target=context.run, args=(_try, label, send), daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)
    if thread.is_alive():
        _under_way.append(thread)
        log.info("%s: the dashboard has not answered for %g s, going on", label, PATIENCE_SECONDS)


def _try(label: str, send: Callable[[], None]) -> None:
    try:
        send()
    except (
        Exception
    ) as error:  # whatever a server, its client or a picture raises: the stage is done all the same
        log.info("%s: not shown in the dashboard (%s: %s)", label, type(error).__name__, error)


def _inside_run() -> bool:
    """Whether a task or flow run is under way here; without one Prefect would start a server for the artifact."""
    if "prefect" not in sys.modules:
        return False
    from prefect.context import FlowRunContext, TaskRunContext

    return TaskRunContext.get() is not None or FlowRunContext.get() is not None


def artifact_key(text: str) -> str:
    """Lowercase letters, digits and dashes: "iteration 2 · PPO" -> "iteration-2-ppo"."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


# --- figures ---------------------------------------------------------------------------------------------------------


def stage_figures(folder: Path) -> dict[str, Value]:
    """The figures of a stage's artifact: those that it recorded, or the means of an evaluation's summary."""
    figures: dict[str, Value] = {}
    if (folder / FIGURES).is_file():
        figures = json.loads((folder / FIGURES).read_text(encoding="utf-8"))
    elif (folder / SUMMARY).is_file():
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        for name in (
            "cases",
            "labelled",
            "dice_mean",
            "hd95_mean",
            "hd_mean",
            "validity",
            "mean_reward",
            "kl",
            "entropy",
        ):
            value = summary.get(name)
            if value is not None:
                figures[name] = value[0] if isinstance(value, list) else value
        figures |= {f"dice_{structure}": mean for structure, (mean, _) in (summary["dice"] or {}).items()}
    return figures


def figure_rows(figures: Figures, seconds: float | None) -> list[dict[str, Value]]:
    """Rows of the table artifact: figure, value (4 significant digits) and unit."""
    timed = {
        **dict(list(figures.items())[:MOST_FIGURES]),
        **({} if seconds is None else {"wall_time_seconds": seconds}),
    }
    rows = []
    for name, value in timed.items():
        words, unit = _words(name)
        rows.append({"figure": words, "value": _plain(value), "unit": unit})
    return rows


def _words(name: str) -> tuple[str, str]:
    """("wall time", "s") of "wall_time_seconds"."""
    parts = name.split("_")
    unit = UNITS.get(parts[-1], "") if len(parts) > 1 else ""
    return " ".join(parts[:-1] if unit else parts), unit


def _plain(value: Value) -> Value:
    """As JSON can hold it and a person can read it; None for what is not a number."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    return value[:LONGEST_TEXT] if isinstance(value, str) else value


def _readable(row: Mapping[str, Value]) -> str:
    value, unit = row["value"], row["unit"]
    if isinstance(value, int | float):
        if unit == "s":
            return duration(value)
        whole = isinstance(value, int) or (value.is_integer() and abs(value) < 1e15)
        return f"{value:,.0f} {unit}".strip() if whole else f"{value:.4g} {unit}".strip()
    return "–" if value is None else _escaped(str(value))


# --- pages -----------------------------------------------------------------------------------------------------------


def stage_markdown(label: str, figures: Figures, seconds: float | None, png: bytes | None) -> str:
    """A page of at most `MARKDOWN_BYTES`: heading, picture, two-column table of figures and wall time."""
    rows = [(_escaped(str(row["figure"])), _readable(row)) for row in figure_rows(figures, seconds)]
    table = _table(("figure", "value"), rows) if rows else ""
    return _with_picture(f"## {label}\n", png, "what this stage made", table)


def report_markdown(metrics: Mapping[str, Any], report: Path, png: bytes | None) -> str:
    """A page of at most `MARKDOWN_BYTES`: verdict word for word, result table, the report's place, a picture."""
    rows = ordered([EvaluationRow.model_validate(row) for row in metrics["rows"]])
    columns = used((*quality_columns(metrics["class_names"], metrics["unit"]), *signal_columns()), rows)
    lines = [
        (_escaped(row.arm), f"● {row.iteration}" if row.chosen else str(row.iteration), *map(_cell, line))
        for row, line in zip(rows, cells(columns, rows), strict=True)
    ]
    table = _table(("arm", "iteration", *(_escaped(column.label) for column in columns)), lines)
    verdict = "".join(f"- {statement['text']}\n" for statement in metrics["verdict"])
    place = f"The whole report: `{report}` on {socket.gethostname()}"
    head = f"## {metrics['title']}\n\n{verdict}\n{table}\n{place}\n"
    return _with_picture(head, png, "target cases before and after, from the worst to the best")


def comparison_markdown(data: ComparisonData, page: Path) -> str:
    """A page with the verdict word for word, both tables and the place of the whole page."""
    from flows.reporting import comparison_tables

    parts = [f"## {data.title}\n\n" + "".join(f"- {statement.text}\n" for statement in data.verdict)]
    for columns in (comparison_tables.quality_columns(data), comparison_tables.difference_columns(data)):
        shown = comparison_tables.used(columns, data.arms)
        lines = [
            (_escaped(result.arm), *map(_cell, line))
            for result, line in zip(data.arms, comparison_tables.lines(shown, data.arms), strict=True)
        ]
        parts.append(_table(("arm", *(_escaped(column.label) for column in shown)), lines))
    return "\n".join([*parts, f"The whole page: `{page}` on {socket.gethostname()}"])


def _cell(cell: Cell) -> str:
    text = f"{cell.text} {cell.sd}".strip()
    return f"**{text}**" if cell.best else text


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = (head, (":--", *["--:"] * (len(head) - 1)), *rows)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _with_picture(head: str, png: bytes | None, words: str, foot: str = "") -> str:
    """The page with its picture embedded, smaller where it would not fit."""
    room = (MARKDOWN_BYTES - len((head + foot).encode()) - 200) * 3 // 4
    if png is None or room < 1000:
        return head + (f"\n{foot}" if foot else "")
    if len(png) > room:
        from PIL import Image

        from flows.reporting.picture_sheet import encoded

        png = encoded(Image.open(io.BytesIO(png)), room)
    return f"{head}\n![{words}](data:image/png;base64,{base64.b64encode(png).decode()})\n" + (
        f"\n{foot}" if foot else ""
    )


def _result_picture(metrics: Mapping[str, Any], store: Path) -> bytes | None:
    """Masks of the first policy and of the last one that has a reward net; None where their files are not at hand."""
    rows = [row for row in metrics["lineage"] if row["kind"] == "Evaluation"]
    kinds = {row["digest"]: row for row in metrics["lineage"]}
    try:
        made_from = [_inputs(store / row["key"], kinds) for row in rows]
        judged = [place for place, found in enumerate(made_from) if "RewardNet" in found]
        last = (judged or [len(rows) - 1])[-1]
        from flows.reporting.stage_pictures import montage_picture

        shown = {
            rows[place]["label"].removesuffix(" · evaluate"): store / rows[place]["key"]
            for place in (0, last)
        }
        return montage_picture(store / made_from[0]["CaseSet"], shown, bool(judged))
    except (OSError, LookupError, ValueError) as error:
        log.info("report: no picture of the result (%r)", error)
        return None


def _inputs(folder: Path, kinds: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Kind -> key of the artifacts that an artifact was made from."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    found = [kinds[digest] for digest in manifest["made_from"] if digest in kinds]
    return {row["kind"]: row["key"] for row in found}
