from __future__ import annotations

import errno
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from flows import launch
from flows.cli import app, main
from reward_data.anatomy import load_rules
from reward_data.errors import ArtifactError, ConfigError, DataError, Rl4SegError
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


@pytest.mark.parametrize(
    "command",
    [
        "run",
        "demo",
        "phantom",
        "status",
        "report",
        "predict",
        "classify",
        "evaluate",
        "export",
        "anatomy",
        "anatomy check",
        "anatomy fit",
        "data class-stats",
    ],
)
def test_every_command_explains_itself(command: str) -> None:
    assert len(run(*command.split(), "--help")) > 150


def end_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command says on stderr when it ends with exit code 2; nothing on stdout."""
    monkeypatch.setattr(sys, "argv", ["rl4seg", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr()
    assert end.value.code == 2
    assert said.out == ""
    return said.err


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
        (("evaluate", "nowhere"), "nowhere: no such folder; give the folder of a run"),
        (("anatomy", "check", "nowhere"), "nowhere: no such folder"),
        (("anatomy", "check", ".", "--merge", "x"), "NATIVE=CLASS"),
        (("anatomy", "check", ".", "--merge", "3=9"), "leads to class 9"),
        (("run", "auto_iteration/dmo"), "did you mean auto_iteration/demo"),
    ],
)
def test_bad_arguments(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(Rl4SegError, match=message):
        run(*arguments)


def test_an_error_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = end_of(monkeypatch, capsys, "status", "nowhere")
    assert said == "error: nowhere: no lineage.json here; give the folder of a run, e.g. runs/NAME\n"


def test_a_refused_write_is_told_as_the_stage_tells_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def disk_full(run_folder: Path) -> None:
        try:
            raise ArtifactError("source training: the disk is full; free some space")
        finally:
            raise OSError(errno.ENOSPC, "No space left on device", "lineage.json")

    monkeypatch.setattr(launch, "show", disk_full)
    assert end_of(monkeypatch, capsys, "report", "x") == (
        "error: source training: the disk is full; free some space\n"
    )

    def no_permission(run_folder: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "runs/x")

    monkeypatch.setattr(launch, "show", no_permission)
    said = end_of(monkeypatch, capsys, "report", "x")
    assert said.startswith("error: runs/x: cannot be written (Permission denied); free some space, mend the")

    def fault(run_folder: Path) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file", "x")

    monkeypatch.setattr(launch, "show", fault)
    with pytest.raises(FileNotFoundError):  # the program's fault keeps its traceback
        main()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("phantom", "out", "--size", "8"), "'--size'"),
        (("phantom", "out", "--shift", "3"), "'--shift'"),
        (("phantom", "out", "--cases", "0"), "'--cases'"),
        (("anatomy", "fit", ".", "--acceptance", "99.5"), "'--acceptance'"),
        (("anatomy", "fit", ".", "--margin", "-1"), "'--margin'"),
        (("evaluate", "runs/x", "--iteration", "-1"), "'--iteration'"),
        (("evalute", "runs/x"), "No such command"),
    ],
)
def test_options_out_of_range(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    assert message in end_of(monkeypatch, capsys, *arguments)
    assert not Path("out").exists()


def test_files_that_cannot_be_read_or_written(masks: Path) -> None:
    (masks / "case8.nii.gz").unlink()
    (masks / "file").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"rule set .*file: cannot be read .*UTF-8"):
        run("anatomy", "check", str(masks), "--rules", str(masks / "file"))
    with pytest.raises(DataError, match=r"fitted.yaml: could not be written .*choose another folder"):
        run("anatomy", "fit", str(masks), "--out", str(masks / "file" / "fitted.yaml"))
    with pytest.raises(DataError, match=r"could not be written .*choose another folder"):
        run("phantom", str(masks / "file"), "--cases", "1", "--size", "32")


def test_phantom_writes_two_datasets(tmp_path: Path) -> None:
    assert "6 source and 6 target" in run("phantom", str(tmp_path / "out"), "--cases", "6", "--size", "32")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["Dataset001_PhantomSource", "Dataset002_PhantomTarget"]
    assert not (tmp_path / "out/Dataset002_PhantomTarget/labelsTr").exists()


def test_an_unknown_key_is_refused_before_anything_starts(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    code = (
        f"import sys\nfrom flows.cli import main\nsys.argv = ['rl4seg', 'run', {str(config)!r}, 'ppo.entrpy=1']\n"
        "try:\n    main()\nfinally:\n    print('prefect' in sys.modules, 'torch' in sys.modules)"
    )
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert time.monotonic() - begun < 6  # two seconds where the machine is quiet
    assert done.returncode == 2
    assert "unknown key ppo.entrpy; did you mean ppo.entropy?" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.split() == ["False", "False"]
    assert not (tmp_path / "runs").exists()
