"""The charts of the uncertainty page: reliability, risk against coverage, score against Dice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from flows.reporting.data import ReliabilityCurve
from flows.reporting.figures import INK, Chart, draw, reliability_charts

COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7c3aed", "#6b7280")
STYLES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 2)), (0, (6, 2, 1, 2)))
POINTS = 200  # of a curve


def colour(place: int) -> str:
    """Colour of the method in row ``place``."""
    return COLOURS[place % len(COLOURS)]


def reliability(content: Mapping[str, Any]) -> tuple[Chart, ...]:
    """One diagram per method that claims probabilities."""
    return reliability_charts(
        [
            ReliabilityCurve(
                title=method["name"][:1].upper() + method["name"][1:],
                confidence=method["curve"]["confidence"],
                accuracy=method["curve"]["accuracy"],
                counts=method["curve"]["counts"],
                ece=method["curve"]["ece"],
            )
            for method in content["methods"]
            if method["curve"] is not None
        ]
    )


def risk_coverage(content: Mapping[str, Any], names: Sequence[str]) -> Chart:
    """Mean 1 - Dice of the images that are kept, against their share; the oracle sorts by Dice itself."""
    rows = [method for method in content["methods"] if method["name"] in names]

    def paint(axes: Axes) -> None:
        for place, method in enumerate(rows):
            _curve(axes, method["risk"], colour(place), method["name"], STYLES[place % len(STYLES)])
        _curve(axes, content["oracle_risk"], INK, "oracle", (0, (1, 1)))
        axes.axhline(1 - content["dice_mean"], color="#9ca3af", linewidth=1)
        axes.set(xlim=(0, 1), xlabel="share of images kept, surest first", ylabel="their mean 1 − Dice")
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8)

    alt = "Risk-coverage curves: mean 1 minus Dice over the share of images kept, per method, and the oracle"
    return draw("What is gained by setting unsure images aside", alt, paint, (8.6, 3.6))


def _curve(axes: Axes, risk: Sequence[float], tint: str, label: str, style: Any) -> None:
    coverage = np.arange(1, len(risk) + 1) / max(len(risk), 1)
    step = max(1, len(risk) // POINTS)
    axes.plot(
        coverage[::step], np.array(risk)[::step], color=tint, label=label, linewidth=1.6, linestyle=style
    )


def score_against_dice(
    content: Mapping[str, Any], dice: Sequence[float], scores: Mapping[str, Sequence[float]]
) -> tuple[Chart, ...]:
    """One scatter per method: image score against Dice, the limit of a bad image drawn in."""
    limit = content["dice_below"]
    charts = []
    for name, values in scores.items():

        def paint(axes: Axes, values: Sequence[float] = values) -> None:
            bad = np.array(dice) < limit
            for chosen, tint in ((~bad, "#0072b2"), (bad, "#d55e00")):
                axes.scatter(
                    np.array(values)[chosen], np.array(dice)[chosen], s=9, color=tint, alpha=0.7, linewidths=0
                )
            axes.axhline(limit, color=INK, linewidth=0.8, linestyle=(0, (3, 2)))
            axes.set(xlabel="image score", ylabel="mean Dice", ylim=(0, 1))

        figures = next(method["figures"] for method in content["methods"] if method["name"] == name)
        r = figures["pearson"]["value"]
        title = f"{name}: r {r:.2f}" if r is not None else name
        charts.append(draw(title, f"Image score of {name} against mean Dice", paint))
    return tuple(charts)
