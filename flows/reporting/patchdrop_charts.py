"""The charts of PatchDrop: accuracy against patches, and the curves of the training log."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from flows.reporting.figures import INK, Chart, draw
from flows.reporting.patchdrop import HIGH, LOW, POLICIES, ArmFolder, DropContent, DropRow
from reward_data.types import Float64
from rl4seg.histories import read_history

STAGE_COLOURS = {"Pt": "#0072b2", "Ft-1": "#e69f00", "Ft-2": "#d55e00"}
MARKERS = {"": "o", "random": "x", "centre": "s", "frequent": "^"}
CURVES = (
    ("quality", "Accuracy of the thresholded policy"),
    ("reward", "Reward: sampled (line), baseline (dashes)"),
    ("patches", "Patches kept (band: sd over images)"),
    ("unique_policies", "Different keep maps in a batch"),
)


def charts(content: DropContent, folders: Sequence[ArmFolder]) -> tuple[Chart, ...]:
    """Accuracy against patches, then one chart per column of the training log, means over seeds."""
    main = draw(
        "Accuracy against patches", "Accuracy over patches kept, per arm", _trade(content), (7.4, 3.8)
    )
    logs = {arm: mean_history(folders, arm) for arm in POLICIES}
    known = {arm: log for arm, log in logs.items() if log}
    out = [main]
    if known:
        out += [draw(title, f"{title} over steps", _curve(known, name), (3.7, 2.7)) for name, title in CURVES]
    return tuple(out)


def mean_history(folders: Sequence[ArmFolder], arm: str) -> dict[str, Float64]:
    """Columns of the training log of an arm, mean over its seeds."""
    tables = [
        read_history(folder.model / "history.csv")
        for folder in folders
        if folder.arm == arm and folder.model is not None and (folder.model / "history.csv").is_file()
    ]
    if not tables:
        return {}
    length = min(len(table["step"]) for table in tables)
    return {name: np.mean([table[name][:length] for table in tables], axis=0) for name in tables[0]}


def _trade(content: DropContent) -> Callable[[Axes], None]:
    def paint(axes: Axes) -> None:
        for row in content.rows:
            _point(axes, row, content.patches)
        axes.set_xlabel(f"patches kept, of {content.patches} (mean over images)")
        axes.set_ylabel("accuracy")
        axes.set_xlim(-0.03 * content.patches, 1.05 * content.patches)
        axes.legend(fontsize=7, ncols=2, loc="best")

    return paint


def _point(axes: Axes, row: DropRow, patches: int) -> None:
    stage, _, chooser = row.arm.partition(" · ")
    colour = STAGE_COLOURS.get(stage, INK)
    marker = {LOW: "v", HIGH: "D"}.get(row.arm, MARKERS.get(chooser, "o") if stage in STAGE_COLOURS else "P")
    accuracy, used = row.figures["accuracy"], row.figures["patches"]
    axes.errorbar(
        used.mean, accuracy.mean, yerr=accuracy.sd or None, xerr=used.sd or None, color=colour, marker=marker,
        markersize=6, linestyle="none", elinewidth=0.8, label=row.arm, markerfacecolor="none" if chooser else colour,
    )  # fmt: skip


def _curve(logs: dict[str, dict[str, Float64]], name: str) -> Callable[[Axes], None]:
    def paint(axes: Axes) -> None:
        for arm, log in logs.items():
            if name not in log:
                continue
            axes.plot(log["step"], log[name], color=STAGE_COLOURS[arm], linewidth=1.4, label=arm)
            if name == "reward":
                axes.plot(
                    log["step"], log["baseline_reward"], color=STAGE_COLOURS[arm], linewidth=1,
                    linestyle=(0, (3, 2)),
                )  # fmt: skip
            if name == "patches":
                low, high = log[name] - log["patches_sd"], log[name] + log["patches_sd"]
                axes.fill_between(log["step"], low, high, color=STAGE_COLOURS[arm], alpha=0.15, linewidth=0)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.legend(fontsize=7)

    return paint
