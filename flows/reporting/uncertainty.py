"""The page and the terminal's table of `rl4seg uncertainty`; the look is that of the run's report."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rich import box
from rich.markup import escape
from rich.table import Table

from flows.console import console
from flows.reporting import montage, uncertainty_figures
from flows.reporting.data import MontageCase, MontageColumn
from flows.reporting.templates import template
from flows.reporting.uncertainty_words import STATISTICS, statements
from reward_data.types import UInt8
from rl4seg.uncertainty_statistics import BETTER

PAGE = "uncertainty.html"
INTERVALS = ("ece", "auroc", "aurc")  # statistics whose interval the table shows
CURVES = 8  # methods drawn in the risk-coverage chart at most
GLOSSARY = (
    ("Confidence", "What a method says, per pixel, about the probability that the given mask is right there."),
    ("ECE, ACE, MCE", "Gap between confidence and share of right pixels over 20 bins (or as set): mean weighted by "
     "pixels, plain mean over used bins, largest. On the pixels where mask or truth is foreground; 'all pixels' beside "
     "it is flattered by background that everybody is sure of."),
    ("Image score", "The Dice that a method's map lets expect: 1 - w / 2n of a mask of n pixels with w pixels expected "
     "to be wrong in it and in a margin around it; 0 for an empty mask. One function for every method, so that maps "
     "are compared; of calibrated reward × softmax it is the trust that predictions, flags and reviews go by. The mean "
     "over the mask alone is compared beside it (uncertainty.json)."),
    ("Pearson, Spearman r", "Between image score and mean Dice; Spearman's of the ranks."),
    ("AUROC", "Probability that an image of low Dice has a lower score than another image; .5 is chance. For the limit "
     "named, and for the run's own lowest quarter."),
    ("AURC", "Mean risk (1 - Dice) of the images kept, over all shares kept, surest first; lower is better. Excess "
     "AURC: less that of an oracle which sorts by Dice."),
    ("[low, high]", "95 % bootstrap interval over patients; every method on the same resamples. 'Not told apart': the "
     "interval of the paired difference holds 0."),
    ("Temperature", "One number T that the logits are divided by: the reward net's is fitted on held-back reward "
     "examples, the softmax's with labels on source validation images under this policy. Never on labels of "
     "the cases judged."),
    ("Mutual information", "What sampled predictions disagree about. 1 less its share of log K is a map that ranks "
     "images, but no probability."),
    ("Time", "Wall time per image beyond the policy's own pass, on the machine that measured."),
)  # fmt: skip


class Cell(NamedTuple):
    """One cell: text, the interval in small, whether it is the column's best or not told apart from it."""

    text: str
    interval: str = ""
    best: bool = False
    equal: bool = False


class Row(NamedTuple):
    """One method of the table."""

    name: str
    note: str
    cells: tuple[Cell, ...]


def columns(content: Mapping[str, Any]) -> list[str]:
    """Heads of the table's columns."""
    heads = [STATISTICS[name] for name in BETTER]
    heads[list(BETTER).index("auroc")] = f"AUROC, Dice < {content['dice_below']:g}"
    return [*heads, "ECE, all pixels", "ms / image"]


def rows(content: Mapping[str, Any], seconds: Mapping[str, float]) -> list[Row]:
    """The table: a row per method."""
    return [
        Row(method["name"], method["note"], _cells(content, method, seconds)) for method in content["methods"]
    ]


def _cells(
    content: Mapping[str, Any], method: Mapping[str, Any], seconds: Mapping[str, float]
) -> tuple[Cell, ...]:
    found = []
    for name in BETTER:
        figure, best = method["figures"].get(name), content["best"][name]
        if figure is None or figure["value"] is None:
            found.append(Cell("–"))
            continue
        small = (
            f"{figure['low']:.3f}–{figure['high']:.3f}"
            if name in INTERVALS and figure["low"] is not None
            else ""
        )
        equal = best is not None and method["name"] in best["equal"]
        found.append(
            Cell(f"{figure['value']:.3f}", small, best is not None and method["name"] == best["name"], equal)
        )
    everywhere = method["all_pixels"]
    found.append(Cell("–" if everywhere is None or everywhere["ece"] is None else f"{everywhere['ece']:.3f}"))
    time = seconds.get(method["name"])
    found.append(Cell("–" if time is None else f"{1000 * time:.1f}"))
    return tuple(found)


