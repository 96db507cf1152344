"""The report of PatchDrop's segmentation twin: mIoU against measured seconds per image, windows kept, tidy tables.

``windows.json`` has all but the pictures of the page; ``arms.csv`` has one row per arm and seed, ``cases.csv`` one per
arm, seed and image, ``curves.csv`` mIoU over the number of windows, ``history.csv`` the policy's training.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from pydantic import Field

from flows.reporting.data import MeanSd
from flows.reporting.figures import INK, Chart, draw
from flows.reporting.patchdrop_pictures import Strip, window_strips
from flows.reporting.seed_tables import form, gather, judged, mean_sd, read_csv, show, write_csv
from flows.reporting.templates import template
from reward_data.case_store import CaseStore
from reward_data.types import Config
from rl4seg.histories import read_history

PAGE, FIGURES = "report.html", "windows.json"
POLICY, ENTROPY, FULL, COARSE = "policy", "entropy windows", "full sliding window", "coarse only"
COLOURS = {
    COARSE: "#6b7280",
    FULL: INK,
    POLICY: "#d55e00",
    ENTROPY: "#0072b2",
    "random windows": "#009e73",
    "oracle windows": "#cc79a7",
}
CURVES = (
    ("quality", "mIoU of the thresholded policy"),
    ("reward", "Reward of sampled windows"),
    ("patches", "Windows kept"),
    ("unique_policies", "Different keep maps in a batch"),
)


class SeedFolder(NamedTuple):
    """Where the files of one seed are."""

    seed: int
    evaluation: Path
    timing: Path
    policy: Path


class WindowRow(Config):
    """One arm: means over images, then mean and standard deviation over seeds."""

    arm: str = Field(description="Which arm.")
    miou: MeanSd = Field(description="mIoU.")
    windows: MeanSd = Field(description="Windows seen at full resolution.")
    seconds: MeanSd | None = Field(
        default=None, description="Measured seconds per image; the oracle has none."
    )
    policy_over: MeanSd | None = Field(default=None, description="mIoU of the policy less this arm's.")


class WindowContent(Config):
    """Everything on the page but the pictures."""

    run_name: str = Field(description="Name of the run.")
    config: str = Field(description="Its configuration.")
    images: int = Field(description="Held-out images.")
    grid: tuple[int, ...] = Field(description="Windows per axis.")
    seeds: int = Field(description="How many seeds.")
    rows: tuple[WindowRow, ...] = Field(description="The arms.")
    verdict: tuple[str, ...] = Field(description="What can be said.")

    @property
    def patches(self) -> int:
        """P."""
        return int(np.prod(self.grid))

    def row(self, arm: str) -> WindowRow:
        """An arm's row."""
        return next(row for row in self.rows if row.arm == arm)


def collect(run_name: str, config_yaml: str, folders: Sequence[SeedFolder]) -> WindowContent:
    """Read the evaluations and the times of all seeds."""
    summaries = [json.loads((folder.evaluation / "summary.json").read_text("utf-8")) for folder in folders]
    times = [json.loads((folder.timing / "latency.json").read_text("utf-8")) for folder in folders]
    rows = []
    for arm in summaries[0]["arms"]:
        own = [summary["arms"][arm] for summary in summaries]
        ours = [summary["arms"][POLICY]["miou"] for summary in summaries]
        seconds = [time[arm] for time in times if arm in time]
        rows.append(
            WindowRow(
                arm=arm,
                miou=mean_sd([value["miou"] for value in own]),
                windows=mean_sd([value["windows"] for value in own]),
                seconds=mean_sd(seconds) if seconds else None,
                policy_over=None
                if arm == POLICY
                else mean_sd([a - b["miou"] for a, b in zip(ours, own, strict=True)]),
            )
        )
    content = WindowContent(
        run_name=run_name, config=config_yaml, images=summaries[0]["images"], grid=tuple(summaries[0]["grid"]),
        seeds=len(folders), rows=tuple(rows), verdict=(),
    )  # fmt: skip
    return content.model_copy(update={"verdict": tuple(verdict(content))})


def verdict(content: WindowContent) -> list[str]:
    """What the figures say of the policy: what it gives up and saves, and whether it beats entropy."""
    policy, full, entropy = (content.row(arm) for arm in (POLICY, FULL, ENTROPY))
    said = [
        f"The policy sees {policy.windows.mean:.1f} of {content.patches} windows and has {policy.miou.mean:.4f} mIoU; "
        f"the full sliding window {full.miou.mean:.4f}, the coarse network alone {content.row(COARSE).miou.mean:.4f}."
    ]
    if policy.seconds is not None and full.seconds is not None:
        said.append(
            f"Measured: {policy.seconds.mean:.3f} s per image against {full.seconds.mean:.3f} s of the full sliding "
            f"window, {1 - policy.seconds.mean / full.seconds.mean:.0%} saved, coarse network and policy included."
        )
    gain = entropy.policy_over
    assert gain is not None
    against = f"Against as many windows chosen by entropy it has {gain.mean:+.4f} mIoU"
    return [*said, judged(against, gain, content.seeds, f"{gain.sd:.4f}")]


