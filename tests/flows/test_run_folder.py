from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from flows.run_folder import RunFolder, read_status, versions
from reward_data.errors import ArtifactError, ConfigError


def test_create_writes_what_was_asked_for(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "runs" / "a", "seed: 3\n", {"run": 3})
    folder = tmp_path / "runs" / "a"
    assert (folder / "config.yaml").read_text() == "seed: 3\n"
    assert json.loads((folder / "seeds.json").read_text()) == {"run": 3}
    assert json.loads((folder / "versions.json").read_text())["prefect"] == "3.8.8"
    assert read_status(folder) == []
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.yaml",
        "lineage.json",
        "seeds.json",
        "versions.json",
    ]


def test_versions_import_nothing_heavy() -> None:
    code = "import sys; from flows.run_folder import versions; versions(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    found = versions()
    assert found["torch"]
    assert found["python"] == ".".join(str(part) for part in sys.version_info[:3])


def test_rows_are_on_disk_after_every_step(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "", {})
    place = run.begin("finetune", "iteration 1 · PPO", "k" * 64, "Policy")
    assert [(row.label, row.status) for row in read_status(tmp_path)] == [("iteration 1 · PPO", "running")]
    run.finish(place, "built", digest="d", size=7, made_from=("a", "b"), seconds=1.5, path="k" * 64)
    run.begin("evaluate", "iteration 1 · evaluate", "l" * 64, "Evaluation")
    first, second = read_status(tmp_path)
    assert (first.status, first.made_from, first.seconds) == ("built", ("a", "b"), 1.5)
    assert second.status == "running"


def test_a_stage_whose_process_died_is_stopped(tmp_path: Path) -> None:
    code = (
        "import os, signal; from flows.run_folder import RunFolder\n"
        f"run = RunFolder.create({str(tmp_path)!r}, '', {{}})\n"
        "run.finish(run.begin('a', 'a', 'k', 'Policy'), 'cached')\nrun.begin('b', 'b', 'l', 'Policy')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert [row.status for row in read_status(tmp_path)] == ["cached", "stopped"]


def test_publish_copies_the_report_without_its_manifest(tmp_path: Path) -> None:
    artifact = tmp_path / "artifact"
    (artifact / "sub").mkdir(parents=True)
    for name in ("report.html", "sub/a.png", "manifest.json"):
        (artifact / name).write_text(name)
    RunFolder.create(tmp_path / "run", "", {}).publish(artifact)
    assert (tmp_path / "run" / "report.html").read_text() == "report.html"
    assert (tmp_path / "run" / "sub" / "a.png").read_text() == "sub/a.png"
    assert not (tmp_path / "run" / "manifest.json").exists()


def test_what_is_no_run_folder_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="give the folder of a run"):
        read_status(tmp_path)
    (tmp_path / "lineage.json").write_text("{")
    with pytest.raises(ArtifactError, match="not a lineage"):
        read_status(tmp_path)
    with pytest.raises(ConfigError, match="choose another by output=FOLDER"):
        RunFolder.create(tmp_path / "lineage.json" / "run", "", {})


def test_what_a_killed_process_was_writing_is_removed(tmp_path: Path) -> None:
    code = (
        "import os; from pathlib import Path; from flows.run_folder import _renamed_to\n"
        f"with _renamed_to(Path({str(tmp_path)!r}) / 'lineage.json') as temporary: os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    alive = tmp_path / f".lineage.json.{socket.gethostname()}.{os.getpid()}.abc.tmp"
    alive.touch()
    assert len(list(tmp_path.glob(".*"))) == 2
    RunFolder.create(tmp_path, "name: run\n", {"seed": 0})
    assert list(tmp_path.glob(".*")) == [alive]
