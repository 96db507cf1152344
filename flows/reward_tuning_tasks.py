"""The stages of reward tuning: open the inputs, make one call into the core, leave the outputs in ``ctx.out``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flows.handing_out import ModelBasis
from flows.stages import StageContext, stage
from flows.store import ArtifactRef, CaseSet, Evaluation, PackageRef, Policy
from reward_data.anatomy import RuleSet
from reward_data.types import Config
from rl4seg.configs.reward_tuning import DecisionRule, TuningConfig, TuningEvaluationConfig


class TuningReport(ArtifactRef):
    """What a run of reward tuning has found: its page, its figures and its tables."""

    kind: Literal["TuningReport"] = "TuningReport"


class TunedRecord(Config):
    """One arm of one seed: its policy and how good it is."""

    arm: str = Field(description="Which arm.")
    seed: int = Field(description="Which seed.")
    policy: Policy = Field(description="The policy.")
    evaluation: Evaluation = Field(description="Its figures on the held-out cases.")
    trained: bool = Field(description="Whether the arm was trained, so that its policy has a history.")


@stage(Policy, title="reward tuning")
def tune_on_reward(
    ctx: StageContext,
    config: TuningConfig,
    own_rewards: dict[str, str],
    policy: Policy,
    cases: CaseSet,
    rules: RuleSet | None,
    seed: int,
) -> None:
    """Tune a policy on the labelled training cases; ``own_rewards``: the digests of the user's own reward functions."""
    from reward_data.case_store import CaseStore
    from rl4seg.policies import load_model
    from rl4seg.reward_tuning import tune_policy

    runtime = ctx.runtime()
    with CaseStore(ctx.path(cases) / "cases.h5") as store:
        figures = tune_policy(
            load_model(ctx.path(policy), runtime), store, rules, config, seed, runtime, ctx.out, ctx.checkpoint,
            ctx.progress,
        )  # fmt: skip
    ctx.record(**figures)


@stage(Evaluation, title="evaluate")
def evaluate_tuned_policy(
    ctx: StageContext,
    config: TuningEvaluationConfig,
    own_rewards: dict[str, str],
    policy: Policy,
    cases: CaseSet,
    rules: RuleSet | None,
    rule: DecisionRule,
) -> None:
    """Measure a policy on the labelled held-out cases by one of the decision rules."""
    from reward_data.case_store import CaseStore
    from rl4seg.policies import load_model
    from rl4seg.tuning_evaluation import TuningEvaluator, evaluate_tuned

    runtime = ctx.runtime()
    model = load_model(ctx.path(policy), runtime)
    with CaseStore(ctx.path(cases) / "cases.h5") as store:
        evaluator = TuningEvaluator(model, store, rules, config, runtime)
        figures = evaluate_tuned(evaluator, rule, ctx.out, ctx.progress)
    ctx.record(**figures)


@stage(PackageRef, title="package")
def package_tuned(ctx: StageContext, basis: ModelBasis, policy: Policy, cases: CaseSet) -> None:
    """Put the tuned policy into one folder with all that using it takes."""
    from rl4seg.package import ModelPackage, save_package
    from rl4seg.policies import load_model

    model = load_model(ctx.path(policy), ctx.runtime())
    spec = basis.package_spec(ctx.path(cases) / "cases.h5")
    save_package(ModelPackage(spec, model, None), ctx.out)


@stage(TuningReport, title="report")
def write_tuning_report(
    ctx: StageContext, run_name: str, config_yaml: str, records: tuple[TunedRecord, ...]
) -> None:
    """Write ``report.html``, ``tuning.json`` and the tidy tables ``losses.csv``, ``metrics.csv``, ``cases.csv``."""
    from flows.reporting.tuning import ArmFolder, collect, write

    folders = [
        ArmFolder(
            record.arm,
            record.seed,
            ctx.path(record.evaluation),
            ctx.path(record.policy) if record.trained else None,
        )
        for record in records
    ]
    content = collect(run_name, config_yaml, folders)
    write(content, folders, ctx.out)
    ctx.record(**{f"miou_{row.arm}": row.measures["miou"].mean for row in content.rows})
