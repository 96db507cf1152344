"""The report of PatchDrop: accuracy against patches, what skipping saves, where the policies look, tidy tables.

``patchdrop.json`` has all but the pictures of the page; ``arms.csv`` has one row per arm and seed, ``images.csv``
one per arm, seed and held-out image, ``history.csv`` one per trained arm, seed and step.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field

from flows.reporting.data import MeanSd
from flows.reporting.seed_tables import form, gather, judged, mean_sd, show, write_csv
from flows.reporting.templates import template
from reward_data.image_store import ImageStore
from reward_data.types import Config

PAGE, FIGURES = "report.html", "patchdrop.json"
HIGH, LOW = "HR alone", "LR alone"
POLICIES = ("Pt", "Ft-1", "Ft-2")
BLIND = "random"
FIXED = 4  # fewer different keep maps over all images are one pattern


class ArmFolder(NamedTuple):
    """Where the files of one arm of one seed are; ``model`` is None where it was not trained for itself."""

    arm: str
    seed: int
    evaluation: Path
    model: Path | None


class DropRow(Config):
    """One arm: mean and standard deviation over the seeds of its figures over the held-out images."""

    arm: str = Field(description="Which arm.")
    seeds: int = Field(description="How many seeds.")
    figures: dict[str, MeanSd] = Field(description="accuracy, patches, patches_sd, reward, unique_policies.")
    over_random: MeanSd | None = Field(
        default=None, description="Accuracy less that of random patches at the same stage, seed by seed."
    )
    often: tuple[float, ...] = Field(description="Share of the images of which each patch is kept.")


class TimeRow(Config):
    """What one way of answering costs."""

    arm: str = Field(description="Which arm.")
    figures: dict[str, MeanSd] = Field(description="mmacs and ms_batch_N, mean and sd over seeds.")
    compute_saving: dict[str, float] = Field(description="1 - its cost over that of HR alone, by figure.")
    acquisition_saving: float = Field(description="Share of high-resolution patches that are not needed.")


class DropContent(Config):
    """Everything on the page but the pictures."""

    run_name: str = Field(description="Name of the run.")
    config: str = Field(description="Its configuration.")
    images: int = Field(description="Held-out images per seed.")
    grid: tuple[int, ...] = Field(description="Patches per axis.")
    rows: tuple[DropRow, ...] = Field(description="The arms.")
    times: tuple[TimeRow, ...] = Field(description="What the arms cost; empty where not measured.")
    verdict: tuple[str, ...] = Field(description="What can be said.")

    def row(self, arm: str) -> DropRow | None:
        """An arm's row."""
        return next((row for row in self.rows if row.arm == arm), None)

    @property
    def patches(self) -> int:
        """P."""
        return int(np.prod(self.grid))


def collect(
    run_name: str, config_yaml: str, folders: Sequence[ArmFolder], timings: Sequence[Path]
) -> DropContent:
    """Read the evaluations of all arms and seeds, and the times."""
    summaries = [json.loads((folder.evaluation / "summary.json").read_text("utf-8")) for folder in folders]
    accuracy = {(f.arm, f.seed): s["figures"]["accuracy"] for f, s in zip(folders, summaries, strict=True)}
    rows = []
    for arm in dict.fromkeys(folder.arm for folder in folders):
        own = [(f, s) for f, s in zip(folders, summaries, strict=True) if f.arm == arm]
        other = f"{arm} · {BLIND}"
        gains = [
            accuracy[arm, f.seed] - accuracy[other, f.seed] for f, _ in own if (other, f.seed) in accuracy
        ]
        rows.append(
            DropRow(
                arm=arm,
                seeds=len(own),
                figures={
                    name: mean_sd([s["figures"][name] for _, s in own]) for name in own[0][1]["figures"]
                },
                over_random=mean_sd(gains) if gains else None,
                often=tuple(np.mean([s["often"] for _, s in own], axis=0).round(6).tolist()),
            )
        )
    grid, images = tuple(summaries[0]["grid"]), summaries[0]["images"]
    content = DropContent(
        run_name=run_name, config=config_yaml, images=images, grid=grid, rows=tuple(rows),
        times=_times(timings, rows, int(np.prod(grid))), verdict=(),
    )  # fmt: skip
    return content.model_copy(update={"verdict": tuple(verdict(content))})


