"""Training curves: one chart per recorded quantity, the histories of all iterations laid end to end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from flows.reporting.data import Curve, Stage
from flows.reporting.figures import ARM_STYLES, Chart, arm_colour, draw
from reward_data.types import Float64

TITLES = {
    "loss": "Loss",
    "policy_loss": "Policy loss",
    "anchor_loss": "Anchor loss (Dice + CE)",
    "value_loss": "Critic loss",
    "entropy": "Entropy (nats)",
    "kl_ref": "KL to the reference (nats)",
    "approx_kl": "Approximate KL of an update",
    "clip_fraction": "Clip fraction",
    "explained_variance": "Explained variance of the critic",
    "valid": "Validity of the sampled masks",
    "validity": "Validity of the sampled masks",
    "reward": "Mean reward",
    "mean_reward": "Mean reward",
    "learning_rate": "Learning rate",
}


class Segment(NamedTuple):
    """One stage's history placed on the run's continuous step axis. ``steps``, ``values`` Shape: (n,)."""

    iteration: int
    steps: Float64
    values: Float64


def segments(curves: Sequence[Curve], column: str) -> tuple[Segment, ...]:
    """Histories of one arm laid end to end: every iteration starts where the one before it ended."""
    out, offset = [], 0.0
    for curve in sorted(curves, key=lambda c: c.iteration):
        values = _array(curve.columns.get(column, ()))
        steps = _array(curve.columns.get("step", ()))
        steps = steps if len(steps) == len(values) else np.arange(1.0, len(values) + 1)
        if np.isfinite(values).any():
            out.append(Segment(curve.iteration, steps + offset, values))
        own = _array(curve.columns.get("step", ()))
        offset += float(own[-1]) if len(own) else float(len(values))
    return tuple(out)


def _array(values: Sequence[float | None]) -> Float64:
    return np.array([np.nan if value is None else value for value in values], np.float64)


def training_charts(curves: Sequence[Curve], stage: Stage) -> tuple[Chart, ...]:
    """One chart per recorded quantity of a stage, x continuous over iterations; constant zeros are left out."""
    own = [curve for curve in curves if curve.stage == stage]
    columns = dict.fromkeys(name for curve in own for name in curve.columns if name != "step")
    charts = []
    for column in columns:
        arms = {
            arm: segments([c for c in own if c.arm == arm], column)
            for arm in dict.fromkeys(curve.arm for curve in own)
        }
        if any(np.nan_to_num(part.values).any() for parts in arms.values() for part in parts):
            title = TITLES.get(column, column.replace("_", " ").capitalize())
            charts.append(draw(title, f"{stage}: {title} over steps", _training_painter(arms)))
    return tuple(charts)


def _training_painter(arms: Mapping[str, Sequence[Segment]]) -> Callable[[Axes], None]:
    def paint(axes: Axes) -> None:
        for arm, parts in arms.items():
            for part in parts:
                known = np.isfinite(part.values)
                steps, values = part.steps[known], part.values[known]
                axes.plot(steps, values, color=arm_colour(arm), alpha=0.25, linewidth=0.7)
                style = ARM_STYLES.get(arm, "-")
                axes.plot(
                    steps,
                    smoothed(values, 1 + len(values) // 10),
                    color=arm_colour(arm),
                    linestyle=style,
                    linewidth=1.5,
                )
        longest = max(arms.values(), key=len)
        for part in longest[1:]:
            axes.axvline(part.steps[0], color="#9ca3af", linewidth=0.7, linestyle=(0, (2, 2)))
        if len(longest) > 1:
            for part in longest:
                middle = (part.steps[0] + part.steps[-1]) / 2
                label = str(part.iteration)
                axes.annotate(
                    label, (middle, 1.01), xycoords=("data", "axes fraction"), ha="center", fontsize=7
                )
            axes.set_title(axes.get_title(loc="left"), pad=13)
        axes.set_xlabel("step" + (" (iterations numbered above)" if len(longest) > 1 else ""))
        axes.margins(x=0.01)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))

    return paint


def smoothed(values: Float64, window: int) -> Float64:
    """Centred running mean, the window cut off at both ends. Shape: (n,) -> (n,)."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    centre = np.arange(len(values))
    low, high = np.maximum(centre - window // 2, 0), np.minimum(centre + window // 2 + 1, len(values))
    mean: Float64 = (total[high] - total[low]) / (high - low)
    return mean
