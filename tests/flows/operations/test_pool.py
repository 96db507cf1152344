"""A pool at work: two workers, schedules, parameters, what the dashboard gets, and what it costs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.flows.operations.conftest import Job
from tests.flows.operations.pool import (
    Place,
    digests,
    environment_of,
    flow_process,
    place,
    wait_for,
    wait_for_stage,
)

pytestmark = [
    pytest.mark.flow,
    pytest.mark.xdist_group("pool"),
    pytest.mark.skipif(sys.platform != "linux", reason="asks /proc which processes there are"),
]
STAGE = "iteration 1 · reward net"


def seconds_between(first: str, second: str) -> float:
    return (datetime.fromisoformat(second) - datetime.fromisoformat(first)).total_seconds()


def states(here: Place, run_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = here.api.get(f"flow_run_states/?flow_run_id={run_id}")
    return sorted(found, key=lambda state: str(state["timestamp"]))


# --- launching -------------------------------------------------------------------------------------------------------


def test_a_run_all_of_whose_stages_are_cached_takes_ten_seconds(
    running: Place, job: Job, tmp_path: Path
) -> None:
    output = tmp_path / "runs"
    said = running.call("submit", str(job.config), *job.arguments(output), "--watch")
    assert "iteration 1 · reward net: built" in said
    assert "Completed" in said
    run_id = running.submit(job.config, *job.arguments(output))
    running.api.wait(run_id, "COMPLETED")
    assert set(running.api.tasks(run_id).values()) == {"Cached"}
    picked_up = next(state for state in states(running, run_id) if state["type"] == "PENDING")
    seconds = seconds_between(picked_up["timestamp"], running.api.run(run_id)["state"]["timestamp"])
    print(f"all cached: {seconds:.1f} s from pick-up to Completed")
    assert seconds < 10
    assert digests(output) == job.digests


def test_a_watched_run_that_fails_gives_exit_code_1(running: Place, job: Job, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    said = running.call("submit", str(job.config), f"target.path={nowhere}", "--watch", code=1)
    assert f"{nowhere}" in said
    assert "Failed" in said


def test_bad_parameters_are_refused_with_the_fields_path(running: Place) -> None:
    api = running.api
    deployment = api.get("deployments/name/auto-iteration/gpu")
    config = deployment["parameters"]["config"]
    config["ppo"]["epochs"] = -1
    config["ppo"]["epocs"] = 3
    answer = api.http.post(
        f"deployments/{deployment['id']}/create_flow_run",
        json={"parameters": {"config": config}},
        headers=api.headers(),
    )
    assert answer.status_code == 409
    assert "config.ppo" in answer.text or "'epocs'" in answer.text
    assert "epoc" in answer.text
    said = running.call("submit", "auto_iteration/demo", "ppo.epocs=3", code=2)
    assert "did you mean ppo.epochs" in said


def test_the_run_form_is_the_config_with_its_defaults_descriptions_and_choices(running: Place) -> None:
    deployment = running.api.get("deployments/name/auto-iteration/gpu")
    schema = deployment["parameter_openapi_schema"]
    assert set(schema["properties"]) == {"config", "restart_from"}
    assert "runs anew" in schema["properties"]["restart_from"]["description"]
    definitions = schema["definitions"]
    config = definitions["AutoIterationConfig"]["properties"]
    assert all("description" in about or "$ref" in about for about in config.values()), config
    assert definitions["RuntimeConfig"]["properties"]["precision"]["enum"]  # a select
    assert deployment["parameters"]["config"]["name"] == "demo"  # Quick run works
    assert deployment["enforce_parameter_schema"]


def test_unknown_deployments_and_runs_are_named(running: Place, tmp_path: Path) -> None:
    said = running.call("submit", "auto_iteration/demo", "--deployment", "other", code=2)
    assert "no deployment 'auto-iteration/other' on this server; register it by rl4seg deploy" in said
    assert "neither a run folder nor a run of this server" in running.call("resume", "nobody", code=2)
    assert "give the folder of a run" in running.call("resume", str(tmp_path), code=2)


def test_a_finished_run_has_nothing_to_resume(running: Place, job: Job, tmp_path: Path) -> None:
    run_id = running.submit(job.config, *job.arguments(tmp_path / "runs"))
    assert "it has not ended" in running.call("resume", run_id, code=2)
    running.api.wait(run_id, "COMPLETED")
    assert "is Completed: nothing to continue" in running.call("resume", run_id, code=2)


# --- two workers -----------------------------------------------------------------------------------------------------


def test_two_workers_take_one_run_each_on_their_own_device_and_a_third_run_waits(
    job: Job, tmp_path: Path
) -> None:
    with place(tmp_path / "place") as here:
        up = here.up(CUDA_VISIBLE_DEVICES="0,1")
        outputs = [tmp_path / f"runs{i}" for i in range(3)]
        runs = [here.submit(job.config, *job.arguments(output)) for output in outputs]
        for output in outputs[:2]:
            wait_for_stage(output, STAGE)
        assert here.api.state(runs[2]) == "SCHEDULED"
        devices = {
            environment_of(flow_process(here.api, run_id))["CUDA_VISIBLE_DEVICES"] for run_id in runs[:2]
        }
        assert devices == {"0", "1"}
        workers = {here.api.run(run_id)["labels"]["prefect.worker.name"] for run_id in runs[:2]}
        assert workers == {f"{socket.gethostname()}-gpu{i}" for i in (0, 1)}
        for run_id in runs:
            here.api.wait(run_id, "COMPLETED")
        began = next(state for state in states(here, runs[2]) if state["type"] == "PENDING")
        ended = min(here.api.run(run_id)["state"]["timestamp"] for run_id in runs[:2])
        assert began["timestamp"] >= ended
        assert all(digests(output) == job.digests for output in outputs)
        lines = [line for line in up.said if "report" in line]
        assert {line.split("]")[0].strip("[") for line in lines} == workers
        assert up.stop() == 0


# --- schedules -------------------------------------------------------------------------------------------------------


def test_a_schedule_fires_and_an_overlapping_run_is_refused(job: Job, tmp_path: Path) -> None:
    output = tmp_path / "runs"
    with place(tmp_path / "place") as here:
        here.up()
        arguments = (str(job.config), *job.arguments(output), "reward_net.steps=100000")
        said = here.call("deploy", *arguments, "--cron", "* * * * *", "--name", "every-minute")
        assert "deployment auto-iteration/every-minute" in said
        deployment = here.api.get("deployments/name/auto-iteration/every-minute")
        assert deployment["parameters"]["config"]["output"] == str(output)

        def started(*types: str) -> list[dict[str, Any]]:
            wanted = {
                "flow_runs": {
                    "deployment_id": {"any_": [deployment["id"]]},
                    "state": {"type": {"any_": types}},
                }
            }
            runs: list[dict[str, Any]] = here.api.post("flow_runs/filter", wanted)
            return runs

        first = wait_for(lambda: started("RUNNING"), 100, "the schedule fires")[0]
        assert first["auto_scheduled"]
        refused = wait_for(lambda: started("CANCELLED"), 100, "the next one is refused")[0]
        assert "concurrency" in refused["state"]["message"].lower()
        assert [run["id"] for run in started("RUNNING")] == [first["id"]]


def test_a_schedule_that_cannot_be_read_is_refused(running: Place) -> None:
    said = running.call("deploy", "auto_iteration/demo", "--cron", "61 * * *", code=2)
    assert "the schedule '61 * * *'" in said
    said = running.call(
        "deploy", "auto_iteration/demo", "--cron", "0 2 * * *", "--timezone", "Mars/Olympus", code=2
    )
    assert "Mars/Olympus" in said
    assert "give it: rl4seg deploy CONFIG --cron" in running.call("deploy", "--cron", "0 2 * * *", code=2)


# --- zombies ---------------------------------------------------------------------------------------------------------


def plain_worker(here: Place, name: str) -> subprocess.Popen[bytes]:
    """A Prefect worker that nobody of ours looks after, as on a machine that loses its power."""
    command = [
        sys.executable,
        "-m",
        "prefect",
        "worker",
        "start",
        "-p",
        "gpu",
        "--limit",
        "1",
        "--name",
        name,
    ]
    environment = here.environment(
        PREFECT_API_URL=here.api.url,
        PREFECT_WORKER_QUERY_SECONDS="2",
        PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    )
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_a_zombie_is_crashed_within_two_minutes_and_the_next_run_starts(job: Job, tmp_path: Path) -> None:
    with place(tmp_path / "place") as here:
        server = here.start("server", "--port", str(here.port))
        server.wait_for("dashboard:")
        here.call("deploy")
        workers = [plain_worker(here, "machine-a")]
        try:
            zombie = here.submit(job.config, *job.arguments(tmp_path / "a"), "reward_net.steps=100000")
            wait_for_stage(tmp_path / "a", STAGE)
            flow = flow_process(here.api, zombie)
            workers[0].send_signal(signal.SIGKILL)
            os.kill(flow, signal.SIGKILL)
            died = time.monotonic()
            workers[0].wait()
            following = here.submit(job.config, *job.arguments(tmp_path / "b"))
            workers.append(plain_worker(here, "machine-b"))
            assert here.api.state(zombie) == "RUNNING"
            here.api.wait(zombie, "CRASHED", seconds=120)
            print(f"a zombie was Crashed after {time.monotonic() - died:.0f} s")
            assert "No heartbeat" in here.api.run(zombie)["state"]["message"]
            here.api.wait(following, "COMPLETED")
            assert digests(tmp_path / "b") == job.digests
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
