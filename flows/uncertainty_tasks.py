"""The stage of `rl4seg uncertainty`: open the run's artifacts, one call into the core, leave its files."""

from __future__ import annotations

from typing import Literal

from flows.stages import StageContext, stage
from flows.store import ArtifactRef, CaseSet, Policy, RewardNet
from rl4seg.configs.uncertainty import UncertaintyConfig


class Uncertainty(ArtifactRef):
    """How the ways to be sure of a policy's masks compare."""

    kind: Literal["Uncertainty"] = "Uncertainty"


@stage(Uncertainty, title="uncertainty")
def measure_uncertainty(
    ctx: StageContext,
    config: UncertaintyConfig,
    policy: Policy,
    reward_net: RewardNet | None,
    members: tuple[Policy, ...],
    target: CaseSet,
    source: CaseSet | None,
    missing: dict[str, str],
    seed: int,
) -> None:
    """Judge the policy's masks of held-out target cases by every method. ``missing``: methods and how to get them.

    ``seconds.json`` holds wall times and differs from build to build; nothing is made from this artifact.
    """
    from reward_data.case_store import CaseStore
    from rl4seg.confidence import Panel, softmax_temperature
    from rl4seg.evaluate import held_out
    from rl4seg.policies import load_model
    from rl4seg.reward_net import load_reward_model
    from rl4seg.uncertainty import measure, missing_methods

    runtime = ctx.runtime()
    reward = load_reward_model(ctx.path(reward_net), runtime) if reward_net else None
    others = [load_model(ctx.path(member), runtime) for member in members]
    judged, temperature = load_model(ctx.path(policy), runtime), None
    if source is not None:
        with CaseStore(ctx.path(source) / "cases.h5") as labelled:
            temperature = softmax_temperature(judged, labelled, runtime)
    panel = Panel(judged, reward, others, temperature, config, seed, runtime)
    with CaseStore(ctx.path(target) / "cases.h5") as store:
        content = measure(
            panel, store, held_out(store), missing_methods(panel) | missing, ctx.out, ctx.progress
        )
    ctx.record(cases=content["cases"], methods=len(content["methods"]))
