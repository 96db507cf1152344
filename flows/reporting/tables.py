"""The result rows as columns and cells: one description for the HTML report and for the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from rich import box
from rich.markup import escape
from rich.table import Table

from flows.reporting.data import ARMS, UPPER_BOUND, EvaluationRow, MeanSd, Unit


class Cell(NamedTuple):
    """What one table cell shows; an unmeasured value is shown as a dash."""

    text: str
    sd: str = ""
    best: bool = False


class TableColumn(NamedTuple):
    """One column: ``value`` is None where not measured; ``better`` says which end is bold."""

    key: str  # glossary entry
    label: str
    value: Callable[[EvaluationRow], float | MeanSd | None]
    show: Callable[[float], str]
    better: Literal["high", "low", ""] = ""


def decimals(value: float) -> str:
    """Three decimals: 0.794."""
    return f"{value:.3f}"


def one_decimal(value: float) -> str:
    """One decimal: 4.2."""
    return f"{value:.1f}"


def percent(value: float) -> str:
    """A share as percent: 89.2 %."""
    return f"{100 * value:.1f} %"


def duration(seconds: float) -> str:
    """Wall time as a person says it: 42 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def short_unit(unit: Unit) -> str:
    """mm or px."""
    return unit.partition(" ")[0]


def ordered(rows: Sequence[EvaluationRow]) -> tuple[EvaluationRow, ...]:
    """By arm (source-only, logit bias, PPO off, RL4Seg, upper bound, others by name), then by iteration."""
    return tuple(
        sorted(rows, key=lambda r: (ARMS.index(r.arm) if r.arm in ARMS else len(ARMS), r.arm, r.iteration))
    )


def _dice_of(name: str) -> Callable[[EvaluationRow], MeanSd | None]:
    return lambda row: (row.dice or {}).get(name)


def quality_columns(class_names: Sequence[str], unit: Unit) -> tuple[TableColumn, ...]:
    """How good the masks are."""
    per_class = (
        TableColumn("dice", f"Dice {name}", _dice_of(name), decimals, "high") for name in class_names
    )
    length = short_unit(unit)
    return (
        *per_class,
        TableColumn("dice_mean", "Dice mean", lambda r: r.dice_mean, decimals, "high"),
        TableColumn("hd95", f"HD95 ({length})", lambda r: r.hd95, one_decimal, "low"),
        TableColumn("hd", f"HD ({length})", lambda r: r.hd, one_decimal, "low"),
        TableColumn("validity", "Validity", lambda r: r.validity, percent, "high"),
    )


def signal_columns() -> tuple[TableColumn, ...]:
    """What the loop says about itself, and what it costs."""
    return (
        TableColumn("reward", "Mean reward", lambda r: r.mean_reward, decimals),
        TableColumn("ece", "ECE before", lambda r: r.ece_before, decimals),
        TableColumn("ece", "ECE after", lambda r: r.ece_after, decimals, "low"),
        TableColumn("kl", "KL to reference", lambda r: r.kl, decimals),
        TableColumn("entropy", "Entropy", lambda r: r.entropy, decimals),
        TableColumn("seconds", "Wall time", lambda r: r.seconds, duration),
    )


def _number(value: float | MeanSd | None) -> float | None:
    number = value.mean if isinstance(value, MeanSd) else value
    return None if number is None or not math.isfinite(number) else number


def best_text(column: TableColumn, rows: Sequence[EvaluationRow]) -> str | None:
    """The best shown value of a column, the upper bound left out; None where there is nothing to compare."""
    values = [_number(column.value(row)) for row in rows if row.arm != UPPER_BOUND]
    known = [value for value in values if value is not None]
    if not column.better or len({column.show(value) for value in known}) < 2:
        return None
    return column.show(max(known) if column.better == "high" else min(known))


def cells(columns: Sequence[TableColumn], rows: Sequence[EvaluationRow]) -> list[list[Cell]]:
    """One list per row, one cell per column, best in column marked (ties too, the upper bound never)."""
    best = [best_text(column, rows) for column in columns]
    return [[_cell(column, row, top) for column, top in zip(columns, best, strict=True)] for row in rows]


def _cell(column: TableColumn, row: EvaluationRow, best: str | None) -> Cell:
    value = column.value(row)
    number = _number(value)
    if number is None:
        return Cell("–")
    text = column.show(number)
    sd = f"± {column.show(value.sd)}" if isinstance(value, MeanSd) else ""
    return Cell(text, sd, text == best and row.arm != UPPER_BOUND)


def used(columns: Sequence[TableColumn], rows: Sequence[EvaluationRow]) -> tuple[TableColumn, ...]:
    """Only the columns that some row has a value for."""
    return tuple(c for c in columns if any(_number(c.value(row)) is not None for row in rows))


def result_table(
    rows: Sequence[EvaluationRow], unit: Unit = "mm", title: str = "Held-back target cases"
) -> Table:
    """The terminal's table at the end of a run: Dice per class, HD95, validity, reward, ECE; best in bold."""
    class_names = list(dict.fromkeys(name for row in rows for name in (row.dice or {})))
    wanted = ("dice", "dice_mean", "hd95", "validity", "reward", "ece")
    columns = [c for c in (*quality_columns(class_names, unit), *signal_columns()) if c.key in wanted]
    columns = [c for c in used(columns, rows) if c.label != "ECE before"]
    shown = ordered(rows)
    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("arm", no_wrap=True)
    table.add_column("it.", justify="right")
    for column in columns:
        table.add_column(escape(column.label), justify="right")
    for index, (row, line) in enumerate(zip(shown, cells(columns, shown), strict=True)):
        texts = [f"{cell.text} {cell.sd.replace(' ', '')}".strip() for cell in line]
        bold = [f"[bold]{t}[/bold]" if cell.best else t for t, cell in zip(texts, line, strict=True)]
        ends = index + 1 < len(shown) and shown[index + 1].arm != row.arm
        number = f"● {row.iteration}" if row.chosen else str(row.iteration)
        table.add_row(escape(row.arm.partition(" (")[0]), number, *bold, end_section=ends)
    return table
