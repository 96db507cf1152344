"""The charts of PaSeR: IoU against GFLOP, against measured time, the policy against the cascade, and its training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes

from flows.reporting.figures import INK, Chart, draw
from flows.reporting.paser import NET_COLOURS, SeedFigures
from rl4seg.histories import read_history
from rl4seg.paser.figures import BARE, CASCADE, ORACLE, POLICY, RANDOM

OWN, RIVAL, CHANCE, BEST = "#d55e00", "#0072b2", "#6b7280", "#009e73"
CASCADE_STYLES: tuple[str | tuple[int, tuple[int, ...]], ...] = ("-", (0, (5, 2)), (0, (1, 1)))


def charts(seen: Sequence[SeedFigures]) -> tuple[Chart, ...]:
    """All of them; curves of the first seed, single points of every seed."""
    many = f", curves of seed {seen[0].seed}" if len(seen) > 1 else ""
    return (
        draw(f"IoU and GFLOP{many}", "IoU over GFLOP per image, overhead included", _cost(seen), (7.4, 3.8)),
        draw("IoU and measured time", "IoU over milliseconds per image", _time(seen), (7.4, 3.4)),
        draw(
            "Policy less the best cascade at no more cost",
            "IoU of the policy less that of the cascades over GFLOP, one line per seed",
            _over(seen),
            (7.4, 2.6),
        ),
    )


def training_chart(routers: Sequence[Path]) -> Chart | None:
    """Greedy reward of the policy over the steps of its training, and the best there is; first seed."""
    file = routers[0] / "history.csv"
    if not file.is_file():
        return None
    history = read_history(file)

    def paint(axes: Axes) -> None:
        axes.plot(
            history["step"], history["best"], color=BEST, linewidth=1, label="best choice of every patch"
        )
        axes.plot(history["step"], history["reward"], color=OWN, linewidth=1.4, label="greedy policy")
        axes.set(xlabel="step", ylabel="reward")
        axes.legend(fontsize=8)

    return draw("Training of the policy", "Reward over steps", paint, (7.4, 2.8))


def _nets(axes: Axes, seen: Sequence[SeedFigures], across: Callable[[SeedFigures, str], float]) -> None:
    """Every net alone, one point per seed."""
    for place, name in enumerate(seen[0].figures.nets):
        x = [across(item, name) for item in seen]
        y = [item.figures.rows[name].iou for item in seen]
        axes.scatter(
            x,
            y,
            color=NET_COLOURS[place % len(NET_COLOURS)],
            marker="s",
            s=34,
            zorder=4,
            label=f"{name} alone",
        )


def _cost(seen: Sequence[SeedFigures]) -> Callable[[Axes], None]:
    def paint(axes: Axes) -> None:
        curves = seen[0].figures.curves
        for name, colour in ((ORACLE, BEST), (RANDOM, CHANCE)):
            _line(axes, [(p.gflop, p.iou) for p in curves[name]], colour, name, (0, (2, 1)))
        families = [name for name in curves if name.startswith(CASCADE)]
        for name, style in zip(families, CASCADE_STYLES * len(families)):
            _line(axes, [(p.gflop, p.iou) for p in curves[name]], RIVAL, name, style)
        _line(axes, [(p.gflop, p.iou) for p in curves[POLICY]], OWN, POLICY, "-", 2.0)
        points = [item.figures.rows[POLICY] for item in seen]
        axes.scatter([p.gflop for p in points], [p.iou for p in points], color=OWN, s=40, zorder=5)
        _nets(axes, seen, lambda item, name: item.figures.rows[name].gflop)
        axes.set(xlabel="GFLOP per image, overhead included", ylabel="mean IoU")
        axes.legend(fontsize=7, ncols=2, loc="lower right")

    return paint


def _time(seen: Sequence[SeedFigures]) -> Callable[[Axes], None]:
    def paint(axes: Axes) -> None:
        first = seen[0].latency
        _line(axes, [(ms, iou) for ms, iou, _ in first.cascade], RIVAL, CASCADE, (0, (5, 2)))
        _line(axes, [(ms, iou) for ms, iou, _ in first.curve], OWN, POLICY, "-", 2.0)
        for item in seen:
            iou = item.figures.rows[POLICY].iou
            axes.scatter([item.latency.ms[POLICY]], [iou], color=OWN, s=40, zorder=5)
            axes.scatter([item.latency.ms[BARE]], [iou], facecolor="none", edgecolor=OWN, s=40, zorder=5)
        _nets(axes, seen, lambda item, name: item.latency.ms[name])
        axes.scatter([], [], facecolor="none", edgecolor=OWN, label="policy without overhead")
        axes.set(xlabel=f"ms per image ({first.device}, {first.threads} thread(s))", ylabel="mean IoU")
        axes.legend(fontsize=7, ncols=2, loc="lower right")

    return paint


def _over(seen: Sequence[SeedFigures]) -> Callable[[Axes], None]:
    def paint(axes: Axes) -> None:
        axes.axhline(0, color=INK, linewidth=0.8)
        for item in seen:
            values = sorted(item.figures.over_cascade)
            axes.plot(
                [x for x, _ in values], [y for _, y in values], linewidth=1.3, label=f"seed {item.seed}"
            )
        axes.set(xlabel="GFLOP per image, overhead included", ylabel="difference of IoU")
        axes.legend(fontsize=7)

    return paint


def _line(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    colour: str,
    label: str,
    style: str | tuple[int, tuple[int, ...]],
    width: float = 1.2,
) -> None:
    ordered = sorted(points)
    axes.plot(
        [x for x, _ in ordered], [y for _, y in ordered], color=colour, linestyle=style, linewidth=width, label=label,
        marker="o", markersize=2.5,
    )  # fmt: skip
