"""Training histories as tidy CSV; free of torch, so that the report can read them."""

from __future__ import annotations

import csv
from pathlib import Path


def write_history(path: Path, history: list[dict[str, float]], every: int = 1) -> None:
    """Tidy CSV, one row per step (or per mean of ``every`` steps), columns in order of first appearance."""
    columns = list(dict.fromkeys(name for row in history for name in row))
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for start in range(0, len(history), every):
            rows = history[start : start + every]
            writer.writerow(_cell([row[c] for row in rows if c in row], c) for c in columns)


def _cell(values: list[float], column: str) -> str:
    if not values:
        return ""
    return f"{values[-1] if column == 'step' else sum(values) / len(values):.6g}"


def read_history(path: Path) -> dict[str, list[float]]:
    """Columns by name; empty cells are NaN."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name] or "nan") for row in rows] for name in (rows[0] if rows else {})}
