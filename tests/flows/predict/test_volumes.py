"""`rl4seg predict` with a network of three axes: volumes go in whole."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from rl4seg import load_policy
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.package import save_package
from tests.flows.predict.conftest import rows, run, write_nifti
from tests.rl4seg.export.conftest import tiny_package


@pytest.fixture(scope="module")
def deep_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deep") / "policy"
    save_package(tiny_package((32, 32, 16)), folder)
    return folder


def test_volumes_in_a_sequence_and_alone(deep_model: Path, tmp_path: Path) -> None:
    affine = np.diag([0.4, -0.6, 2.0, 1])
    affine[:3, 3] = (5, -6, 7)
    shapes = {"alone": (30, 40, 9), "beating": (30, 40, 9, 2), "flat": (30, 40)}
    for seed, (name, shape) in enumerate(shapes.items()):
        write_nifti(tmp_path / f"in/{name}.nii.gz", seed, shape, affine=affine)
    assert run(deep_model, tmp_path / "in", tmp_path / "out") == 1
    found = rows(tmp_path / "out/cases.csv")
    assert "wanted 3 axes longer than 1; use a model for 2-D images" in found["flat"]["error"]
    assert (found["alone"]["frames"], found["beating"]["frames"]) == ("1", "2")
    for name in ("alone", "beating"):
        for kind in ("masks", "errors"):
            made = nib.load(tmp_path / f"out/{kind}/{name}.nii.gz")
            assert made.shape == shapes[name]
            assert np.allclose(made.affine, affine)
        Image.open(tmp_path / f"out/overlays/{name}.png").load()  # the slice with most foreground
    mask = np.asarray(nib.load(tmp_path / "out/masks/alone.nii.gz").dataobj)
    volume = float(found["alone"]["area_grey_mm3"])
    assert volume == pytest.approx(0.4 * 0.6 * 2.0 * (mask == 1).sum(), rel=1e-4)


def test_files_and_arrays_give_one_mask(deep_model: Path, tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "in/a.nii.gz", 3, (30, 40, 9), affine=np.diag([0.4, 0.6, 2.0, 1]))
    assert run(deep_model, tmp_path / "in", tmp_path / "out", save="masks") == 0
    written = np.asarray(nib.load(tmp_path / "out/masks/a.nii.gz").dataobj)
    policy = load_policy(deep_model, runtime=RuntimeConfig(device="cpu", threads=1))
    array = np.asarray(nib.load(path).dataobj).swapaxes(0, 1)  # stored x, y, z; upright: row, column, depth
    result = policy(array, spacing_mm=(0.6, 0.4, 2.0))
    assert np.array_equal(result.mask.swapaxes(0, 1), written)
    assert 0 < (written == 1).mean() < 1
