"""Runs on the server: sent to the pool, followed, continued, and marked Crashed when their process is no more."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flows.config_base import RunConfig
from flows.pipelines import Pipeline
from reward_data.errors import ConfigError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

POLL_SECONDS = 2.0
RETRY_SECONDS, RETRY_TIMES = 1.5, 3
ENGINE = "prefect.engine"


# --- sending and following -------------------------------------------------------------------------------------------


def submit(
    pipeline: Pipeline, config: RunConfig, deployment: str, restart_from: str | None = None
) -> FlowRun:
    """Send a run to the pool.

    Args:
        pipeline: whose run.
        config: of the run.
        deployment: name of the pipeline's deployment that starts it.
        restart_from: see `flows.restart`.

    Raises:
        ConfigError: the deployment is not registered, or the server refuses the parameters.
    """
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

    parameters: dict[str, Any] = {"config": config.model_dump(mode="json", by_alias=True)}
    if restart_from is not None:
        parameters["restart_from"] = restart_from
    full_name = f"{pipeline.name}/{deployment}"
    with get_client(sync_client=True) as client:
        try:
            found = client.read_deployment_by_name(full_name)
            return client.create_flow_run_from_deployment(
                found.id, parameters=parameters, name=f"{pipeline.name} {config.name}"
            )
        except ObjectNotFound as error:
            raise ConfigError(
                f"no deployment {full_name!r} on this server; register it by rl4seg deploy"
            ) from error
        except PrefectHTTPStatusError as error:
            raise ConfigError(
                f"the server refuses the run: {error.response.text[:1000]}; if this program and the server's "
                "deployment differ in version, register it again by rl4seg deploy"
            ) from error


def follow(run_id: UUID, say: Callable[[str], None]) -> FlowRun:
    """Show a run's states and log lines until it has ended or is suspended; returns it as it is then."""
    from prefect.client.orchestration import get_client

    said, shown = "", set[UUID]()
    with get_client(sync_client=True) as client:
        while True:
            run = client.read_flow_run(run_id)
            for log_id, line in _log_lines(client, run_id):
                if log_id not in shown:
                    shown.add(log_id)
                    say(line)
            state = _state_text(run)
            if state != said:
                said = state
                say(state)
            if waiting := waits_for(run):
                say(waiting)
                return run
            if run.state is not None and run.state.is_final():
                return run
            time.sleep(POLL_SECONDS)


def waits_for(run: FlowRun) -> str:
    """What a suspended run waits for, where that lies, and how it goes on; empty for a run that is not suspended."""
    from flows.review_folder import review_of

    if run.state is None or run.state.name != "Suspended":
        return ""
    config = run.parameters.get("config", {})
    review = review_of(
        Path(config.get("output", "runs")) / config.get("name", ""), run.state.state_details.pause_key or ""
    )
    if review is None:  # somebody has pressed Suspend
        return f"{run.name} is suspended, it waits for Resume in the dashboard or: rl4seg resume {run.id}"
    return f"{run.name} is {review.next_steps}"


def _log_lines(client: SyncPrefectClient, run_id: UUID) -> list[tuple[UUID, str]]:
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
    from prefect.client.schemas.sorting import LogSort

    wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id]))
    logs = client.read_logs(log_filter=wanted, limit=200, sort=LogSort.TIMESTAMP_DESC)
    return [
        (log.id, f"{log.timestamp.astimezone():%H:%M:%S}  {log.message}")
        for log in reversed(logs)
        if not log.message.startswith("Finished in state")  # the stage has said so
    ]


def _state_text(run: FlowRun) -> str:
    if run.state is None:
        return "no state yet"
    return f"{run.name}: {run.state.name}" + (f" · {run.state.message}" if run.state.message else "")


# --- continuing ------------------------------------------------------------------------------------------------------


def find_run(name: str) -> FlowRun:
    """The run of an id, of a dashboard link that ends in one, or the newest one of a name.

    Raises:
        ConfigError: there is none.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
    from prefect.client.schemas.sorting import FlowRunSort
    from prefect.exceptions import ObjectNotFound

    given = re.search(r"[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}", name.lower())
    with get_client(sync_client=True) as client:
        try:
            if given:
                return client.read_flow_run(UUID(given[0]))
        except ObjectNotFound:
            pass
        named = FlowRunFilter(name=FlowRunFilterName(any_=[name]))
        runs = client.read_flow_runs(flow_run_filter=named, sort=FlowRunSort.START_TIME_DESC, limit=1)
    if not runs:
        raise ConfigError(
            f"{name}: neither a run folder nor a run of this server; give a folder such as runs/demo, or a run's id, "
            "name or link as the dashboard shows it"
        )
    return runs[0]


def retry(run: FlowRun) -> None:
    """What the dashboard's Retry does: the run goes back to the pool; its finished stages will be Cached.

    Raises:
        ConfigError: it has not ended, has nothing to continue, or came from no deployment.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.responses import SetStateStatus
    from prefect.states import AwaitingRetry

    ended = run.state.type if run.state else None
    if ended == StateType.PAUSED:  # it waits for an expert; what he has said is in the run folder
        with get_client(sync_client=True) as client:
            answer = client.resume_flow_run(run.id, run_input={})
        if answer.status != SetStateStatus.ACCEPT:
            raise ConfigError(f"run {run.name!r} cannot be resumed: {answer.details}; try again")
        return
    if run.deployment_id is None:
        raise ConfigError(
            f"run {run.name!r} was not started by a worker; continue it by rl4seg resume FOLDER, its run folder"
        )
    if ended == StateType.COMPLETED:
        raise ConfigError(
            f"run {run.name!r} is Completed: nothing to continue; see rl4seg run ... from=STAGE to run stages anew"
        )
    if ended not in (StateType.FAILED, StateType.CRASHED, StateType.CANCELLED):
        now = run.state.name if run.state else "not started"
        raise ConfigError(f"run {run.name!r} is {now}, it has not ended; wait for it or cancel it first")
    with get_client(sync_client=True) as client:
        for _ in range(RETRY_TIMES):
            client.set_flow_run_state(run.id, AwaitingRetry(message="rl4seg resume"), force=True)
            time.sleep(
                RETRY_SECONDS
            )  # a worker says twice that a run has crashed, the second time up to 1 s later
            latest = client.read_flow_run(run.id).state
            if latest is None or latest.type != StateType.CRASHED:
                return


# --- what died -------------------------------------------------------------------------------------------------------


def runs_of(workers: Iterable[str]) -> list[FlowRun]:
    """The runs that workers of these names have taken and not ended."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
    from prefect.client.schemas.objects import StateType

    open_states = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    wanted = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=open_states)))
    names = set(workers)
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=wanted)
    return [run for run in runs if run.labels.get("prefect.worker.name") in names]


def process_of(run: FlowRun) -> int | None:
    """The id of a run's process on this machine, where it runs; None where it does not."""
    pid = run.infrastructure_pid or ""
    if not pid.isdigit():
        return None
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, PermissionError):
        return None
    ask = ["ps", "-o", "stat=", "-o", "command=", "-p", pid]
    said = subprocess.run(ask, capture_output=True, text=True, check=False).stdout
    return int(pid) if ENGINE in said and not said.startswith("Z") else None


def mark_crashed(run: FlowRun, message: str) -> None:
    """Mark a run Crashed, as its process is no more; one that is being cancelled becomes Cancelled."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import State, StateType
    from prefect.states import Cancelled, Crashed

    cancelling = run.state is not None and run.state.type == StateType.CANCELLING
    state: State[Any] = Cancelled(message=message) if cancelling else Crashed(message=message)
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run.id, state, force=True)
