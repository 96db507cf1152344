"""Run a pipeline here and now: embedded Prefect unless one is configured, then the result table and the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flows.console import console
from flows.pipelines import PIPELINES, Pipeline, pipeline_for, pipeline_of
from reward_data.errors import ArtifactError

if TYPE_CHECKING:
    from flows.config_base import RunConfig

CONFIG = "config.yaml"


def execute(config: RunConfig, restart_from: str | None = None) -> Path:
    """Run the config's flow to its end and print what it found; returns the report's path.

    ``restart_from`` names a stage that runs anew, see `flows.restart`.

    Raises:
        Rl4SegError: as the failing stage did.
    """
    pipeline = pipeline_of(config)
    pipeline.check(config)  # what can be refused without Prefect is refused without waiting for it
    if config.store_url is not None:
        from flows.remote_store import open_store

        open_store(config.store_folder, config.store_url)
    from flows.operations.embedded import embedded_server
    from flows.prefect_settings import quiet_user_errors

    with embedded_server() as ready:
        flow = pipeline.flow()
        ready()
        quiet_user_errors()
        flow(config, restart_from)
    return show(config.run_folder)


def pipeline_in(run_folder: Path) -> Pipeline:
    """The pipeline whose run a folder holds; the first one where that cannot be told.

    Raises:
        ConfigError: its config names an unknown one.
    """
    file = run_folder / CONFIG
    return pipeline_for(str(file), []) if file.is_file() else PIPELINES[0]


def has_result(run_folder: Path) -> bool:
    """Whether a run has come to its end, and its result lies in its folder."""
    return (run_folder / pipeline_in(run_folder).result).is_file()


def show(run_folder: Path) -> Path:
    """Print a run's result table, its verdict and its report's path; returns the path.

    Raises:
        ArtifactError: the run has no report (yet).
    """
    pipeline = pipeline_in(run_folder)
    if not (run_folder / pipeline.result).is_file():
        raise ArtifactError(
            f"{run_folder}: no {pipeline.result} here; the run has not ended. See rl4seg status {run_folder}"
        )
    return pipeline.show(run_folder)


def show_report(run_folder: Path) -> Path:
    """Print the result of a run of the loop; returns its report's path."""
    from flows.reporting.report import METRICS, REPORT, read_metrics
    from flows.reporting.tables import result_table

    metrics, out = read_metrics(run_folder / METRICS), console()
    out.print(result_table(metrics.rows, metrics.unit, title=metrics.title))
    for statement in metrics.verdict:
        out.print(f"- {statement.text}", highlight=False)
    report = run_folder / REPORT
    out.print(f"report: {report}", highlight=False, soft_wrap=True)
    return report


def show_comparison(run_folder: Path) -> Path:
    """Print the tables and the verdict of a comparison or an ablation; returns its page's path."""
    from flows.reporting.comparison_data import FIGURES, PAGE, read_comparison
    from flows.reporting.comparison_tables import console_tables

    data, out = read_comparison(run_folder / FIGURES), console()
    for table in console_tables(data):
        out.print(table)
    for statement in data.verdict:
        out.print(f"- {statement.text}", highlight=False, markup=False)
    page = run_folder / PAGE
    out.print(f"report: {page}", highlight=False, soft_wrap=True)
    return page
