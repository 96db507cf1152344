"""Training curves of one stage as a small PNG for the dashboard; the charts of the report are in `training_curves`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flows.reporting.figures import GRID, INK
from flows.reporting.picture_sheet import DPI, drawn
from flows.reporting.training_curves import TITLES, smoothed
from reward_data.types import Float64
from rl4seg.histories import read_history

MOST = 4  # charts in a picture
MEASURED, SMOOTHED = "#56b4e9", "#0072b2"
CALIBRATION_COLOURS = ("#6b7280", "#d55e00", "#009e73")
Painter = Callable[[Axes], None]


def training_picture(folder: Path, first: Sequence[str]) -> bytes | None:
    """Curves of ``history.csv``, the columns ``first`` before others, and the calibration where there is one.

    Columns of zeros are left out, as in the report; None where nothing is left.
    """
    calibration = _calibration(folder)
    shown = _curves(folder, first)[: MOST - len(calibration)] + calibration
    if not shown:
        return None
    columns = min(len(shown), 2)
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(4.8 * columns, 2.9 * rows), dpi=DPI, layout="constrained", facecolor="white")
    for number, paint in enumerate(shown):
        axes = figure.add_subplot(rows, columns, number + 1)
        axes.grid(color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8, colors=INK)
        paint(axes)
    return drawn(figure)


def _curves(folder: Path, first: Sequence[str]) -> list[Painter]:
    path = folder / "history.csv"
    history = (
        {name: np.array(values) for name, values in read_history(path).items()} if path.is_file() else {}
    )
    steps = history.pop("step", np.array([]))
    told = {name: values for name, values in history.items() if np.nan_to_num(values).any()}
    order = sorted(told, key=lambda name: first.index(name) if name in first else len(first))
    return [_curve(name, steps, told[name]) for name in order]


def _curve(name: str, steps: Float64, values: Float64) -> Painter:
    def paint(axes: Axes) -> None:
        known = np.isfinite(values)
        title = TITLES.get(name, name.replace("_", " ").capitalize())
        axes.plot(steps[known], values[known], color=MEASURED, alpha=0.6, linewidth=0.9)
        window = 1 + int(known.sum()) // 10
        axes.plot(steps[known], smoothed(values[known], window), color=SMOOTHED, linewidth=1.8)
        _words(axes, title, "step" if window == 1 else "step (bold: running mean)", title)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.margins(x=0.02)

    return paint


def _calibration(folder: Path) -> list[Painter]:
    path = folder / "reliability.json"
    if not path.is_file():
        return []
    curves: Mapping[str, Mapping[str, Any]] = json.loads(path.read_text())

    def paint(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (3, 2)), label="perfect")
        for (name, curve), colour in zip(curves.items(), CALIBRATION_COLOURS, strict=False):
            used = np.array(curve["counts"]) > 0
            points = [np.array(curve[key])[used] for key in ("confidence", "accuracy")]
            label = f"{name}, ECE {curve['ece']:.3f}"
            axes.plot(*points, color=colour, marker="o", markersize=3, linewidth=1.4, label=label)
        axes.set(xlim=(0, 1.01), ylim=(0, 1.01))
        axes.legend(fontsize=8, frameon=False, labelcolor=INK)
        _words(
            axes,
            "Calibration (held-out examples)",
            "predicted probability of being right",
            "share of right pixels",
        )

    return [paint]


def _words(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=10, fontweight="bold", loc="left", color=INK)
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)
