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
from tests.flows.predict.conftest import rows, run
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
    assert "Share of bad images found over the share of all images flagged" in page
    with (out / "trust_curve.csv").open(newline="") as file:
        curve = list(csv.DictReader(file))
    assert [curve[0][key] for key in ("flagged", "found")] == ["0", "0"]
    assert [curve[-1][key] for key in ("flagged", "found")] == ["1", "1"]
    assert len(curve) == len({row["trust"] for row in rows}) + 1
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


def test_the_policy_sees_what_predict_shows_it(model: Path, tmp_path: Path) -> None:
    """Images in fractions, of another shape than the grid: trust, areas and rules are those of `rl4seg predict`."""
    data = write_data(tmp_path / "data", labelled=False)
    out = evaluate_run(model, str(data), tmp_path / "out", None)
    evaluated = rows(out / "cases.csv")
    assert run(model, data / "images", tmp_path / "predicted", save="masks") == 0
    predicted = rows(tmp_path / "predicted/cases.csv")
    assert sorted(evaluated) == sorted(predicted)
    for name, own in predicted.items():
        for key, other in (("trust", "trust"), ("area_grey", "area_grey_mm2"), ("valid", "valid")):
            assert float(evaluated[name][key]) == pytest.approx(float(own[other]), rel=1e-5)


def test_what_is_missing_is_said(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give --out FOLDER"):
        evaluate_run(model, "data", None, None)
    with pytest.raises(ConfigError, match="give a DATASET"):
        evaluate_run(model, None, tmp_path / "out", None)
    with pytest.raises(ConfigError, match="unknown key grup_pattern"):
        evaluate_run(model, "data", tmp_path / "out", None, ["grup_pattern=x"])
