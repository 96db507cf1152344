"""Runs of a pool that die in every way there is, and go on by Retry: real server, real worker, real signals."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.flows.operations.conftest import Job
from tests.flows.operations.pool import (
    Place,
    descendants,
    digests,
    environment_of,
    flow_process,
    lineage,
    place,
    wait_for,
    wait_for_stage,
)
from tests.flows.tiny import is_alive

pytestmark = [
    pytest.mark.flow,
    pytest.mark.skipif(sys.platform != "linux", reason="asks /proc which processes there are"),
]
STAGE = "iteration 1 · reward net"
Death = Callable[[Place, str], None]


def worker_process(here: Place) -> int:
    """The Prefect worker below `rl4seg up`; 0 while there is none."""
    return below_up(here, b"worker\0start")


def server_process(here: Place) -> int:
    """The Prefect server below `rl4seg up`; 0 while there is none."""
    return below_up(here, b"server\0start")


def below_up(here: Place, command: bytes) -> int:
    for pid in descendants(here.commands[0].process.pid):
        with suppress(FileNotFoundError, ProcessLookupError):
            if is_alive(pid) and command in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
    return 0


def continued(here: Place, job: Job, output: Path, run_id: str) -> None:
    """The retried run has completed: what was finished is Cached, and nobody can tell that it was ever disturbed."""
    run = here.api.wait(run_id, "COMPLETED")
    assert run["run_count"] >= 2
    labels = [row["label"] for row in lineage(output)]
    before = labels[: labels.index(STAGE)]
    assert [row["status"] for row in lineage(output)[: len(before)]] == ["cached"] * len(before)
    assert {here.api.tasks(run_id)[label] for label in before} == {"Cached"}
    assert digests(output) == job.digests
    for left in ("_checkpoints", "_building"):
        assert not list((output / "store" / left).iterdir())


# --- ways to die -----------------------------------------------------------------------------------------------------


def kill_the_flow(here: Place, run_id: str) -> None:
    os.kill(flow_process(here.api, run_id), signal.SIGKILL)
    here.api.wait(run_id, "CRASHED", seconds=90)


def terminate_the_flow(here: Place, run_id: str) -> None:
    os.kill(flow_process(here.api, run_id), signal.SIGTERM)
    here.api.wait(run_id, "CRASHED", seconds=90)


def kill_worker_and_flow(here: Place, run_id: str) -> None:
    flow, worker = flow_process(here.api, run_id), worker_process(here)
    for pid in (worker, flow):
        os.kill(pid, signal.SIGKILL)
    here.api.wait(run_id, "CRASHED", seconds=90)


def terminate_the_worker(here: Place, run_id: str) -> None:
    worker = worker_process(here)
    os.kill(worker, signal.SIGTERM)
    here.api.wait(run_id, "CRASHED", seconds=90)
    wait_for(lambda: worker_process(here) not in (0, worker), 30, "another worker")


def kill_the_worker(here: Place, run_id: str) -> None:
    flow = flow_process(here.api, run_id)
    os.kill(worker_process(here), signal.SIGKILL)
    here.api.wait(run_id, "CRASHED", seconds=90)
    wait_for(lambda: not is_alive(flow), 10, "its flow ends as well: the next run gets the GPU for itself")


def cancel(here: Place, run_id: str) -> None:
    flow = flow_process(here.api, run_id)
    here.api.cancel(run_id)
    here.api.wait(run_id, "CANCELLED", seconds=60)
    wait_for(lambda: not is_alive(flow), 10, "its flow has ended")


@pytest.mark.parametrize(
    "death",
    [
        kill_the_flow,
        cancel,
        pytest.param(terminate_the_worker, marks=pytest.mark.slow),
        pytest.param(kill_worker_and_flow, marks=pytest.mark.slow),
        pytest.param(terminate_the_flow, marks=pytest.mark.slow),
        pytest.param(kill_the_worker, marks=pytest.mark.slow),
    ],
    ids=lambda death: death.__name__,
)
def test_a_run_that_died_goes_on_by_retry(running: Place, job: Job, tmp_path: Path, death: Death) -> None:
    output = tmp_path / "runs"
    run_id = running.submit(job.config, *job.arguments(output))
    wait_for_stage(output, STAGE)
    death(running, run_id)
    running.api.retry(run_id)
    continued(running, job, output, run_id)


def test_a_stage_that_fails_is_the_only_one_that_runs_again(running: Place, job: Job, tmp_path: Path) -> None:
    output = tmp_path / "runs"
    # A file where the stage wants a folder for its checkpoints: it cannot begin.
    obstacle = output / "store" / "_checkpoints" / job.keys[STAGE]
    obstacle.parent.mkdir(parents=True)
    obstacle.touch()
    run_id = running.submit(job.config, *job.arguments(output))
    running.api.wait(run_id, "FAILED")
    assert running.api.tasks(run_id)[STAGE] == "Failed"
    obstacle.unlink()
    said = running.call("resume", str(output / "tiny"))  # a shell's Retry, by the run's folder
    assert run_id in said
    continued(running, job, output, run_id)


def test_a_server_that_is_restarted_during_a_stage_loses_nothing(
    running: Place, job: Job, tmp_path: Path
) -> None:
    output = tmp_path / "runs"
    run_id = running.submit(job.config, *job.arguments(output))
    wait_for_stage(output, STAGE)
    server = server_process(running)
    os.kill(server, signal.SIGKILL)
    running.commands[0].wait_for("the server had died; started again")
    wait_for(lambda: server_process(running) not in (0, server), 30, "another server")

    def ended() -> bool:
        return lineage(output)[-1]["stage"] == "write_report" and lineage(output)[-1]["status"] == "built"

    wait_for(ended, 60, "the run has gone on to its end")
    state = wait_for(lambda: answer(running, run_id), 60, "the server answers")
    if state != "COMPLETED":  # it could not say so in time
        running.api.wait(run_id, "CRASHED", "FAILED", "COMPLETED", seconds=150)
        if running.api.state(run_id) != "COMPLETED":
            running.api.retry(run_id)
            running.api.wait(run_id, "COMPLETED")
    assert digests(output) == job.digests


def answer(here: Place, run_id: str) -> str | None:
    try:
        return here.api.state(run_id)
    except Exception:
        return None


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_stopping_everything_leaves_no_process_and_no_run_in_running(
    job: Job, tmp_path: Path, number: signal.Signals
) -> None:
    output = tmp_path / "runs"
    with place(tmp_path / "place") as here:
        up = here.up()
        run_id = here.submit(job.config, *job.arguments(output))
        wait_for_stage(output, STAGE)
        assert up.stop(number) == 0  # and no process is left
        again = here.up()
        assert here.api.state(run_id) == "CRASHED"
        assert "Retry" in here.api.run(run_id)["state"]["message"] or "termination" in str(
            here.api.run(run_id)["state"]["message"]
        )
        assert run_id in here.call("resume", run_id)
        continued(here, job, output, run_id)
        assert again.stop() == 0


def test_a_run_of_the_pool_has_its_workers_device_and_a_path_without_the_folders_files(
    running: Place, job: Job, tmp_path: Path
) -> None:
    trap = running.folder / "json.py"  # would be imported instead of Python's own
    trap.write_text("raise ImportError('the file in the working folder was imported')\n")
    try:
        output = tmp_path / "runs"
        run_id = running.submit(job.config, *job.arguments(output))
        process = flow_process(running.api, run_id)
        environment = environment_of(process)
        assert Path(f"/proc/{process}/cwd").resolve() == running.folder.resolve()
        assert environment["CUDA_VISIBLE_DEVICES"] == ""
        assert environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"
        running.api.wait(run_id, "COMPLETED")
        assert running.api.run(run_id)["name"] == "auto-iteration tiny"
        assert digests(output) == job.digests
    finally:
        trap.unlink()
