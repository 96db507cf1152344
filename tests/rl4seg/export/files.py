"""Image files of every kind that a bundle must bring back onto its own pixels, and what the project itself predicts."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from reward_data.frames import Frames, read_frames, write_frames_mask
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.package import load_package
from rl4seg.predictor import CaseResult, Predictor
from rl4seg.runtime import start
from tests.rl4seg.export.conftest import smooth_image

SHAPES = [(50, 41), (41, 50, 1), (32, 32), (7, 64), (20, 20, 4), (24, 40, 1, 3), (100, 90), (33, 31, 1)]


def affine_of(rng: np.random.Generator, kind: int) -> np.ndarray:
    """Anisotropic; then flipped in x; then turned within and out of the plane."""
    scale = np.diag([*rng.uniform(0.2, 2.0, 3), 1.0])
    if kind % 3 == 1:
        scale[0, 0] *= -1
    turn = np.eye(4)
    if kind % 3 == 2:
        a, b = rng.uniform(-1, 1, 2)
        about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
        about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
        turn[:3, :3] = about_z @ about_x
    affine = turn @ scale
    affine[:3, 3] = rng.uniform(-50, 50, 3)
    return affine


def write_files(folder: Path, count: int) -> None:
    """``count`` files, of 8 shapes, 3 kinds of affines, floats and scaled integers."""
    folder.mkdir()
    for index in range(count):
        values = smooth_image(index, SHAPES[index % len(SHAPES)])
        image = nib.Nifti1Image(values, affine_of(np.random.default_rng(index), index))
        if index % 4 == 3:
            image.set_data_dtype(np.int16)
            image.header.set_slope_inter(0.01, 1.0)
        name = f"case{index:02d}.nii" + (".gz" if index % 2 else "")
        nib.save(image, folder / name)


def expected(package: Path, file: Path, folder: Path) -> tuple[Any, np.ndarray, list[CaseResult]]:
    """The mask as the project writes it, its error map on the axes of the file, and its results frame by frame."""
    predictor = _predictor(package)
    frames: Frames = read_frames(file, 2, 1)
    results = [predictor.predict(values, frames.spacing_mm, frames.affine) for values in frames.values]
    mask = folder / "mask.nii.gz"
    write_frames_mask(mask, np.stack([result.mask for result in results]), frames, file)
    error = np.stack([result.error for result in results], axis=-1).reshape(frames.native_shape)
    return nib.load(mask), error.swapaxes(0, 1), results


@lru_cache
def _predictor(package: Path) -> Predictor:
    runtime = start(RuntimeConfig(device="cpu", precision="float32", threads=1))
    return Predictor(load_package(package, runtime), runtime)


DRIVER = """
import sys
from importlib.abc import MetaPathFinder

class Blocker(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(name + " is not here")
        return None

sys.meta_path.insert(0, Blocker())
from monai.bundle import run
run(**{arguments!r})
"""


def run_blocked(
    bundle: Path, source: Path, out: Path, blocked: tuple[str, ...]
) -> subprocess.CompletedProcess[str]:
    """``monai.bundle run`` in a process of its own, from elsewhere, where some packages cannot be imported."""
    arguments = {
        "config_file": str(bundle / "configs" / "inference.json"),
        "bundle_root": str(bundle),
        "input": str(source),
        "output_dir": str(out),
    }
    return subprocess.run(
        [sys.executable, "-P", "-c", DRIVER.format(blocked=blocked, arguments=arguments)],
        cwd=bundle.parent,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "cases.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def check_against_project(package: Path, source: Path, out: Path, work: Path) -> int:
    """Every file of ``source``: labels, error map, affine, pixel sizes and trust of the bundle are the project's."""
    rows, pixels = rows_of(out), set()
    for file in sorted(source.iterdir()):
        stem = file.name.split(".")[0]
        mask, error, results = expected(package, file, work)
        got, got_error = (nib.load(out / f"{stem}_{kind}.nii.gz") for kind in ("mask", "error"))
        assert got.shape == mask.shape == nib.load(file).shape, file
        assert got.get_data_dtype() == np.uint8
        assert np.array_equal(np.asarray(got.dataobj), np.asarray(mask.dataobj)), file
        assert np.array_equal(got.affine, nib.load(file).affine), file
        assert got.header.get_zooms() == nib.load(file).header.get_zooms(), file
        assert np.abs(got_error.get_fdata() - error).max() < 1e-5, file
        own = [row for row in rows if row["file"] == file.name]
        trusts = [float(row["trust"]) for row in own]
        assert np.allclose(trusts, [result.trust for result in results], rtol=0, atol=2e-6), file
        assert [bool(int(row["flagged"])) for row in own] == [result.flagged for result in results]
        pixels |= set(np.unique(mask.dataobj).tolist())
    assert pixels == {0, 1, 2}  # else equal masks would say little
    return len(list(source.iterdir()))


def metadata_of(bundle: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    return found
