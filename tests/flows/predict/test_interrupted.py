"""Ctrl-C, and two processes with one folder."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from flows.cli import app
from flows.predict.records import Journal, Record
from reward_data.errors import ConfigError
from tests.flows.predict.conftest import contents, rows, run, write_nifti, write_png

OPTIONS = ("--device", "cpu", "--threads", "1", "--batch-size", "4")


def interrupted(arguments: list[str], files: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Result, float]:
    """What the command returns after a Ctrl-C when so many files are done, and in how many seconds it ended."""
    sent: list[float] = []
    keep = Journal.add

    def keep_and_interrupt(self: Journal, record: Record) -> None:
        keep(self, record)
        if len(self.records) >= files and not sent:
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)
        elif sent:
            time.sleep(0.3)  # else a busy machine is through before the main thread has its turn

    # A process that a shell has started in the background ignores Ctrl-C, and so would the test.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "add", keep_and_interrupt)
            result = CliRunner().invoke(app, arguments)
    finally:
        signal.signal(signal.SIGINT, before)
    return result, time.monotonic() - sent[0]


def test_ctrl_c_ends_soon_and_the_same_command_goes_on(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(60):
        write_nifti(tmp_path / f"in/{seed:02d}.nii.gz", seed, (90, 80))
    command = ["predict", str(model), str(tmp_path / "in"), str(tmp_path / "out"), *OPTIONS]
    result, seconds = interrupted(command, 8, monkeypatch)
    assert result.exit_code == 130
    assert seconds < 30  # what is under way is finished: some batches of four
    assert "the same command goes on from here" in result.output
    done = rows(tmp_path / "out/cases.csv")  # tables and page are there, of what is done
    assert 8 <= len(done) < 60
    assert all(row["status"] == "ok" for row in done.values())
    assert (tmp_path / "out/index.html").is_file()
    assert CliRunner().invoke(app, command).exit_code == 0
    assert run(model, tmp_path / "in", tmp_path / "undisturbed") == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def test_a_folder_is_for_one_process_at_a_time(model: Path, tmp_path: Path) -> None:
    write_png(tmp_path / "in/a.png", 0)
    assert run(model, tmp_path / "in", tmp_path / "out") == 0
    write_png(tmp_path / "in/b.png", 1)
    half = tmp_path / "out/masks/.b.png.tmp.1"  # what the other process is writing
    half.write_text("")
    with (tmp_path / "out/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for overwrite in (False, True):
            with pytest.raises(ConfigError, match="another rl4seg predict writes here"):
                run(model, tmp_path / "in", tmp_path / "out", overwrite=overwrite)
        assert half.exists()
        assert list(rows(tmp_path / "out/cases.csv")) == ["a"]
    assert run(model, tmp_path / "in", tmp_path / "out") == 0
    assert list(rows(tmp_path / "out/cases.csv")) == ["a", "b"]
    assert not half.exists()
