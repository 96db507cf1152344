"""The operations' commands of `rl4seg`: up, server, deploy, worker, submit, resume."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from flows.command_line import existing_folder, load, restart_from, say

operations = typer.Typer()

Pool = Annotated[str, typer.Option(help="Name of the work pool.")]
Gpus = Annotated[
    str | None, typer.Option(help="GPUs to use, e.g. 0,1; none = the CPU. Default: every visible one.")
]
Host = Annotated[
    str, typer.Option(help="Address to listen on; other than loopback only with a password set.")
]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Port of server and dashboard.")]
Database = Annotated[
    str | None,
    typer.Option(
        envvar="PREFECT_SERVER_DATABASE_CONNECTION_URL",
        help="postgresql+asyncpg://USER:PASSWORD@HOST/NAME; default: SQLite. Better given by the environment.",
        show_envvar=True,
    ),
]
PublicUrl = Annotated[
    str | None,
    typer.Option(envvar="RL4SEG_PUBLIC_URL", help="Address that browsers use; default: http://HOST:PORT."),
]
WorkFolder = Annotated[
    Path | None,
    typer.Option(help="Folder on every worker that relative paths in configs start from; default: this one."),
]


@operations.command()
def up(
    host: Host = "127.0.0.1",
    port: Port = 4200,
    database_url: Database = None,
    public_url: PublicUrl = None,
    pool: Pool = "gpu",
    gpus: Gpus = None,
    folder: WorkFolder = None,
) -> None:
    """Dashboard, pool, deployments and one worker per GPU on this machine, until Ctrl-C."""
    from flows.operations.servers import ServerOptions
    from flows.operations.supervise import up as run
    from flows.operations.workers import devices

    options = ServerOptions(host=host, port=port, database_url=database_url, public_url=public_url)
    run(options, pool, devices(gpus), existing_folder(folder), say)


@operations.command()
def server(
    host: Host = "127.0.0.1",
    port: Port = 4200,
    database_url: Database = None,
    public_url: PublicUrl = None,
) -> None:
    """The Prefect server alone, until Ctrl-C."""
    from flows.operations.servers import ServerOptions
    from flows.operations.supervise import serve

    serve(ServerOptions(host=host, port=port, database_url=database_url, public_url=public_url), say)


@operations.command()
def worker(pool: Pool = "gpu", gpus: Gpus = None) -> None:
    """One worker per GPU for the server of PREFECT_API_URL, until Ctrl-C."""
    from flows.operations.supervise import work
    from flows.operations.workers import devices

    work(pool, devices(gpus), say)


@operations.command()
def deploy(
    config: Annotated[
        str | None, typer.Argument(help="Config of a deployment of its own; default: every pipeline.")
    ] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value of that config.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of that deployment; default: the config's.")] = None,
    cron: Annotated[str | None, typer.Option(help="Schedule of that deployment, e.g. '0 2 * * 1-5'.")] = None,
    timezone: Annotated[
        str | None, typer.Option(help="Timezone of the schedule; default: this machine's.")
    ] = None,
    pool: Pool = "gpu",
    folder: WorkFolder = None,
) -> None:
    """Register the pool, the deployments and what watches over runs; with CONFIG also one of its own, on a schedule."""
    from flows.operations.deployments import deploy as register_one
    from flows.operations.deployments import register
    from flows.operations.servers import connected, dashboard
    from flows.pipelines import pipeline_of
    from reward_data.errors import ConfigError

    if config is None and (cron or name or timezone):
        raise ConfigError(
            "--cron, --timezone and --name are for one config; give it: rl4seg deploy CONFIG --cron ..."
        )
    loaded = load(config, overrides).located() if config else None
    with connected() as api:
        names = register(pool, existing_folder(folder))
        if loaded is not None:
            pipeline = pipeline_of(loaded)
            names.append(
                register_one(
                    pipeline, loaded, name or loaded.name, pool, existing_folder(folder), cron, timezone
                )
            )
        for each in names:
            say(f"deployment {each}")
        say(f"dashboard: {dashboard(api)}/deployments")


@operations.command()
def submit(
    config: Annotated[str, typer.Argument(help="A YAML config, or the name of a shipped one.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, e.g. seed=1; from=ppo@2 runs stages anew.")
    ] = None,
    deployment: Annotated[str, typer.Option(help="The deployment that runs it.")] = "gpu",
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow the run to its end, or until it waits.")
    ] = False,
) -> None:
    """Send a run to the pool; exit code 1 if it was watched and neither completed nor waits for a review."""
    from flows.operations.runs import submit as send
    from flows.operations.servers import connected, dashboard
    from flows.pipelines import pipeline_of

    restart, rest = restart_from(overrides)
    loaded = load(config, rest).located()
    with connected() as api:
        run = send(pipeline_of(loaded), loaded, deployment, restart)
        say(f"{dashboard(api)}/runs/flow-run/{run.id}")
        if watch and _follow(run.id):
            _show_result(loaded.run_folder)


@operations.command()
def resume(
    run: Annotated[str, typer.Argument(help="A run folder, or a run's id, name or link in the dashboard.")],
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow the run to its end, or until it waits.")
    ] = False,
) -> None:
    """Continue a run that failed, crashed, was cancelled or waited for a review: finished stages are reused."""
    from flows.operations.resume import resume_folder
    from flows.operations.runs import find_run, retry
    from flows.operations.servers import connected, dashboard

    folder = Path(run)
    run_id = resume_folder(folder, say) if folder.is_dir() else None
    if folder.is_dir() and run_id is None:
        return
    with connected() as api:
        found = find_run(str(run_id or run))
        retry(found)
        say(f"{dashboard(api)}/runs/flow-run/{found.id}")
        if watch:
            _follow(found.id)


def _follow(run_id: UUID) -> bool:
    """Whether the run has completed; False where it waits for somebody, exit code 1 where it has gone wrong."""
    from flows.operations.runs import follow, waits_for

    ended = follow(run_id, say)
    if waits_for(ended):
        return False
    if ended.state is None or not ended.state.is_completed():
        raise typer.Exit(1)
    return True


def _show_result(run_folder: Path) -> None:
    """The result table, where this machine sees the folder that the worker wrote to."""
    from flows.launch import has_result, show

    if has_result(run_folder):
        show(run_folder)