# --- the page --------------------------------------------------------------------------------------------------------


def write(content: WindowContent, folders: Sequence[SeedFolder], store: CaseStore, out: Path) -> None:
    """Write the page, the figures and the tidy tables."""
    (out / FIGURES).write_text(content.model_dump_json(indent=1) + "\n", encoding="utf-8")
    _write_arms(folders, out / "arms.csv")
    for name in ("cases.csv", "curves.csv", "history.csv"):
        places = [(f, f.policy if name == "history.csv" else f.evaluation) for f in folders]
        gather(name, [({"seed": f.seed}, place) for f, place in places], out)
    strips: tuple[Strip, ...] = window_strips(
        folders[0].evaluation / "cases.csv", store, content.grid, POLICY
    )
    page = template("patchdrop_windows.html", {"form": form}).render(
        content=content, charts=_charts(content, folders), strips=strips, glossary={}
    )
    (out / PAGE).write_text(page, encoding="utf-8")


def _charts(content: WindowContent, folders: Sequence[SeedFolder]) -> tuple[Chart, ...]:
    logs = [read_history(folder.policy / "history.csv") for folder in folders]
    log = {name: np.mean([table[name] for table in logs], axis=0) for name in logs[0]}

    def curve(name: str) -> Callable[[Axes], None]:
        def paint(axes: Axes) -> None:
            axes.plot(log["step"], log[name], color=COLOURS[POLICY], linewidth=1.3)
            axes.set_xlabel("step")

        return paint

    return (
        draw(
            "mIoU against seconds per image",
            "mIoU over measured seconds, per arm",
            _seconds(content),
            (5.2, 3.4),
        ),
        draw("mIoU against windows", "mIoU over windows, per chooser", _curves(content, folders), (5.2, 3.4)),
        *(draw(title, f"{title} over steps", curve(name), (3.7, 2.5)) for name, title in CURVES),
    )


def _seconds(content: WindowContent) -> Callable[[Axes], None]:
    def paint(axes: Axes) -> None:
        for row in content.rows:
            if row.seconds is not None:
                axes.errorbar(
                    row.seconds.mean, row.miou.mean, yerr=row.miou.sd or None, xerr=row.seconds.sd or None,
                    color=COLOURS[row.arm], marker="o", linestyle="none", label=row.arm,
                )  # fmt: skip
        axes.set(xlabel="seconds per image", ylabel="mIoU", xlim=(0, None))
        axes.legend(fontsize=7)

    return paint


def _curves(content: WindowContent, folders: Sequence[SeedFolder]) -> Callable[[Axes], None]:
    tables = [read_csv(folder.evaluation / "curves.csv") for folder in folders]
    points: dict[str, dict[int, list[float]]] = {}
    for row in (row for table in tables for row in table):
        points.setdefault(row["chooser"], {}).setdefault(int(row["windows"]), []).append(float(row["miou"]))

    def paint(axes: Axes) -> None:
        for name, line in points.items():
            label = "policy's order" if name == POLICY else name
            axes.plot(
                list(line), [float(np.mean(v)) for v in line.values()], color=COLOURS[name], linewidth=1.3,
                marker=".", label=label,
            )  # fmt: skip
        policy = content.row(POLICY)
        axes.plot(
            policy.windows.mean, policy.miou.mean, "o", color=COLOURS[POLICY], label="policy, as it decides"
        )
        axes.set(xlabel=f"windows at full resolution, of {content.patches}", ylabel="mIoU")
        axes.legend(fontsize=7)

    return paint


def _write_arms(folders: Sequence[SeedFolder], path: Path) -> None:
    rows: list[dict[str, Any]] = []
    for folder in folders:
        summary = json.loads((folder.evaluation / "summary.json").read_text("utf-8"))
        seconds = json.loads((folder.timing / "latency.json").read_text("utf-8"))
        for arm, figures in summary["arms"].items():
            row = {"arm": arm, "seed": folder.seed} | {k: f"{v:.6g}" for k, v in figures.items()}
            rows.append(row | {"seconds": f"{seconds[arm]:.6g}" if arm in seconds else ""})
    write_csv(rows, path)


def show_windows(run_folder: Path) -> Path:
    """Print the table and the verdict of a finished run; returns its page's path."""
    content = WindowContent.model_validate_json((run_folder / FIGURES).read_text("utf-8"))
    rows = [
        [
            row.arm,
            form(row.miou, content.seeds, 4),
            form(row.windows, content.seeds, 1),
            form(row.seconds, content.seeds, 3),
            form(row.policy_over, content.seeds, 4, "+"),
        ]
        for row in content.rows
    ]
    title = f"{content.run_name}: {content.images} held-out images, {content.seeds} seed(s)"
    heads = ("arm", "mIoU", f"windows of {content.patches}", "seconds per image", "policy over it")
    return show(title, heads, rows, content.verdict, run_folder / PAGE)