def print_result(content: Mapping[str, Any], seconds: Mapping[str, float]) -> None:
    """The terminal's table and sentences."""
    out = console()
    title = f"{content['cases']} cases of {content['patients']} patients, {content['bad_cases']} of them bad"
    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("method", ratio=1)
    shown = ("ece", "ace", "mce", "pearson", "spearman", "auroc", "aurc")
    places = [list(BETTER).index(name) for name in shown]
    heads = columns(content)
    for place in places:
        table.add_column(heads[place], justify="right")
    for row in rows(content, seconds):
        cells = [row.cells[place] for place in places]
        table.add_row(escape(row.name), *(f"[bold]{c.text}[/bold]" if c.best else c.text for c in cells))
    out.print(table)
    for statement in statements(content):
        out.print(f"- {statement.text}", highlight=False, markup=False)


def render(
    run_name: str,
    iteration: int,
    content: Mapping[str, Any],
    seconds: Mapping[str, float],
    shown: Path,
    folder: Path,
    class_names: Sequence[str],
) -> Path:
    """Write ``uncertainty.html`` into ``folder``, which holds ``cases.csv`` already; returns its path."""
    dice, scores = _scores(folder / "cases.csv", content)
    drawn = _drawn(content)
    page = template(PAGE).render(
        run_name=run_name,
        iteration=iteration,
        content=content,
        statements=statements(content),
        heads=columns(content),
        rows=rows(content, seconds),
        reliability=uncertainty_figures.reliability(content),
        coverage=uncertainty_figures.risk_coverage(content, drawn),
        scatter=uncertainty_figures.score_against_dice(content, dice, {name: scores[name] for name in drawn}),
        montages=montage.montage_rows(_cases(shown), len(class_names) - 1),
        class_names=class_names[1:],
        class_colour=montage.class_colour,
        colour_bar=montage.colour_bar_uri(),
        glossary=GLOSSARY,
    )
    path = folder / PAGE
    path.write_text(page, encoding="utf-8")
    return path


def _drawn(content: Mapping[str, Any]) -> list[str]:
    """The methods that curves are drawn of: no mere scores, no raw reward, entropy once."""
    names = [method["name"] for method in content["methods"] if method["curve"] is not None]
    skipped = ("raw", "entropy, ")
    chosen = [name for name in names if not any(word in name for word in skipped)]
    return (chosen or names)[:CURVES]


def _scores(path: Path, content: Mapping[str, Any]) -> tuple[list[float], dict[str, list[float]]]:
    with path.open(newline="") as file:
        table = list(csv.DictReader(file))
    names = [method["name"] for method in content["methods"]]
    scores = {name: [float(row[f"score {name}"]) for row in table] for name in names}
    return [float(row["dice_mean"]) for row in table], scores


def _cases(shown: Path) -> list[MontageCase]:
    """The worst cases, one column per error map; a volume by its middle slice."""
    from rl4seg.uncertainty_ledger import read_shown

    found = []
    for case in read_shown(shown):
        mask = _plane(case.mask)
        columns = tuple(MontageColumn(name, mask, _plane(error), None) for name, error in case.errors.items())
        image: UInt8 = np.rint(_plane(case.image[0]).clip(0, 1) * 255).astype(np.uint8)
        title = f"{case.case} · Dice {case.dice:.3f}"
        found.append(MontageCase(title, image, _plane(case.truth), columns))
    return found


def _plane(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The middle slice. Shape: (H, W[, D]) -> (H, W)."""
    return array if array.ndim == 2 else array[..., math.floor(array.shape[-1] / 2)]
