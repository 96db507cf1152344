"""The report's charts: one small SVG each, as a data URI, so that a page can flow them on any screen.

Colours are those of Okabe and Ito (distinguishable with colour-blindness); an arm has one colour and one line style
everywhere. Equal data give equal bytes.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from flows.reporting.data import (
    LOGIT_BIAS,
    MAIN,
    MEAN_TEACHER,
    POST_PROCESSING,
    PPO_OFF,
    SELF_TRAINING,
    SOURCE_ONLY,
    STRONG_AUGMENTATION,
    TENT,
    UPPER_BOUND,
    EvaluationRow,
    MeanSd,
    ReliabilityCurve,
)

ARM_COLOURS = {
    SOURCE_ONLY: "#6b7280",
    LOGIT_BIAS: "#cc79a7",
    PPO_OFF: "#0072b2",
    POST_PROCESSING: "#8c6d31",
    STRONG_AUGMENTATION: "#e69f00",
    SELF_TRAINING: "#7c3aed",
    TENT: "#b91c1c",
    MEAN_TEACHER: "#56b4e9",
    MAIN: "#d55e00",
    UPPER_BOUND: "#009e73",
}
OTHER_COLOURS = ("#b8860b", "#56b4e9", "#7c3aed")
DASHED = (0, (3, 2))
ARM_STYLES: dict[str, str | tuple[int, tuple[int, ...]]] = {
    MAIN: "-",
    PPO_OFF: (0, (5, 2)),
    LOGIT_BIAS: (0, (1, 2)),
    UPPER_BOUND: (0, (6, 2, 1, 2)),
}
INK, GRID = "#374151", "#e5e7eb"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rl4seg",
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica", "Arial", "DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#9ca3af",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "lines.solid_capstyle": "round",
}


class Chart(NamedTuple):
    """One picture: ``uri`` is a data URI, ``alt`` says in words what it shows."""

    title: str
    uri: str
    alt: str


def arm_colour(arm: str) -> str:
    """The arm's colour, the same in every chart and table."""
    return ARM_COLOURS.get(arm) or OTHER_COLOURS[sum(arm.encode()) % len(OTHER_COLOURS)]


def arm_dashes(arm: str) -> str:
    """The arm's line style as an SVG stroke-dasharray."""
    style = ARM_STYLES.get(arm, DASHED if arm == SOURCE_ONLY else "-")
    return "none" if isinstance(style, str) else " ".join(str(length) for length in style[1])


