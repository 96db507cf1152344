"""A small model, and small images of every kind."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from flows.predict.command import predict
from flows.predict.request import request_from
from rl4seg.package import save_package
from tests.rl4seg.export.conftest import smooth_image, tiny_package


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package with a reward net and a flag."""
    folder = tmp_path_factory.mktemp("model") / "policy"
    save_package(tiny_package(), folder)
    return folder


def write_png(path: Path, seed: int, shape: tuple[int, int] = (40, 48)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(smooth_image(seed, shape).astype(np.uint8)).save(path)
    return path


def write_nifti(path: Path, seed: int, shape: tuple[int, ...] = (48, 40), **header: Any) -> Path:
    """Stored (x, y[, z[, t]]), pixels of .4 x .6 mm unless ``affine`` says otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = header.get("affine", np.diag([0.4, 0.6, 1, 1]))
    nib.save(nib.Nifti1Image(smooth_image(seed, shape), affine), path)
    return path


def run(model: Path, source: Path, output: Path, **options: Any) -> int:
    """One thread, CPU."""
    given = {"device": "cpu", "threads": 1, "batch_size": 4} | options
    return predict(request_from(model, source, output, **given))


def rows(path: Path) -> dict[str, dict[str, str]]:
    """cases.csv by case."""
    with path.open(newline="") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that does not hold a time or a path, by name; seconds are cut from cases.csv."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not name.startswith(".") and name not in ("records.jsonl", "cases.csv"):
            found[name] = path.read_bytes()
    for case, row in rows(folder / "cases.csv").items():
        found[f"row {case}"] = repr({key: value for key, value in row.items() if key != "seconds"}).encode()
    return found
