"""What a Prefect server is told about this project: the pool, one deployment per pipeline, schedules, dead runs.

A run of a deployment is started by a process worker as ``python -P -m prefect.engine``: -P keeps the files in the
worker's folder from being imported in place of packages. Every registration replaces the one of the same name.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.config_base import RunConfig
from flows.pipelines import PIPELINES, Pipeline
from flows.prefect_settings import DEFAULTS
from reward_data.errors import ConfigError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

POOL = "gpu"
SILENT_SECONDS = 90  # a run that sends no heartbeat for so long (one is due every 30 s) is dead
LAUNCH_SECONDS = 300  # from the worker's taking of a run to its first line
ENDED = ("Completed", "Failed", "Cancelled", "Crashed", "Suspended", "WaitingForReview")
WAITING = ("Scheduled", "AwaitingRetry", "AwaitingConcurrencySlot")


def register(pool: str, folder: Path) -> list[str]:
    """Make the pool, the deployment of every pipeline and the automations; returns the deployments' names.

    Args:
        pool: name of the process pool.
        folder: where runs work on every worker; relative paths in configs are relative to it.

    Raises:
        ConfigError: a pool of that name is of another type.
    """
    from flows.config_loader import load_config

    make_pool(pool)
    install_automations()
    return [
        deploy(pipeline, load_config(pipeline.preset, [], pipeline.config()), pool, pool, folder)
        for pipeline in PIPELINES
    ]


def make_pool(name: str) -> None:
    """Create a process pool where there is none of that name.

    Raises:
        ConfigError: there is one of another type.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound
    from prefect.workers.process import ProcessWorker

    with get_client(sync_client=True) as client:
        try:
            found = client.read_work_pool(name)
        except ObjectNotFound:
            template = ProcessWorker.get_default_base_job_template()
            about = "Runs of RL4Seg pipelines, one per GPU worker at a time."
            client.create_work_pool(
                WorkPoolCreate(name=name, type="process", base_job_template=template, description=about)
            )
            return
    if found.type != "process":
        raise ConfigError(
            f"the work pool {name!r} is of type {found.type!r}, wanted 'process'; choose another name by --pool"
        )


def deploy(
    pipeline: Pipeline,
    config: RunConfig,
    name: str,
    pool: str,
    folder: Path,
    cron: str | None = None,
    timezone: str | None = None,
) -> str:
    """Register a deployment whose run form is filled with ``config``; returns its full name.

    With a ``cron`` schedule, a run that would begin before the last one has ended is refused (cancelled).

    Raises:
        ConfigError: the schedule cannot be read.
    """
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.deployments.runner import RunnerDeployment
    from prefect.types.entrypoint import EntrypointType

    flow = pipeline.flow()
    schedules = [_schedule(cron, timezone)] if cron else None
    one_at_a_time = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
    deployment = RunnerDeployment.from_flow(
        flow,
        name,
        description=(flow.description or "").strip(),
        parameters={"config": config.model_dump(mode="json", by_alias=True)},
        work_pool_name=pool,
        job_variables=job_variables(folder),
        schedules=schedules,
        concurrency_limit=one_at_a_time if cron else None,
        entrypoint_type=EntrypointType.MODULE_PATH,
        tags=["rl4seg"],
    )
    deployment.apply()
    return f"{pipeline.name}/{name}"


def job_variables(folder: Path) -> dict[str, Any]:
    """How a process worker starts a run."""
    return {
        "command": "python -P -m prefect.engine",
        "working_dir": str(folder),
        "env": {name: value for name, value in DEFAULTS.items() if name.startswith("PREFECT_")},
    }


def _schedule(cron: str, timezone: str | None) -> Any:
    from prefect.client.schemas.schedules import CronSchedule
    from pydantic import ValidationError

    try:
        return CronSchedule(cron=cron, timezone=timezone or _local_timezone())
    except ValidationError as error:
        said = "; ".join(str(problem["msg"]) for problem in error.errors())
        raise ConfigError(
            f"the schedule {cron!r} in timezone {timezone or _local_timezone()!r} cannot be read ({said}); give five "
            "fields, minute hour day month weekday, e.g. '0 2 * * 1-5', and a timezone such as Europe/Berlin"
        ) from error


def _local_timezone() -> str:
    import tzlocal

    return tzlocal.get_localzone_name() or "UTC"


# --- dead runs -------------------------------------------------------------------------------------------------------


def install_automations() -> None:
    """Let the server mark runs Crashed whose process has died with its worker: nobody else would."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        _install(
            client,
            name="RL4Seg: a run without heartbeat is Crashed",
            after="heartbeat",
            expect=("heartbeat", *ENDED),
            seconds=SILENT_SECONDS,
            message=f"No heartbeat for {SILENT_SECONDS} s: its process has died. Retry keeps finished stages.",
        )
        _install(
            client,
            name="RL4Seg: a run that never starts is Crashed",
            after="Pending",
            expect=("Running", *ENDED, *WAITING),
            seconds=LAUNCH_SECONDS,
            message=f"Not started within {LAUNCH_SECONDS} s: its worker has died. Press Retry.",
        )


def _install(
    client: SyncPrefectClient, *, name: str, after: str, expect: Sequence[str], seconds: int, message: str
) -> None:
    """Few events, as each one that counts costs a write: SQLite has one writer, and waits of a minute were seen."""
    from prefect.client.schemas.objects import StateType
    from prefect.events import ResourceSpecification
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    automation = AutomationCore(
        name=name,
        description="Installed by rl4seg deploy.",
        trigger=EventTrigger(
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            after={f"prefect.flow-run.{after}"},
            expect={f"prefect.flow-run.{event}" for event in expect},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=seconds),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=message)],
    )
    found = client.read_automations_by_name(name)
    if found:
        client.update_automation(found[0].id, automation)
    else:
        client.create_automation(automation)
