"""Exports to test with: small masks with odd geometries, written as the flow writes them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from reward_data.review import MASKS, Export, ExportedCase
from reward_data.review_files import file_names, labels_digest, read_grid, write_volume
from reward_data.types import Float64, UInt8

CLASSES = ("background", "disc", "ring")
SPACING = (0.5, 0.8)  # mm per row, per column


def affine(spacing_mm: tuple[float, ...] = SPACING) -> Float64:
    """(row, column, depth) to world: a grid turned by 30 degrees in its plane, somewhere in the room."""
    turn = np.deg2rad(30)
    placed = np.eye(4)
    placed[:3, 0] = spacing_mm[0] * np.array([np.cos(turn), np.sin(turn), 0])
    placed[:3, 1] = spacing_mm[1] * np.array([-np.sin(turn), np.cos(turn), 0])
    placed[:3, 2] = [0, 0, spacing_mm[2] if len(spacing_mm) == 3 else 1.0]
    placed[:3, 3] = [-40.0, 12.5, 7.0]
    return placed


def mask(shift: int = 0, shape: tuple[int, ...] = (10, 12)) -> UInt8:
    """A 4 x 4 block of class 2 with a 2 x 2 block of class 1 in it."""
    labels = np.zeros(shape, np.uint8)
    labels[2:6, 2 + shift : 6 + shift] = 2
    labels[3:5, 3 + shift : 5 + shift] = 1
    return labels


def write(folder: Path, ids: tuple[str, ...] = ("a", "b", "c")) -> Export:
    """An export of some cases in ``folder``."""
    (folder / MASKS).mkdir(parents=True)
    cases = []
    for number, (case, name) in enumerate(zip(ids, file_names(ids), strict=True)):
        path = folder / MASKS / f"{name}.nii.gz"
        write_volume(path, mask(number), SPACING, affine())
        cases.append(
            ExportedCase(
                case=case,
                file=name,
                trust=0.1 * number,
                violated=("one piece",) if number == 0 else (),
                grid=read_grid(path),
                labels=labels_digest(mask(number)),
            )
        )
    export = Export(iteration=1, class_names=CLASSES, cases=tuple(cases))
    export.write(folder)
    return export


def decide(folder: Path, **decisions: str) -> None:
    """Write decisions into the exported cases.csv."""
    with (folder / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | {"decision": decisions.get(row["case"], row["decision"])} for row in rows)
