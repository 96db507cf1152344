"""The report of PaSeR: every method over seeds, curves of IoU against cost and time, and where the nets are spent.

``paser.json`` has everything on the page but the pictures; ``paser.csv`` has one row per method and seed,
``curves.csv`` one per point of every curve.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field

from flows.reporting.data import MeanSd
from flows.reporting.seed_tables import form, mean_sd, show, write_csv
from flows.reporting.templates import template
from reward_data.types import Config
from rl4seg.paser.figures import (
    BARE,
    CASCADE,
    ORACLE,
    POLICY,
    RANDOM,
    TRAINED,
    Latency,
    Point,
    RouterSpec,
    RoutingFigures,
)

PAGE, FIGURES = "report.html", "paser.json"
IOU_GOAL, TIME_GOAL = 0.01, 0.6  # the largest net's IoU within a point, at no more than 60 % of its time
SLACK = 1e-6


class SeedFolder(NamedTuple):
    """Where the files of one seed are."""

    seed: int
    router: Path
    trained: Path
    evaluation: Path
    latency: Path


class SeedFigures(NamedTuple):
    """The files of one seed, read."""

    seed: int
    figures: RoutingFigures
    latency: Latency
    spec: RouterSpec


class MethodRow(Config):
    """One method: mean and standard deviation over the seeds of its means over the held-out images."""

    method: str = Field(description="Which one.")
    iou: MeanSd = Field(description="Mean IoU of whole images.")
    gflop: MeanSd = Field(description="GFLOP per image with the overhead that the method has.")
    bare_gflop: MeanSd = Field(description="GFLOP per image without dropout passes and policy.")
    ms: MeanSd | None = Field(description="Measured ms per image, overhead included.")
    bare_ms: MeanSd | None = Field(default=None, description="The same with the decisions given.")
    efficiency: MeanSd = Field(description="IoU per GFLOP, overhead included.")
    bare_efficiency: MeanSd = Field(description="IoU per GFLOP without it.")
    patches: tuple[float, ...] = Field(description="Share of the patches by net.")


class PaserContent(Config):
    """Everything on the page but the pictures."""

    run_name: str = Field(description="Name of the run.")
    config: str = Field(description="Its configuration.")
    split: str = Field(description="Which images were measured.")
    images: int = Field(description="How many per seed.")
    seeds: int = Field(description="How many seeds.")
    nets: tuple[str, ...] = Field(description="Names, the smallest first.")
    parameters: tuple[int, ...] = Field(description="Weights of each.")
    patch_gflop: tuple[float, ...] = Field(description="GFLOP of each on one patch.")
    costs: tuple[float, ...] = Field(description="cost of each in the reward.")
    budget: float = Field(description="The budget asked for.")
    basis: str = Field(description="What the threshold was calibrated on.")
    device: str = Field(description="What was timed on.")
    rows: tuple[MethodRow, ...] = Field(description="The methods.")
    over_cascade: MeanSd = Field(
        description="Least of the policy's IoU less the cascade's at equal cost, by seed."
    )
    above_cascade: float = Field(
        description="Share of the points of the policy's curves that are not below it."
    )
    at_goal: MeanSd = Field(
        description="IoU of the policy's curve at 60 % of the largest net's measured time, between measured points,"
        " less the largest net's IoU."
    )
    verdict: tuple[str, ...] = Field(description="What can be said.")


def read(folder: SeedFolder) -> SeedFigures:
    """The figures of one seed."""
    return SeedFigures(
        folder.seed,
        RoutingFigures.model_validate_json((folder.evaluation / "routing.json").read_text("utf-8")),
        Latency.model_validate_json((folder.latency / "latency.json").read_text("utf-8")),
        RouterSpec.model_validate_json((folder.router / "router.json").read_text("utf-8")),
    )


def collect(run_name: str, config_yaml: str, folders: Sequence[SeedFolder]) -> PaserContent:
    """Read all seeds and say what they show."""
    seen = [read(folder) for folder in folders]
    first = seen[0]
    rows = tuple(_row(name, seen) for name in first.figures.rows)
    inside = [_inner(item) for item in seen]
    apart = [value for values in inside for value in values]
    over = mean_sd([min(values) if values else 0.0 for values in inside])
    above = float(np.mean([value >= -SLACK for value in apart])) if apart else 1.0
    curve, goal = first.spec.curve, mean_sd([_at_goal(item) for item in seen])
    return PaserContent(
        run_name=run_name,
        config=config_yaml,
        split=first.figures.split,
        images=first.figures.images,
        seeds=len(seen),
        nets=first.figures.nets,
        parameters=first.spec.costs.parameters,
        patch_gflop=tuple(2e-9 * macs for macs in first.spec.costs.patch_macs),
        costs=first.spec.shares,
        budget=first.figures.budget,
        basis="nothing" if curve is None else f"{curve.images} {curve.basis}",
        device=f"{first.latency.device}, {first.latency.threads} thread(s)",
        rows=rows,
        over_cascade=over,
        above_cascade=above,
        at_goal=goal,
        verdict=verdict(rows, first.figures.nets, over, above, goal, len(seen)),
    )


def _inner(item: SeedFigures) -> list[float]:
    """IoU over the cascade's along the policy's curve."""
    return [difference for _, difference in item.figures.over_cascade]


def _at_goal(item: SeedFigures) -> float:
    largest = item.figures.nets[-1]
    ms, iou, _ = zip(*sorted(item.latency.curve))
    reached = float(np.interp(TIME_GOAL * item.latency.ms[largest], ms, iou))
    return reached - item.figures.rows[largest].iou


def _row(method: str, seen: Sequence[SeedFigures]) -> MethodRow:
    points = [item.figures.rows[method] for item in seen]
    times = [item.latency.ms[method] for item in seen if method in item.latency.ms]
    bare = [item.latency.ms[BARE] for item in seen if method == POLICY and BARE in item.latency.ms]
    return MethodRow(
        method=method,
        iou=mean_sd([p.iou for p in points]),
        gflop=mean_sd([p.gflop for p in points]),
        bare_gflop=mean_sd([p.bare_gflop for p in points]),
        ms=mean_sd(times) if times else None,
        bare_ms=mean_sd(bare) if bare else None,
        efficiency=mean_sd([p.iou / p.gflop for p in points]),
        bare_efficiency=mean_sd([p.iou / p.bare_gflop for p in points]),
        patches=tuple(np.mean([p.patches for p in points], axis=0).tolist()),
    )


def verdict(
    rows: Sequence[MethodRow], nets: Sequence[str], over: MeanSd, above: float, at_goal: MeanSd, seeds: int
) -> tuple[str, ...]:
    """Whether the policy keeps the largest net's IoU in less time, and whether it beats the cascade."""
    named = {row.method: row for row in rows}
    own, largest, rival = named[POLICY], named[nets[-1]], named[CASCADE]
    said = f"The policy has IoU {own.iou.mean:.3f} against {largest.iou.mean:.3f} of {nets[-1]} alone"
    if own.ms is not None and largest.ms is not None:
        said += f", in {100 * own.ms.mean / largest.ms.mean:.0f} % of its measured time"
    gain = own.iou.mean - rival.iou.mean
    reached = "reached" if at_goal.mean >= -IOU_GOAL else "missed"
    apart = form(at_goal, seeds, 3, "+")
    return (
        f"{said}. At {100 * TIME_GOAL:.0f} % of that time its curve is at {apart} of {nets[-1]}: "
        f"the goal (within {IOU_GOAL:.2f}) is {reached}.",
        f"At no more cost the best entropy cascade has {rival.iou.mean:.3f}: {gain:+.3f} for the policy. Along its "
        f"curve the policy is not below the best cascade at no more cost at {100 * above:.0f} % of the points, "
        f"at worst {over.mean:+.3f}.",
        f"As many patches per net, but without the cost of a decision: at random {named[RANDOM].iou.mean:.3f}, chosen "
        f"by the truth {named[ORACLE].iou.mean:.3f}.",
    )


