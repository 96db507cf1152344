"""The report's stage: collect what the evaluations, trainings and reward datasets of a run say, and render it."""

from __future__ import annotations

from pydantic import Field

from flows.stages import StageContext, stage
from flows.store import CaseSet, Evaluation, JudgementRef, PackageRef, Policy, Report, RewardNet, RewardSet
from reward_data.types import Config


class PolicyRecord(Config):
    """One evaluated policy of a run, and the artifacts behind it."""

    arm: str = Field(description="Which policy: the loop, a control or a baseline.")
    iteration: int = Field(ge=0, description="0 outside the loop.")
    policy: Policy = Field(description="The policy.")
    evaluation: Evaluation = Field(description="Its figures on held-out target cases.")
    reward_net: RewardNet | None = Field(default=None, description="The reward net of the same iteration.")
    reward_set: RewardSet | None = Field(
        default=None, description="The reward dataset of the same iteration."
    )
    judgement: JudgementRef | None = Field(
        default=None, description="What the stop rule says after this iteration, of all until then."
    )


@stage(Report, title="report")
def write_report(
    ctx: StageContext,
    run_name: str,
    config_yaml: str,
    records: tuple[PolicyRecord, ...],
    cases: CaseSet,
    montage_cases: int,
    package: PackageRef | None = None,
) -> None:
    """Write ``report.html`` and ``metrics.json``."""
    from flows.reporting.collect import Collector
    from flows.reporting.report import render
    from reward_data.case_store import CaseStore

    with CaseStore(ctx.path(cases) / "cases.h5") as store:
        collector = Collector(ctx, store, records, package)
        render(collector.report(run_name, config_yaml, montage_cases), ctx.out)
