"""What the pages of several arms and seeds share: mean and spread, tidy CSV files, the table on the terminal."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table
from scipy.special import stdtrit

from flows.console import console
from flows.reporting.data import MeanSd

FEW = 3  # seeds that it takes to speak of a difference
LEVEL = 0.05


def mean_sd(values: Sequence[float]) -> MeanSd:
    """Mean and standard deviation over seeds (n - 1; 0 for one)."""
    return MeanSd(mean=float(np.mean(values)), sd=float(np.std(values, ddof=1)) if len(values) > 1 else 0.0)


def form(value: MeanSd | None, seeds: int, digits: int = 3, sign: str = "") -> str:
    """A figure as text, with its spread where there are several seeds."""
    if value is None:
        return "–"
    return f"{value.mean:{sign}.{digits}f}" + (f" ± {value.sd:.{digits}f}" if seeds > 1 else "")


def judged(said: str, gain: MeanSd, seeds: int, spread: str) -> str:
    """A sentence that states a difference, ended by whether chance explains it: paired t-test over seeds, 5 %.

    Args:
        said: the sentence so far, the difference in it.
        gain: mean and standard deviation of the paired differences over the seeds.
        spread: that deviation in words.
    """
    if seeds < FEW:
        return f"{said}, in {seeds} seed(s): too few to say whether that is more than noise."
    said = f"{said} (± {spread} over {seeds} seeds)"
    if abs(gain.mean) <= stdtrit(seeds - 1, 1 - LEVEL / 2) * gain.sd / seeds**0.5:
        return f"{said}: within the noise."
    return f"{said}: {'better' if gain.mean > 0 else 'worse'} by more than chance."


def write_csv(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """A table with every column that a row has, in the order in which they come up; no file without rows."""
    listed = list(rows)
    if not listed:
        return
    with path.open("w", newline="", encoding="utf-8") as file:
        columns = list(dict.fromkeys(column for row in listed for column in row))
        writer = csv.DictWriter(file, columns, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(listed)


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a table, as text."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def gather(name: str, places: Iterable[tuple[dict[str, Any], Path | None]], out: Path) -> None:
    """One table of the tables ``name`` of many folders; what tells each folder's rows apart comes first."""
    found = [(first, folder / name) for first, folder in places if folder is not None]
    rows = [{**first, **row} for first, file in found if file.is_file() for row in read_csv(file)]
    write_csv(rows, out / name)


def show(
    title: str, heads: Sequence[str], rows: Iterable[Sequence[str]], said: Sequence[str], page: Path
) -> Path:
    """Print a result: its table, what can be said of it, and where the page is; returns that."""
    out = console()
    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(heads[0])
    for head in heads[1:]:
        table.add_column(head, justify="right")
    for row in rows:
        table.add_row(*row)
    out.print(table)
    for sentence in said:
        out.print(f"- {sentence}", highlight=False, markup=False)
    out.print(f"report: {page}", highlight=False, soft_wrap=True)
    return page
