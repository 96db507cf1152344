"""The stages of the rivals: trainings that start from the source policy and take as many steps as the whole loop."""

from __future__ import annotations

from flows.stages import StageContext, stage
from flows.store import CaseSet, Policy
from rl4seg.configs.rivals import ContinuedConfig, MeanTeacherConfig, StepBudget, TentConfig


@stage(Policy, title="continued training")
def continue_supervised(
    ctx: StageContext,
    config: ContinuedConfig,
    budget: StepBudget,
    policy: Policy,
    cases: CaseSet,
    replayed: CaseSet | None,
    target: CaseSet,
    seed: int,
) -> None:
    """Train a policy on with the labels of ``cases``; ``target`` is what the loop adapts to, and sets the steps."""
    from contextlib import ExitStack

    from reward_data.case_store import CaseStore
    from rl4seg.continued import LabelledCases, continue_training
    from rl4seg.policies import load_model

    runtime = ctx.runtime()
    with ExitStack() as stack:
        adapted, labelled, *others = (
            stack.enter_context(CaseStore(ctx.path(ref) / "cases.h5"))
            for ref in (target, cases, replayed)
            if ref is not None
        )
        parts = [LabelledCases(labelled, config.batch_size)]
        parts += [LabelledCases(store, config.replay) for store in others if config.replay]
        figures = continue_training(
            load_model(ctx.path(policy), runtime), parts, config, budget.steps(len(adapted.indices("train"))),
            seed, runtime, ctx.out, ctx.checkpoint, ctx.progress,
        )  # fmt: skip
    ctx.record(**figures)


@stage(Policy, title="TENT")
def train_tent(
    ctx: StageContext,
    config: TentConfig,
    budget: StepBudget,
    policy: Policy,
    target: CaseSet,
    checkpoint_seconds: float,
    seed: int,
) -> None:
    """Entropy minimisation of the normalisation layers on the target's training images."""
    from reward_data.case_store import CaseStore
    from rl4seg.policies import load_model
    from rl4seg.tent import minimise_entropy

    runtime = ctx.runtime()
    with CaseStore(ctx.path(target) / "cases.h5") as store:
        indices = store.indices("train")
        figures = minimise_entropy(
            load_model(ctx.path(policy), runtime), store, indices, config, budget.batch_size,
            budget.steps(len(indices)), seed, runtime, ctx.out, ctx.checkpoint, ctx.progress, checkpoint_seconds,
        )  # fmt: skip
    ctx.record(**figures)


@stage(Policy, title="mean teacher")
def train_teacher(
    ctx: StageContext,
    config: MeanTeacherConfig,
    training: ContinuedConfig,
    budget: StepBudget,
    policy: Policy,
    target: CaseSet,
    source: CaseSet | None,
    seed: int,
) -> None:
    """Consistency on the target's training images, supervision on the source's where there is one."""
    from contextlib import ExitStack

    from reward_data.case_store import CaseStore
    from rl4seg.continued import LabelledCases
    from rl4seg.mean_teacher import train_mean_teacher
    from rl4seg.policies import load_model

    runtime = ctx.runtime()
    with ExitStack() as stack:
        store = stack.enter_context(CaseStore(ctx.path(target) / "cases.h5"))
        indices, labelled = store.indices("train"), None
        if source is not None:
            cases = stack.enter_context(CaseStore(ctx.path(source) / "cases.h5"))
            labelled = LabelledCases(cases, training.replay)
        figures = train_mean_teacher(
            load_model(ctx.path(policy), runtime), store, indices, labelled, config, training,
            budget.steps(len(indices)), seed, runtime, ctx.out, ctx.checkpoint, ctx.progress,
        )  # fmt: skip
    ctx.record(**figures)
