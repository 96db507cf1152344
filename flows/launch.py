"""Run a pipeline here and now: embedded Prefect unless one is configured, then the result table and the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flows.console import console

if TYPE_CHECKING:
    from flows.config import AutoIterationConfig


def execute(config: AutoIterationConfig, restart_from: str | None = None) -> Path:
    """Run the flow to its end and print what it found; returns the report's path.

    ``restart_from`` names a stage that runs anew, see `flows.restart`.

    Raises:
        Rl4SegError: as the failing stage did.
    """
    from flows import preflight

    preflight.check(config)  # what can be refused without Prefect is refused without waiting for it
    if config.store_url is not None:
        from flows.remote_store import open_store

        open_store(config.store_folder, config.store_url)
    from flows.operations.embedded import embedded_server
    from flows.prefect_settings import quiet_user_errors

    with embedded_server() as ready:
        from flows.auto_iteration import auto_iteration

        ready()
        quiet_user_errors()
        auto_iteration(config, restart_from)
    return show(config.run_folder)


def show(run_folder: Path) -> Path:
    """Print a run's result table, its verdict and its report's path; returns the path.

    Raises:
        ArtifactError: the run has no report (yet).
    """
    from flows.reporting.report import METRICS, REPORT, read_metrics
    from flows.reporting.tables import result_table
    from reward_data.errors import ArtifactError

    if not (run_folder / METRICS).is_file():
        raise ArtifactError(
            f"{run_folder}: no {METRICS} here; the run has not ended. See rl4seg status {run_folder}"
        )
    metrics, out = read_metrics(run_folder / METRICS), console()
    out.print(result_table(metrics.rows, metrics.unit, title=metrics.title))
    for statement in metrics.verdict:
        out.print(f"- {statement.text}", highlight=False)
    report = run_folder / REPORT
    out.print(f"report: {report}", highlight=False, soft_wrap=True)
    return report