def _times(timings: Sequence[Path], rows: Sequence[DropRow], patches: int) -> tuple[TimeRow, ...]:
    tables = [json.loads((folder / "latency.json").read_text("utf-8")) for folder in timings]
    if not tables:
        return ()
    used = {row.arm: row.figures["patches"].mean for row in rows}
    whole = {name: mean_sd([table[HIGH][name] for table in tables]).mean for name in tables[0][HIGH]}
    out = []
    for arm in tables[0]:
        figures = {name: mean_sd([table[arm][name] for table in tables]) for name in tables[0][arm]}
        saving = {name: 1 - value.mean / whole[name] for name, value in figures.items()}
        out.append(
            TimeRow(
                arm=arm, figures=figures, compute_saving=saving, acquisition_saving=1 - used[arm] / patches
            )
        )
    return tuple(out)


def verdict(content: DropContent) -> list[str]:
    """What the figures say of the last policy: against all patches, against random ones, and what it saves."""
    last = next((row for arm in reversed(POLICIES) if (row := content.row(arm))), None)
    high = content.row(HIGH)
    if last is None or high is None:
        return ["No policy was trained."]
    kept, right = last.figures["patches"].mean, last.figures["accuracy"].mean
    said = [
        f"{last.arm} answers {right:.1%} right with {kept:.1f} of {content.patches} patches; the high-resolution "
        f"classifier alone {high.figures['accuracy'].mean:.1%} with all of them."
    ]
    if last.over_random is not None:
        said.append(_against(last))
    if last.figures["unique_policies"].mean < FIXED:
        said.append(
            f"{last.arm} keeps the same patches in (nearly) every image: what it has learned is a fixed pattern, not "
            "where to look."
        )
    time = next((row for row in content.times if row.arm == last.arm), None)
    if time is not None:
        parts = [f"{share:+.0%} {_cost_words(name)}" for name, share in time.compute_saving.items()]
        said.append(
            f"Acquisition saved: {time.acquisition_saving:.0%} of the high-resolution patches. Compute saved, policy "
            f"included: {', '.join(parts)}."
        )
    return said


def _against(row: DropRow) -> str:
    gain = row.over_random
    assert gain is not None
    said = f"Against as many patches chosen at random, at the same training, it has {100 * gain.mean:+.1f} points"
    return judged(said, gain, row.seeds, f"{100 * gain.sd:.1f}")


def _cost_words(name: str) -> str:
    return "multiply-adds" if name == "mmacs" else f"time at batch {name.rpartition('_')[2]}"


def write(content: DropContent, folders: Sequence[ArmFolder], store: ImageStore, out: Path) -> None:
    """Write the page, the figures and the tidy tables."""
    from flows.reporting.patchdrop_charts import charts
    from flows.reporting.patchdrop_pictures import example_strips, keep_maps

    (out / FIGURES).write_text(content.model_dump_json(indent=1) + "\n", encoding="utf-8")
    _write_arms(folders, out / "arms.csv")
    for name in ("images.csv", "history.csv"):
        places = [(f, f.evaluation if name == "images.csv" else f.model) for f in folders]
        gather(name, [({"arm": f.arm, "seed": f.seed}, place) for f, place in places], out)
    page = template("patchdrop.html", {"form": form, "cost_words": _cost_words}).render(
        content=content,
        charts=charts(content, folders),
        maps=keep_maps(content),
        strips=example_strips(folders, store, content.grid),
        glossary={},
    )
    (out / PAGE).write_text(page, encoding="utf-8")


def _write_arms(folders: Sequence[ArmFolder], path: Path) -> None:
    rows: list[dict[str, Any]] = []
    for folder in folders:
        figures = json.loads((folder.evaluation / "summary.json").read_text("utf-8"))["figures"]
        rows.append({"arm": folder.arm, "seed": folder.seed} | {k: f"{v:.6g}" for k, v in figures.items()})
    write_csv(rows, path)


def show_drop(run_folder: Path) -> Path:
    """Print the table and the verdict of a finished run; returns its page's path."""
    content = DropContent.model_validate_json((run_folder / FIGURES).read_text("utf-8"))
    rows = [
        [
            row.arm,
            form(row.figures["accuracy"], row.seeds),
            form(row.figures["patches"], row.seeds, 1),
            form(row.over_random, row.seeds, 3, "+"),
            form(row.figures["reward"], row.seeds),
            f"{row.figures['unique_policies'].mean:.0f}",
        ]
        for row in content.rows
    ]
    title = f"{content.run_name}: {content.images} held-out images, {content.rows[0].seeds} seed(s)"
    heads = ("arm", "accuracy", f"patches of {content.patches}", "over random", "reward", "policies")
    return show(title, heads, rows, content.verdict, run_folder / PAGE)