def write(content: PaserContent, folders: Sequence[SeedFolder], out: Path) -> None:
    """Write the page, the figures and the tidy tables."""
    from flows.reporting.paser_charts import charts, training_chart
    from flows.reporting.paser_maps import routing_maps

    seen = [read(folder) for folder in folders]
    (out / FIGURES).write_text(content.model_dump_json(indent=1) + "\n", encoding="utf-8")
    write_csv(_method_rows(seen), out / "paser.csv")
    write_csv(_curve_rows(seen), out / "curves.csv")
    page = template("paser.html", {"form": form, "net_colour": net_colour}).render(
        content=content,
        charts=charts(seen),
        training=training_chart([folder.trained for folder in folders]),
        maps=routing_maps(folders[0].evaluation, content.nets),
        glossary={},
        policy=POLICY,
        trained=TRAINED,
    )
    (out / PAGE).write_text(page, encoding="utf-8")


NET_COLOURS = ("#56b4e9", "#e69f00", "#d55e00", "#7c3aed", "#009e73", "#cc79a7", "#8c564b", "#4b5563")


def net_colour(place: int) -> str:
    """Colour of a net, by its place."""
    return NET_COLOURS[place % len(NET_COLOURS)]


def _method_rows(seen: Sequence[SeedFigures]) -> Iterable[dict[str, Any]]:
    for item in seen:
        for method, point in item.figures.rows.items():
            yield {
                "seed": item.seed,
                "method": method,
                **_cells(point, item.figures.nets),
                "ms": item.latency.ms.get(method, ""),
                "bare_ms": item.latency.ms.get(BARE, "") if method == POLICY else "",
            }


def _curve_rows(seen: Sequence[SeedFigures]) -> Iterable[dict[str, Any]]:
    for item in seen:
        for curve, points in item.figures.curves.items():
            for point in points:
                yield {"seed": item.seed, "curve": curve, **_cells(point, item.figures.nets)}


def _cells(point: Point, nets: Sequence[str]) -> dict[str, Any]:
    shares = {f"patches_{net}": round(share, 6) for net, share in zip(nets, point.patches, strict=True)}
    return {
        "setting": f"{point.setting:.6g}",
        "iou": f"{point.iou:.6f}",
        "gflop": f"{point.gflop:.6g}",
        "bare_gflop": f"{point.bare_gflop:.6g}",
        "iou_per_gflop": f"{point.iou / point.gflop:.6g}",
        "bare_iou_per_gflop": f"{point.iou / point.bare_gflop:.6g}",
        **shares,
    }


def show_paser(run_folder: Path) -> Path:
    """Print the table and the verdict of a finished run; returns its page's path."""
    content = PaserContent.model_validate_json((run_folder / FIGURES).read_text("utf-8"))
    rows = [
        [
            row.method,
            form(row.iou, content.seeds),
            form(row.gflop, content.seeds, 2),
            form(row.ms, content.seeds, 1),
            form(row.efficiency, content.seeds),
            *(f"{100 * share:.0f}" for share in row.patches),
        ]
        for row in content.rows
    ]
    title = f"{content.run_name}: {content.images} {content.split} images, {content.seeds} seed(s)"
    heads = ("method", "IoU", "GFLOP", "ms", "IoU/GFLOP", *(f"% {net}" for net in content.nets))
    return show(title, heads, rows, content.verdict, run_folder / PAGE)
