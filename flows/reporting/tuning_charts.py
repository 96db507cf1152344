"""The charts of reward tuning: mIoU per validation step with its trends, against the reference, and the reward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from flows.reporting.figures import INK, Chart, draw
from flows.reporting.tuning import ArmFolder, validation
from rl4seg.trends import against, exponential_mean, regression_line, rolling_mean

COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#7c3aed", "#8c6d31", "#56b4e9", "#b91c1c")
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)))  # once round the colours, the next kind of line
WINDOW, KEEP = 5, 0.7
Curve = tuple[list[float], list[float]]
Look = tuple[str, Any]
"""Colour and kind of a line."""


class Charts(NamedTuple):
    """Those of all arms, and those of one arm each."""

    together: tuple[Chart, ...] = ()
    single: tuple[Chart, ...] = ()


def charts(folders: Sequence[ArmFolder], reference: str) -> Charts:
    """One of all arms, one of the differences, and one per arm with its trends. Means over seeds."""
    curves = {
        arm: mean_curve([validation(folder) for folder in folders if folder.arm == arm])
        for arm in dict.fromkeys(folder.arm for folder in folders)
    }
    known = {arm: curve for arm, curve in curves.items() if len(curve[0]) > 1}
    if not known:
        return Charts()
    count = len(COLOURS)
    looks = {arm: (COLOURS[n % count], DASHES[n // count % len(DASHES)]) for n, arm in enumerate(known)}
    out = [
        draw("mIoU of the validation", "mIoU over steps, one line per arm", _lines(known, looks), (7.4, 3.6))
    ]
    if reference in known and len(known) > 1:
        apart = {
            arm: _difference(curve, known[reference]) for arm, curve in known.items() if arm != reference
        }
        title = f"mIoU less that of {reference}"
        out.append(draw(title, f"{title} over steps", _lines(apart, looks, zero=True), (7.4, 3.6)))
    single = [
        draw(arm, f"mIoU of {arm} over steps with its trends", _trends(curve, looks[arm][0]), (3.7, 2.8))
        for arm, curve in known.items()
    ]
    return Charts(tuple(out), tuple(single))


def mean_curve(metrics: Sequence[dict[str, list[float]]]) -> Curve:
    """(steps, mIoU), mean over the seeds, at the steps that all have."""
    found = [dict(zip(table["step"], table["miou"], strict=True)) for table in metrics if table]
    steps = sorted(set(found[0]).intersection(*found)) if found else []
    return steps, [float(np.mean([values[step] for values in found])) for step in steps]


def _difference(curve: Curve, other: Curve) -> Curve:
    steps, values = against(*curve, *other)
    return steps.tolist(), values.tolist()


def _axes(axes: Axes) -> None:
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _lines(curves: dict[str, Curve], looks: dict[str, Look], zero: bool = False) -> Callable[[Axes], None]:
    def paint(axes: Axes) -> None:
        for arm, (steps, values) in curves.items():
            colour, dashes = looks[arm]
            axes.plot(
                steps,
                values,
                color=colour,
                linestyle=dashes,
                linewidth=1.5,
                marker="o",
                markersize=2.5,
                label=arm,
            )
        if zero:
            axes.axhline(0, color=INK, linewidth=0.8)
        axes.legend(
            fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5)
        )  # beside the lines, not on them
        _axes(axes)

    return paint


def _trends(curve: Curve, tint: str) -> Callable[[Axes], None]:
    def paint(axes: Axes) -> None:
        steps, values = curve
        axes.plot(
            steps, values, color=tint, alpha=0.35, linewidth=0.8, marker="o", markersize=2.5, label="mIoU"
        )
        axes.plot(steps, exponential_mean(values, KEEP), color=tint, linewidth=1.5, label=f"EMA {KEEP:g}")
        axes.plot(
            steps,
            rolling_mean(values, WINDOW),
            color=INK,
            linewidth=1,
            linestyle=(0, (1, 1)),
            label=f"mean of {WINDOW}",
        )
        line = regression_line(steps, values)
        if line is not None:
            label = f"line, {100 * line.slope:+.4f} per 100 steps"
            axes.plot(steps, line.at(steps), color=INK, linewidth=0.9, linestyle=(0, (5, 2)), label=label)
        axes.legend(fontsize=6.5)
        _axes(axes)

    return paint
