"""The comparison's charts: differences with their intervals and seeds, and levels per seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from flows.reporting.comparison_data import DICE, VALIDITY, ArmResult, ComparisonData
from flows.reporting.figures import INK, Chart, arm_colour, draw

VARIANT_COLOURS = (
    "#d55e00",
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#7c3aed",
    "#cc79a7",
    "#56b4e9",
    "#8c6d31",
    "#b91c1c",
)
NAMES = {DICE: "mean Dice", VALIDITY: "validity (points)"}
SEED_SPREAD = 0.28  # height over which the dots of the seeds are laid, in rows


def colours(data: ComparisonData) -> dict[str, str]:
    """Arm -> colour: the run report's for arms, one after the other for variants."""
    if not data.is_ablation:
        return {result.arm: arm_colour(result.arm) for result in data.arms}
    palette = VARIANT_COLOURS
    return {result.arm: palette[place % len(palette)] for place, result in enumerate(data.arms)}


def difference_charts(data: ComparisonData) -> tuple[Chart, ...]:
    """One chart per measure: a dot with its 95 % interval per arm, a small dot per seed, a line at zero."""
    charts = []
    for measure in (DICE, VALIDITY):
        arms = [arm for arm in data.arms if measure in arm.measures and arm.measures[measure].difference]
        if arms:
            scale = 100.0 if measure == VALIDITY else 1.0
            title = f"Δ {NAMES[measure]}: {data.direction}"
            size = (5.2, 0.95 + 0.34 * len(arms))
            charts.append(draw(title, _alt(data, arms, measure), _painter(data, arms, measure, scale), size))
    return tuple(charts)


def _alt(data: ComparisonData, arms: Sequence[ArmResult], measure: str) -> str:
    words = []
    for arm in arms:
        difference = arm.measures[measure].difference
        if difference is not None:
            words.append(
                f"{arm.arm} {difference.value:+.3f} from {difference.low:+.3f} to {difference.high:+.3f}"
            )
    return f"Difference in {measure}, {data.direction}, with 95 % interval: {'; '.join(words)}"


def _painter(
    data: ComparisonData, arms: Sequence[ArmResult], measure: str, scale: float
) -> Callable[[Axes], None]:
    def paint(axes: Axes) -> None:
        axes.axvline(0, color=INK, linewidth=1)
        for place, arm in enumerate(arms):
            difference = arm.measures[measure].difference
            if difference is None:
                continue
            row, colour = len(arms) - 1 - place, colours(data)[arm.arm]
            low, high = scale * difference.low, scale * difference.high
            axes.plot([low, high], [row, row], color=colour, linewidth=2.2, solid_capstyle="butt")
            filled = colour if difference.sign else "white"
            axes.plot(scale * difference.value, row, "o", markersize=7, color=colour, markerfacecolor=filled)
            if len(difference.per_seed) > 1:
                heights = row - np.linspace(0.2, 0.2 + SEED_SPREAD, len(difference.per_seed))
                seeds = scale * np.array(difference.per_seed)
                axes.plot(seeds, heights, "o", markersize=2.6, color=colour, alpha=0.75, markeredgewidth=0)
        axes.set_yticks(range(len(arms)), [arm.arm.partition(" (")[0] for arm in reversed(arms)])
        axes.tick_params(axis="y", length=0, labelsize=9)
        axes.grid(visible=False, axis="y")
        axes.set_ylim(-0.75, len(arms) - 0.5)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}" if value else "0"))
        first = "the variant" if data.is_ablation else data.reference
        axes.set_xlabel(f"right of zero: {first} is better")

    return paint


def level_charts(data: ComparisonData) -> tuple[Chart, ...]:
    """Mean Dice and validity of every arm: one dot per seed, a bar at their mean."""
    charts = []
    for measure, name, scale in ((DICE, "Mean Dice", 1.0), (VALIDITY, "Validity (%)", 100.0)):
        arms = [arm for arm in data.arms if measure in arm.measures]
        if arms:
            means = "; ".join(f"{arm.arm} {scale * arm.measures[measure].mean:.3f}" for arm in arms)
            size = (5.2, 0.8 + 0.3 * len(arms))
            charts.append(
                draw(
                    f"{name} per seed",
                    f"{name} per arm: {means}",
                    _levels(colours(data), arms, measure, scale),
                    size,
                )
            )
    return tuple(charts)


def _levels(
    colour_of: Mapping[str, str], arms: Sequence[ArmResult], measure: str, scale: float
) -> Callable[[Axes], None]:
    def paint(axes: Axes) -> None:
        for place, arm in enumerate(arms):
            row, colour, figure = len(arms) - 1 - place, colour_of[arm.arm], arm.measures[measure]
            values = scale * np.array(figure.per_seed)
            axes.plot(values, np.full(len(values), row), "o", markersize=4.5, color=colour, alpha=0.7)
            axes.plot([scale * figure.mean] * 2, [row - 0.32, row + 0.32], color=colour, linewidth=2)
        axes.set_yticks(range(len(arms)), [arm.arm.partition(" (")[0] for arm in reversed(arms)])
        axes.tick_params(axis="y", length=0, labelsize=9)
        axes.set_ylim(-0.6, len(arms) - 0.4)
        axes.grid(visible=False, axis="y")

    return paint
