"""`rl4seg evaluate` on a small package."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from flows.evaluate_run import evaluate_run
from reward_data.errors import ConfigError
from rl4seg.package import save_package
from tests.rl4seg.export.conftest import smooth_image, tiny_package


def write_data(folder: Path, labelled: bool) -> Path:
    """Four images of two patients; a label is the image in three steps."""
    for kind in ("images", *(["labels"] if labelled else [])):
        (folder / kind).mkdir(parents=True)
    for number in range(4):
        name, image = f"p{number // 2}_{number}.nii.gz", smooth_image(number, (40, 32))
        nib.save(nib.Nifti1Image(image, np.diag([0.5, 0.5, 1, 1])), folder / "images" / name)
        if labelled:
            labels = np.digitize(image, (70, 140)).astype(np.uint8)
            nib.save(nib.Nifti1Image(labels, np.diag([0.5, 0.5, 1, 1])), folder / "labels" / name)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "policy"
    save_package(tiny_package(), folder)
    return folder


def test_labelled_data_have_all_figures(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_data(tmp_path / "data", labelled=True)
    out = evaluate_run(model, str(data), tmp_path / "out", None, [r"group_pattern=^(p\d+)"])
    content = json.loads((out / "evaluation.json").read_text())
    assert (content["cases"], content["patients"], content["labelled"], content["split"]) == (4, 2, 4, "all")
    assert content["unit"] == "mm"
    with (out / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for key in ("dice_mean", "hd95_mean", "hd_bright", "trust", "ece_softmax", "ece_error_map", "area_grey"):
        assert all(row[key] for row in rows)
    dice = [float(row["dice_mean"]) for row in rows]
    assert content["dice_mean"]["value"] == pytest.approx(np.mean(dice), rel=1e-5)
    # two patients: every draw has one of them twice or both, so the limits are the patients' own means
    limits = sorted([np.mean(dice[:2]), np.mean(dice[2:])])
    assert [content["dice_mean"]["low"], content["dice_mean"]["high"]] == pytest.approx(limits, rel=1e-5)
    page = (out / "evaluation.html").read_text()
    assert "Does trust find the bad images?" in page
    assert "Dice, mean" in capsys.readouterr().out


def test_unlabelled_data_have_validity_trust_and_areas(model: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", labelled=False)
    out = evaluate_run(model, str(data), tmp_path / "out", None, ["spacing_known=false"])
    content = json.loads((out / "evaluation.json").read_text())
    assert content["dice"] is None
    assert content["validity"]["value"] == 1.0
    assert 0 <= content["trust"]["value"] <= 1
    assert content["areas"] is None  # the pixel size does not count
    assert "Without labels nothing is known of Dice" in (out / "evaluation.html").read_text()


def test_what_is_missing_is_said(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give --out FOLDER"):
        evaluate_run(model, "data", None, None)
    with pytest.raises(ConfigError, match="give a DATASET"):
        evaluate_run(model, None, tmp_path / "out", None)
    with pytest.raises(ConfigError, match="unknown key grup_pattern"):
        evaluate_run(model, "data", tmp_path / "out", None, ["grup_pattern=x"])