def draw(
    title: str,
    alt: str,
    paint: Callable[[Axes], None],
    size: tuple[float, float] = (3.5, 2.4),
    paint_below: Callable[[Axes], None] | None = None,
) -> Chart:
    """One axes, or one above a lower one of a third its height, painted and written as SVG without a date."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        ratios = [1] if paint_below is None else [3, 1]
        axes = figure.subplots(len(ratios), 1, squeeze=False, sharex=True, height_ratios=ratios)[:, 0]
        axes[0].set_title(title)
        paint(axes[0])
        if paint_below is not None:
            paint_below(axes[1])
        stream = io.BytesIO()
        FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None, "Creator": None})
    uri = "data:image/svg+xml;base64," + base64.b64encode(stream.getvalue()).decode()
    return Chart(title, uri, alt)


# --- results over iterations -----------------------------------------------------------------------------------------


def progress_charts(rows: Sequence[EvaluationRow], length: str) -> tuple[Chart, ...]:
    """Mean Dice, validity, HD95 and mean reward over iterations; arms that do not iterate are horizontal lines."""
    wanted: tuple[tuple[str, Callable[[EvaluationRow], float | MeanSd | None]], ...] = (
        ("Mean Dice", lambda r: r.dice_mean),
        ("Validity", lambda r: r.validity),
        (f"HD95 ({length})", lambda r: r.hd95),
        ("Mean reward", lambda r: r.mean_reward),
    )
    return tuple(
        draw(title, f"{title} over iterations, per arm", _progress_painter(rows, value))
        for title, value in wanted
        if sum(value(row) is not None for row in rows) > 1
    )


def _progress_painter(
    rows: Sequence[EvaluationRow], value: Callable[[EvaluationRow], float | MeanSd | None]
) -> Callable[[Axes], None]:
    def paint(axes: Axes) -> None:
        start = [row for row in rows if row.arm == SOURCE_ONLY]
        for arm in dict.fromkeys(row.arm for row in rows):
            own = sorted((row for row in rows if row.arm == arm), key=lambda row: row.iteration)
            known = [row for row in own if value(row) is not None]
            if not known:
                continue
            if max(row.iteration for row in own) > 0:
                known = [row for row in start if value(row) is not None] + known
                _line_with_band(axes, arm, known, value)
            else:
                colour, style = arm_colour(arm), ARM_STYLES.get(arm, DASHED)
                axes.axhline(_split(value(known[0]), 1)[0], color=colour, linestyle=style, linewidth=1.4)
        axes.set_xlabel("iteration (0 = source-only)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    return paint


def _line_with_band(
    axes: Axes,
    arm: str,
    rows: Sequence[EvaluationRow],
    value: Callable[[EvaluationRow], float | MeanSd | None],
) -> None:
    colour, steps = arm_colour(arm), [row.iteration for row in rows]
    points = np.array([_split(value(row), row.cases) for row in rows])
    mean, margin = points[:, 0], points[:, 1]
    if arm == MAIN:
        axes.fill_between(steps, mean - margin, mean + margin, color=colour, alpha=0.1, linewidth=0)
    style = ARM_STYLES.get(arm, "-")
    axes.plot(steps, mean, color=colour, linestyle=style, linewidth=1.8, marker="o", markersize=4)


def _split(value: float | MeanSd | None, cases: int) -> tuple[float, float]:
    """The mean and twice its standard error (0 for a plain number)."""
    if isinstance(value, MeanSd):
        return value.mean, 2 * value.sd / max(cases, 1) ** 0.5
    return (float("nan") if value is None else value), 0.0


# --- calibration and violations --------------------------------------------------------------------------------------


def reliability_charts(curves: Sequence[ReliabilityCurve]) -> tuple[Chart, ...]:
    """Accuracy against confidence with the gap filled, and the share of pixels in each bin below."""
    return tuple(_reliability_chart(curve) for curve in curves)


def _reliability_chart(curve: ReliabilityCurve) -> Chart:
    bins = len(curve.counts)
    centres, width = (np.arange(bins) + 0.5) / bins, 0.92 / bins
    counts = np.array(curve.counts, np.float64)
    used = counts > 0
    confidence, accuracy = np.array(curve.confidence)[used], np.array(curve.accuracy)[used]

    def paint(axes: Axes) -> None:
        axes.bar(centres[used], accuracy, width, color="#56b4e9", label="accuracy")
        low, high = np.minimum(accuracy, confidence), np.maximum(accuracy, confidence)
        gap: dict[str, Any] = {"facecolor": "none", "edgecolor": "#d55e00", "hatch": "////", "linewidth": 0.6}
        axes.bar(centres[used], high - low, width, low, label="gap to confidence", **gap)
        axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (3, 2)))
        axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="share of right pixels")
        axes.legend(loc="upper left", fontsize=8)

    def paint_below(axes: Axes) -> None:
        axes.bar(centres, 100 * counts / max(counts.sum(), 1), width, color="#9ca3af")
        axes.set(xlabel="predicted probability that the pixel is right", ylabel="% of\npixels")

    alt = f"Reliability diagram {curve.title}: ECE {curve.ece:.3f}, {sum(curve.counts)} pixels in {bins} bins"
    return draw(f"{curve.title}: ECE {curve.ece:.3f}", alt, paint, (3.7, 3.9), paint_below)


def violation_chart(rows: Sequence[EvaluationRow]) -> Chart | None:
    """Share of masks that break each rule, one bar per row; None where no rule is broken."""
    rules = sorted({rule for row in rows for rule, count in row.violations.items() if count})
    if not rules:
        return None
    shares = {id(row): [row.violations.get(rule, 0) / max(row.cases, 1) for rule in rules] for row in rows}
    rules_order = sorted(range(len(rules)), key=lambda i: max(s[i] for s in shares.values()))
    height = 0.8 / len(rows)

    def paint(axes: Axes) -> None:
        for place, row in enumerate(rows):
            at = np.arange(len(rules)) + 0.4 - (place + 0.5) * height
            values = [100 * shares[id(row)][i] for i in rules_order]
            axes.barh(at, values, 0.85 * height, color=arm_colour(row.arm))
        axes.set_yticks(np.arange(len(rules)), [rules[i].replace("_", " ") for i in rules_order])
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
        axes.set_xlabel("masks that break the rule")

    size = (7.4, 0.9 + len(rules) * (0.12 + 0.13 * len(rows)))
    return draw("Broken anatomical rules", "Share of masks that break each rule, per arm", paint, size)
