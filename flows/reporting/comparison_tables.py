"""A comparison's results as columns and cells: one description for the page, the terminal and the dashboard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from rich import box
from rich.markup import escape
from rich.table import Table

from flows.reporting.comparison_data import DICE, HD, HD95, VALIDITY, ArmResult, ComparisonData, Figure
from flows.reporting.data import MAIN, UPPER_BOUND
from flows.reporting.tables import Cell, decimals, duration, one_decimal, percent, short_unit

Show = Callable[[float], str]


class Column(NamedTuple):
    """One column: a figure with its spread, or a text; ``key`` is its glossary entry."""

    key: str
    label: str
    cell: Callable[[ArmResult], Cell]
    better: Literal["high", "low", ""] = ""
    value: Callable[[ArmResult], Figure | None] = lambda result: None
    show: Show = decimals


def points(value: float) -> str:
    """A difference of shares in points: +12.5."""
    return f"{100 * value:+.1f}"


def signed(value: float) -> str:
    """A difference with its sign: +0.021."""
    return f"{value:+.3f}"


def p_text(p: float) -> str:
    """A p-value as papers write it."""
    return "p < .001" if p < 0.001 else f"p = {p:.3f}".replace("0.", ".", 1)


# --- columns ---------------------------------------------------------------------------------------------------------


def quality_columns(data: ComparisonData) -> tuple[Column, ...]:
    """How good the masks are: mean and spread over seeds."""
    length = short_unit(data.unit)
    return (
        _figure_column("dice_mean", "Mean Dice", DICE, decimals, "high"),
        *(
            _figure_column("dice", f"Dice {name}", f"dice_{name}", decimals, "high")
            for name in data.class_names
        ),
        _figure_column("hd95", f"HD95 ({length})", HD95, one_decimal, "low"),
        _figure_column("hd", f"HD ({length})", HD, one_decimal, "low"),
        _figure_column("validity", "Validity", VALIDITY, percent, "high"),
        _column("ece", "Reward-net ECE", lambda result: result.ece, decimals, "low"),
    )


def difference_columns(data: ComparisonData) -> tuple[Column, ...]:
    """How each arm differs from the reference, and what it cost."""
    return (
        Column("difference", f"Δ Dice, {data.direction} [95 % interval]", _difference_cell(DICE, signed)),
        Column("p", "p, corrected", _p_cell),
        Column("difference", f"Δ validity, {data.direction} (points)", _difference_cell(VALIDITY, points)),
        Column("iteration", "Iteration", _iteration_cell),
        Column("steps", "Optimiser steps", _steps_cell),
        _column("seconds", "Wall time", lambda result: result.seconds, duration),
    )


def _figure_column(
    key: str, label: str, measure: str, show: Show, better: Literal["high", "low", ""]
) -> Column:
    return _column(key, label, lambda result: result.measures.get(measure), show, better)


def _column(
    key: str,
    label: str,
    value: Callable[[ArmResult], Figure | None],
    show: Show,
    better: Literal["high", "low", ""] = "",
) -> Column:
    def cell(result: ArmResult) -> Cell:
        figure = value(result)
        if figure is None:
            return Cell("–")
        return Cell(show(figure.mean), "" if figure.sd is None else f"± {show(figure.sd)}")

    return Column(key, label, cell, better, value, show)


def _difference_cell(measure: str, show: Show) -> Callable[[ArmResult], Cell]:
    def cell(result: ArmResult) -> Cell:
        figure = result.measures.get(measure)
        if figure is None or figure.difference is None:
            return Cell("–")
        difference = figure.difference
        return Cell(
            show(difference.value), f"[{show(difference.low)}, {show(difference.high)}]", difference.sign != 0
        )

    return cell


def _p_cell(result: ArmResult) -> Cell:
    figure = result.measures.get(DICE)
    known = figure is not None and figure.difference is not None
    return Cell(p_text(figure.difference.p_holm) if known and figure and figure.difference else "–")


def _iteration_cell(result: ArmResult) -> Cell:
    """The iteration that was handed out; of an arm that does not iterate, none."""
    return Cell(_range(result.iterations) if result.arm == MAIN or any(result.iterations) else "–")


def _steps_cell(result: ArmResult) -> Cell:
    return Cell("–" if result.steps is None else _range(result.steps))


def _range(numbers: Sequence[int]) -> str:
    """Like 3, or 2 to 3 where seeds differ."""
    low, high = min(numbers), max(numbers)
    return f"{low}" if low == high else f"{low} to {high}"


# --- cells -----------------------------------------------------------------------------------------------------------


def lines(columns: Sequence[Column], arms: Sequence[ArmResult]) -> list[list[Cell]]:
    """One list per arm. Best figures of a column are marked (the upper bound never), and differences beyond chance."""
    best = [_best(column, arms) for column in columns]
    return [[_marked(column, arm, top) for column, top in zip(columns, best, strict=True)] for arm in arms]


def _best(column: Column, arms: Sequence[ArmResult]) -> str | None:
    figures = [column.value(arm) for arm in arms if arm.arm != UPPER_BOUND]
    known = [figure.mean for figure in figures if figure is not None]
    if not column.better or len({column.show(value) for value in known}) < 2:
        return None
    return column.show(max(known) if column.better == "high" else min(known))


def _marked(column: Column, result: ArmResult, best: str | None) -> Cell:
    cell = column.cell(result)
    if not column.better:
        return cell
    return cell._replace(best=cell.text == best and result.arm != UPPER_BOUND)


def used(columns: Sequence[Column], arms: Sequence[ArmResult]) -> tuple[Column, ...]:
    """Only the columns that some arm has something for."""
    return tuple(column for column in columns if any(column.cell(arm).text != "–" for arm in arms))


# --- the terminal ----------------------------------------------------------------------------------------------------


def console_tables(data: ComparisonData) -> tuple[Table, Table]:
    """The two tables at the end of a comparison: how good, and how different at what cost; best in bold."""
    seeds = f"{len(data.spec.seeds)} seed{'s' if len(data.spec.seeds) > 1 else ''}"
    spread = "mean" if len(data.spec.seeds) == 1 else "mean ± standard deviation over seeds"
    head = f"{data.title} · {seeds}, {data.cases} target images of {data.patients} patients · {spread}"
    quality = _table(data, quality_columns(data), head)
    differences = _table(
        data, difference_columns(data), f"Δ = {data.direction}; bold where the interval is off zero"
    )
    return quality, differences


def _table(data: ComparisonData, columns: Sequence[Column], title: str) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("variant" if data.is_ablation else "arm", no_wrap=True)
    shown = used(columns, data.arms)
    for column in shown:
        table.add_column(escape(column.label.replace(f", {data.direction}", "")), justify="right")
    for result, line in zip(data.arms, lines(shown, data.arms), strict=True):
        texts = [escape(f"{cell.text} {cell.sd.replace('± ', '±')}".strip()) for cell in line]
        bold = [f"[bold]{t}[/bold]" if cell.best else t for t, cell in zip(texts, line, strict=True)]
        table.add_row(escape(result.arm.partition(" (")[0]), *bold)
    return table
