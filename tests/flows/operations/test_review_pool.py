"""A run that waits for an expert: suspended without a worker, through a restart, refused, and resumed by all doors."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from tests.flows import tiny
from tests.flows.operations.pool import Place, digests, lineage, place, wait_for
from tests.flows.tiny import is_alive

pytestmark = pytest.mark.flow
REVIEW = ("review.enabled=true", "review.cases=3", "rivals.ppo_off=false", "rivals.logit_bias=false")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_config(tmp_path_factory.mktemp("review"))


def suspended(here: Place, config: Path, output: Path) -> str:
    """Submit a run and wait until it waits; its process is gone by then."""
    run_id = here.submit(config, *REVIEW, f"output={output}")
    assert here.api.wait(run_id, "PAUSED")["state"]["name"] == "Suspended"
    pid = int(here.api.run(run_id)["infrastructure_pid"])
    wait_for(lambda: not is_alive(pid), 30, "the process of the suspended run ends")
    return run_id


def press_resume(here: Place, run_id: str, **answer: Any) -> None:
    """What the dashboard's Resume sends with its form."""
    said = here.api.post(f"flow_runs/{run_id}/resume", {"run_input": answer})
    assert said["status"] == "ACCEPT", said


def spoil(path: Path) -> bytes:
    """Cut a row off a mask; returns the whole file."""
    before, image = path.read_bytes(), nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[:-1], image.affine), path)
    return before


def review_figures(output: Path) -> dict[str, Any]:
    row = next(row for row in lineage(output) if row["label"] == "iteration 1 · review")
    return {name: row["metrics"][name] for name in ("accepted", "corrected", "rejected")}


def test_suspended_without_a_worker_through_a_restart_refused_and_resumed_by_the_form(
    config: Path, tmp_path: Path
) -> None:
    output = tmp_path / "runs"
    with place(tmp_path / "place") as here:
        up = here.up()
        run_id = suspended(here, config, output)
        # The one worker is free: another run gets through.
        other = here.submit(config, "name=other", "iterations=1", *REVIEW[2:], f"output={output}")
        here.api.wait(other, "COMPLETED")
        # The server is restarted: the run still waits, and nothing takes it for dead.
        assert up.stop() == 0
        here.up()
        assert here.api.state(run_id) == "PAUSED"
        automations = here.api.post("automations/filter", {})
        silent = next(one for one in automations if "without heartbeat" in one["name"])
        assert {"prefect.flow-run.Suspended", "prefect.flow-run.WaitingForReview"} <= set(
            silent["trigger"]["expect"]
        )
        # A mask of another shape: one clear error, and the run waits on.
        folder = output / "tiny" / "review" / "iteration-1"
        mask = sorted((folder / "masks").iterdir())[0]
        whole = spoil(mask)
        press_resume(here, run_id, accept_all=True)
        wait_for((folder / "refused.json").is_file, 120, "the answer is refused")
        here.api.wait(run_id, "PAUSED")
        refusal = f"{mask}: got a mask of shape (32, 31), wanted (32, 32)"
        wait_for(lambda: refusal in here.api.logs(run_id), 30, "the error in the run's log")
        assert "Traceback" not in here.api.logs(run_id)
        assert refusal in here.call("review", "status", str(output / "tiny"))
        assert not (folder / "returned.json").exists()
        # Mended, and decided in the form: accept the first, reject the second, the third stays as it was.
        mask.write_bytes(whole)
        press_resume(here, run_id, decisions={"case_001": "accept", "case_002": "reject"})
        here.api.wait(run_id, "COMPLETED")
    assert review_figures(output) == {"accepted": 1, "corrected": 0, "rejected": 1}


@pytest.mark.slow
def test_resumed_from_the_shell_as_a_run_without_a_pool_goes(
    running: Place, config: Path, tmp_path: Path
) -> None:
    output, run = tmp_path / "runs", tmp_path / "runs" / "tiny"
    said = running.call(
        "submit", str(config), *REVIEW, f"output={output}", "--watch"
    )  # ends, with exit code 0
    assert f"is waiting for review: an expert's answer about the cases in {run}/review/iteration-1" in said
    assert f"rl4seg review import {run}, and: rl4seg resume {run}" in said.replace("\n", " ")
    run_id = next(line for line in said.splitlines() if "/runs/flow-run/" in line).rpartition("/")[2]
    labels = config.parent / "target" / "labelsTr"
    folder = tmp_path / "corrected"
    folder.mkdir()
    for mask in (run / "review" / "iteration-1" / "masks").iterdir():
        image, truth = nib.load(mask), nib.load(labels / mask.name)
        nib.save(nib.Nifti1Image(np.asarray(truth.dataobj)[..., None], image.affine), folder / mask.name)
    assert "3 correct" in running.call("review", "import", str(run), str(folder))
    assert run_id in running.call("resume", str(run))
    running.api.wait(run_id, "COMPLETED")
    assert review_figures(output) == {"accepted": 0, "corrected": 3, "rejected": 0}
    # The same review given to a run that no worker has started: the same artifacts.
    alone = tmp_path / "alone"
    said = running.call("run", str(config), *REVIEW, f"output={alone}")
    assert f"waiting for review: an expert's answer about the cases in {alone}/tiny/review" in said
    table = running.call("status", str(alone / "tiny"), COLUMNS="1500")
    assert "waiting" in table
    assert f"rl4seg review import {alone}/tiny" in table
    running.call("review", "import", str(alone / "tiny"), str(folder))
    running.call("resume", str(alone / "tiny"))
    assert digests(alone) == digests(output)


@pytest.mark.slow
def test_a_suspended_run_outlives_the_watch_over_silent_runs(
    running: Place, config: Path, tmp_path: Path
) -> None:
    run_id = suspended(running, config, tmp_path / "runs")
    time.sleep(130)  # the server marks a run Crashed that has sent no heartbeat for 90 s
    assert running.api.state(run_id) == "PAUSED"
