from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from flows.cli import app
from reward_data.anatomy import load_rules
from reward_data.errors import Rl4SegError
from tests.flows.tiny import write_config
from tests.reward_data.test_anatomy import ventricle

HEAVY = ("torch", "monai", "prefect", "matplotlib", "scipy")


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom flows.cli import main\nsys.argv = ['rl4seg', '--help']\n"
        f"try:\n    main()\nexcept SystemExit:\n    pass\nprint([m for m in {HEAVY} if m in sys.modules])"
    )
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.monotonic() - begun < 3  # half a second where the machine is quiet
    assert done.stdout.rstrip().endswith("[]")


@pytest.mark.parametrize("command", ["run", "demo", "phantom", "status", "report", "evaluate", "anatomy"])
def test_every_command_explains_itself(command: str) -> None:
    assert len(run(command, "--help")) > 150


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """Eight good masks and one upside down."""
    for index in range(9):
        mask = ventricle(64, np.random.default_rng([1, index]))
        values = mask[::-1] if index == 8 else mask
        nib.save(nib.Nifti1Image(np.ascontiguousarray(values.T), np.eye(4)), tmp_path / f"case{index}.nii.gz")
    return tmp_path


def test_anatomy_check_names_the_mask_the_rule_and_the_value(masks: Path) -> None:
    output = " ".join(run("anatomy", "check", str(masks)).split())
    assert "accepted 8 of 9 masks (88.89%)" in output
    assert "case8: " in output
    assert "one_piece(lv)" in output


def test_anatomy_fit_writes_rules_that_load_and_accept(masks: Path, tmp_path: Path) -> None:
    (masks / "case8.nii.gz").unlink()
    run("anatomy", "fit", str(masks), "--acceptance", "1.0", "--out", str(tmp_path / "fitted.yaml"))
    assert load_rules(str(tmp_path / "fitted.yaml")).rules
    assert "accepted 8 of 8" in run("anatomy", "check", str(masks), "--rules", str(tmp_path / "fitted.yaml"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("status", "nowhere"), "no lineage.json here"),
        (("report", "nowhere"), "no metrics.json here"),
        (("anatomy", "check", "nowhere"), "nowhere: no such folder"),
        (("anatomy", "check", ".", "--merge", "x"), "NATIVE=CLASS"),
        (("anatomy", "check", ".", "--merge", "3=9"), "leads to class 9"),
        (("run", "auto_iteration/dmo"), "did you mean auto_iteration/demo"),
    ],
)
def test_bad_arguments(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(Rl4SegError, match=message):
        run(*arguments)


def test_phantom_writes_two_datasets(tmp_path: Path) -> None:
    assert "6 source and 6 target" in run("phantom", str(tmp_path / "out"), "--cases", "6", "--size", "32")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["Dataset001_PhantomSource", "Dataset002_PhantomTarget"]
    assert not (tmp_path / "out/Dataset002_PhantomTarget/labelsTr").exists()


def test_an_unknown_key_is_refused_before_anything_starts(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    command = [str(Path(sys.executable).with_name("rl4seg")), "run", str(config), "ppo.entrpy=1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert "did you mean" in done.stderr
    assert not (tmp_path / "runs").exists()
