"""The comparison's stage: read the reports of several runs, and write what they say together."""

from __future__ import annotations

from flows.reporting.comparison_data import ComparisonSpec
from flows.stages import StageContext, stage
from flows.store import Comparison, Report


@stage(Comparison, title="comparison")
def write_comparison(
    ctx: StageContext, spec: ComparisonSpec, folders: tuple[str, ...], reports: tuple[Report, ...]
) -> None:
    """Write ``comparison.html``, ``comparison.json`` and ``comparison.csv``.

    Args:
        ctx: the stage's context.
        spec: what is compared.
        folders: of the runs, relative to that of the comparison, for the links.
        reports: their reports: one per seed, or one per seed and variant, the seeds outside.
    """
    from flows.reporting.comparison import compared, gather
    from flows.reporting.comparison_page import write_comparison_files
    from flows.reporting.comparison_verdict import comparison_verdict
    from flows.reporting.report import METRICS, read_metrics
    from flows.run_folder import versions

    found = [read_metrics(ctx.path(report) / METRICS) for report in reports]
    results = gather(spec, found)
    folder = ctx.environment.run_folder
    command = f"rl4seg run {folder.path / 'config.yaml' if folder else 'config.yaml'}"
    known = {name: str(version) for name, version in versions().items() if version}
    data = compared(results, command, known, found[0].unit)
    data = data.model_copy(update={"verdict": comparison_verdict(data)})
    write_comparison_files(data, results, folders, ctx.out)
    for result in data.arms:
        for measure in ("dice_mean", "validity"):
            if measure in result.measures:
                ctx.record(**{f"{measure}, {result.arm}": result.measures[measure].mean})
