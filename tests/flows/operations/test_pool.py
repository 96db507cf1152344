"""A pool at work: two workers, schedules, parameters, what the dashboard gets, and what it costs."""

from __future__ import annotations

import socket
import sys
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
    wait_for_stage,
)

pytestmark = [
    pytest.mark.flow,
    pytest.mark.skipif(sys.platform != "linux", reason="asks /proc which processes there are"),
]
STAGE = "iteration 1 · reward net"
CACHED_SECONDS = 120  # 3 s on quiet cores; 31 s were seen where two busy cores served ten processes


def seconds_between(first: str, second: str) -> float:
    return (datetime.fromisoformat(second) - datetime.fromisoformat(first)).total_seconds()


def states(here: Place, run_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = here.api.get(f"flow_run_states/?flow_run_id={run_id}")
    return sorted(found, key=lambda state: str(state["timestamp"]))


# --- launching -------------------------------------------------------------------------------------------------------


def test_a_run_all_of_whose_stages_are_cached_takes_seconds(running: Place, job: Job, tmp_path: Path) -> None:
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
    assert seconds < CACHED_SECONDS
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


@pytest.mark.slow
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


def test_a_schedule_that_cannot_be_read_is_refused(running: Place) -> None:
    said = running.call("deploy", "auto_iteration/demo", "--cron", "61 * * *", code=2)
    assert "the schedule '61 * * *'" in said
    said = running.call(
        "deploy", "auto_iteration/demo", "--cron", "0 2 * * *", "--timezone", "Mars/Olympus", code=2
    )
    assert "Mars/Olympus" in said
    assert "give it: rl4seg deploy CONFIG --cron" in running.call("deploy", "--cron", "0 2 * * *", code=2)
