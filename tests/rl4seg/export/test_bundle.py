"""The MONAI Bundle: it runs without this project, and predicts what the project predicts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow, verify_metadata, verify_net_in_out

from reward_data.errors import ArtifactError
from rl4seg.export import ExportDetails, bundle, export_package
from rl4seg.export.bundle import export_bundle
from tests.rl4seg.export.conftest import smooth_image, tiny_package
from tests.rl4seg.export.files import check_against_project, metadata_of, rows_of, run_blocked, write_files

PROJECT = ("rl4seg", "reward_data", "flows")
NOT_ASKED_FOR = ("pydantic", "h5py", "skimage", "PIL", "prefect", "fire", "ignite")


@pytest.fixture(scope="module")
def exported(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "bundle"
    found = export_package(package, out, "bundle", details=ExportDetails(licence="CC0-1.0", modality="US"))
    assert (found.images, found.files) == (16, 3)
    assert found.probabilities <= 1e-6
    return out


def test_it_runs_where_the_project_is_not_and_all_labels_are_equal(
    package: Path, exported: Path, tmp_path: Path
) -> None:
    """50 files and one that is broken; the project and what it alone needs cannot be imported."""
    write_files(tmp_path / "in", 50)
    whole = (tmp_path / "in" / "case01.nii.gz").read_bytes()
    (tmp_path / "in" / "broken.nii.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "in" / "notes.txt").write_text("no image")
    ran = run_blocked(exported, tmp_path / "in", tmp_path / "out", PROJECT + NOT_ASKED_FOR)
    assert ran.returncode == 1, ran.stderr
    assert "1 of 51 cases could not be used" in ran.stderr
    problems = [row for row in rows_of(tmp_path / "out") if row["problem"]]
    assert [row["file"] for row in problems] == ["broken.nii.gz"]
    assert "cannot be read" in problems[0]["problem"]
    for name in ("broken.nii.gz", "notes.txt"):
        (tmp_path / "in" / name).unlink()
    assert check_against_project(package, tmp_path / "in", tmp_path / "out", tmp_path) == 50


@pytest.mark.slow
def test_it_runs_in_a_fresh_environment(package: Path, exported: Path, tmp_path: Path) -> None:
    """The command of the bundle's README, in an environment with what the README names and nothing else."""
    python = tmp_path / "environment" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "environment"], check=True)
    readme = (exported / "docs" / "README.md").read_text()
    (install,) = [line for line in readme.splitlines() if line.startswith("pip install ")]
    names = install.replace(" torch ", f" torch=={torch.__version__.split('+')[0]} ").split()[2:]
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", *names], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no package index here: {done.stderr[-200:]}")
    absent = subprocess.run([python, "-c", "import rl4seg"], cwd=tmp_path, capture_output=True, check=False)
    assert absent.returncode
    write_files(tmp_path / "in", 50)
    command = ["-m", "monai.bundle", "run", "--config_file", "configs/inference.json", "--bundle_root", "."]
    ran = subprocess.run(
        [python, *command, "--input", tmp_path / "in", "--output_dir", tmp_path / "out"],
        cwd=exported,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert check_against_project(package, tmp_path / "in", tmp_path / "out", tmp_path) == 50


def test_metadata_says_what_the_model_is(exported: Path) -> None:
    found = metadata_of(exported)
    mandatory = "version task description authors copyright network_data_format"
    versions = "monai_version pytorch_version numpy_version"
    assert {*mandatory.split(), *versions.split()} <= found.keys()  # MONAI Bundle Specification
    assert found["labels"] == {"0": "background", "1": "grey", "2": "bright"}
    assert found["license"] == "CC0-1.0"
    assert found["eval_metrics"] == {"dice_mean": 0.75, "dice_mean.sd": 0.1, "validity": 0.5}
    assert found["network_data_format"]["inputs"]["image"]["modality"] == "US"
    assert found["network_data_format"]["outputs"]["pred"]["channel_def"]["2"] == "bright"
    assert "diagnosis" in found["intended_use"]


def test_monai_finds_nothing_wrong(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(exported)
    meta, config = (str(exported / "configs" / name) for name in ("metadata.json", "inference.json"))
    # MONAI's schema lies behind the network; what its specification says is mandatory stands for it
    schema = {"type": "object", "required": ["schema", "version", "monai_version", "network_data_format"]}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    verify_metadata(meta_file=meta, filepath=str(tmp_path / "schema.json"))
    try:
        verify_net_in_out(net_id="network_def", config_file=config, meta_file=meta, device="cpu")
        workflow = ConfigWorkflow(
            config_file=config, meta_file=meta, workflow_type="infer", logging_file=False,
            bundle_root=str(exported), input=str(_one_file(tmp_path)), output_dir=str(tmp_path / "out"),
        )  # fmt: skip
        workflow.initialize()
        assert workflow.check_properties() == []
    finally:
        sys.modules.pop("scripts", None)
        sys.modules.pop("scripts.predictor", None)


def _one_file(folder: Path) -> Path:
    nib.save(nib.Nifti1Image(smooth_image(0, (40, 30)), np.eye(4)), folder / "one.nii.gz")
    return folder / "one.nii.gz"


def test_nothing_in_it_is_a_pickle_or_the_path_of_a_machine(exported: Path, package: Path) -> None:
    for file in exported.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert file.suffix in {".json", ".conf", ".safetensors", ".py", ".md", ""}, file
            assert str(package).encode() not in content
    assert (exported / "LICENSE").read_text().startswith("Weights (models/): CC0-1.0.")


@pytest.mark.parametrize(
    "settings",
    [
        {"intensity": "percentile", "aspect": "pixels", "clahe_clip": 0.02},
        {"intensity": "divide_255", "aspect": "stretch"},
        {"intensity": "none_clip01", "spacing_mm": (0.8, 0.6)},
    ],
)
def test_each_preparation_is_the_projects(settings: dict[str, object], tmp_path: Path) -> None:
    made = tiny_package(reward=False, **settings)
    assert export_bundle(made, tmp_path, ExportDetails()).files == 3
    asked = metadata_of(tmp_path)["required_packages_version"]
    assert ("scikit-image" in asked) == ("clahe_clip" in settings)


def test_a_volume_too(tmp_path: Path) -> None:
    assert export_bundle(tiny_package((16, 20, 12), reward=False), tmp_path, ExportDetails()).files == 3


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(grid - size) // 2", "0"),  # padding on one side
        ("- 0.5", "- 0.0"),  # pixel centres
        ("return logits[crop].float()", "return logits[crop].float().flip(1)"),  # classes
        ("values.swapaxes(0, 1)", "values"),  # rows for columns
    ],
)
def test_a_copy_that_does_something_else_is_refused(
    old: str, new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = bundle.standalone_source
    copy = honest(bundle.CODE, bundle.ROOTS, "")
    assert old in copy
    monkeypatch.setattr(bundle, "standalone_source", lambda *args: honest(*args).replace(old, new))
    with pytest.raises(ArtifactError, match="not written"):
        export_bundle(tiny_package(reward=False), tmp_path, ExportDetails())


def test_it_is_a_model_of_this_project_too(package: Path, exported: Path, tmp_path: Path) -> None:
    export_package(exported, tmp_path / "again", "bundle")
    for name in ("weights.safetensors", "package.json", "reward/weights.safetensors"):
        assert (tmp_path / "again" / "models" / name).read_bytes() == (package / name).read_bytes()


def test_an_export_can_be_moved(exported: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(exported, tmp_path / "elsewhere")
    assert str(exported) not in (moved / "configs" / "inference.json").read_text()
