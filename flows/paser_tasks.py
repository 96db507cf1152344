"""The stages of PaSeR: open the inputs, make one call into the core, leave the outputs in ``ctx.out``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flows.handing_out import ModelBasis
from flows.stages import StageContext, stage
from flows.store import ArtifactRef, CaseSet, Evaluation, PackageRef, Policy
from reward_data.types import Config
from rl4seg.configs.network import NetworkConfig
from rl4seg.configs.paser import (
    FinetuningConfig,
    MemberConfig,
    PaserEvaluationConfig,
    PolicyTrainingConfig,
    PretrainingConfig,
    RoutingConfig,
    RoutingRewardConfig,
    SharesConfig,
)
from rl4seg.configs.runtime import RuntimeConfig


class CostsRef(ArtifactRef):
    """What the networks cost."""

    kind: Literal["CostsRef"] = "CostsRef"


class RouterRef(ArtifactRef):
    """Networks, routing policy and what is known about them."""

    kind: Literal["RouterRef"] = "RouterRef"


class LatencyRef(ArtifactRef):
    """Measured times on one machine."""

    kind: Literal["LatencyRef"] = "LatencyRef"


class PaserReport(ArtifactRef):
    """What a run of PaSeR has found: its page, its figures and its tables."""

    kind: Literal["PaserReport"] = "PaserReport"


class PaserRecord(Config):
    """One seed: its router, how good it is and how quick."""

    seed: int = Field(description="Which seed.")
    trained: RouterRef = Field(description="The router after the training of the policy.")
    router: RouterRef = Field(description="The router handed out.")
    evaluation: Evaluation = Field(description="Its figures on the held-out cases.")
    latency: LatencyRef = Field(description="Its times.")


@stage(Policy, title="pretrain a net")
def pretrain_net(
    ctx: StageContext,
    member: MemberConfig,
    config: PretrainingConfig,
    class_weights: tuple[float, ...] | None,
    routing: RoutingConfig,
    shares: SharesConfig,
    cases: CaseSet,
    teacher: Policy | None,
    seed: int,
) -> None:
    """Train one network on crops of the size of a patch; ``teacher`` shows the smallest how."""
    from reward_data.case_store import CaseStore
    from rl4seg.paser.data import stage_cases
    from rl4seg.paser.grid import PatchGrid
    from rl4seg.paser.pretraining import pretrain
    from rl4seg.policies import load_model

    runtime = ctx.runtime()
    shown = load_model(ctx.path(teacher), runtime) if teacher else None
    with CaseStore(ctx.path(cases) / "cases.h5") as store:
        crop = PatchGrid(store.shape, routing.grid, routing.margin).window
        chosen = stage_cases(store, shares, seed).pretraining
        figures = pretrain(
            store, chosen, member, config, class_weights, crop, shown, seed, runtime, ctx.out, ctx.checkpoint,
            ctx.progress,
        )  # fmt: skip
    ctx.record(**figures)


@stage(CostsRef, title="costs")
def measure_net_costs(
    ctx: StageContext,
    networks: tuple[NetworkConfig, ...],
    routing: RoutingConfig,
    cases: CaseSet,
    timed_on: RuntimeConfig | None,
) -> None:
    """Count parameters and multiply-adds; with ``timed_on``, measure times on this device as well."""
    from reward_data.case_store import CaseStore
    from rl4seg.paser.learning import costs_of

    runtime = ctx.runtime()
    with CaseStore(ctx.path(cases) / "cases.h5") as store:
        costs = costs_of(networks, store, routing, timed_on is not None, runtime)
    (ctx.out / "costs.json").write_text(costs.model_dump_json(indent=1) + "\n", encoding="utf-8")


@stage(RouterRef, title="policy")
def train_policy(
    ctx: StageContext,
    names: tuple[str, ...],
    nets: tuple[Policy, ...],
    routing: RoutingConfig,
    reward: RoutingRewardConfig,
    costs: CostsRef,
    config: PolicyTrainingConfig,
    shares: SharesConfig,
    cases: CaseSet,
    seed: int,
) -> None:
    """Train the routing policy by REINFORCE; the nets stay as they are."""
    from reward_data.case_store import CaseStore
    from rl4seg.paser.data import stage_cases
    from rl4seg.paser.figures import Costs
    from rl4seg.paser.learning import learn_routing
    from rl4seg.paser.nets import load_nets

    runtime = ctx.runtime()
    known = Costs.model_validate_json((ctx.path(costs) / "costs.json").read_text(encoding="utf-8"))
    with CaseStore(ctx.path(cases) / "cases.h5") as store:
        loaded = load_nets(names, [ctx.path(net) for net in nets], runtime)
        figures = learn_routing(
            loaded, store, stage_cases(store, shares, seed).policy, routing, reward, known, config, seed, runtime,
            ctx.out, ctx.checkpoint, ctx.progress,
        )  # fmt: skip
    ctx.record(**figures)


@stage(RouterRef, title="finetune")
def finetune(
    ctx: StageContext,
    router: RouterRef,
    reward: RoutingRewardConfig,
    policy: PolicyTrainingConfig,
    config: FinetuningConfig,
    class_weights: tuple[float, ...] | None,
    shares: SharesConfig,
    cases: CaseSet,
    seed: int,
) -> None:
    """Train the larger nets and the policy in turn."""
    from reward_data.case_store import CaseStore
    from rl4seg.paser.data import stage_cases
    from rl4seg.paser.learning import finetune_router
    from rl4seg.paser.package import load_router

    runtime = ctx.runtime()
    loaded, spec = load_router(ctx.path(router), runtime)
    with CaseStore(ctx.path(cases) / "cases.h5") as store:
        figures = finetune_router(
            loaded, spec, store, stage_cases(store, shares, seed).finetuning, reward, policy, config, class_weights,
            seed, runtime, ctx.out, ctx.checkpoint, ctx.progress,
        )  # fmt: skip
    ctx.record(**figures)


@stage(RouterRef, title="calibrate")
def calibrate_router(
    ctx: StageContext, router: RouterRef, shares: SharesConfig, budget: float, cases: CaseSet, seed: int
) -> None:
    """Find the threshold of every budget on labelled images that are not tested on."""
    from reward_data.case_store import CaseStore
    from rl4seg.paser.learning import calibrated
    from rl4seg.paser.package import load_router, save_router

    runtime = ctx.runtime()
    loaded, spec = load_router(ctx.path(router), runtime)
    with CaseStore(ctx.path(cases) / "cases.h5") as store:
        spec = calibrated(loaded, spec, store, shares, budget, seed, runtime)
    save_router(loaded, spec, ctx.out)
    ctx.record(threshold=spec.threshold)


@stage(Evaluation, title="evaluate")
def evaluate_routing(
    ctx: StageContext, config: PaserEvaluationConfig, router: RouterRef, cases: CaseSet, seed: int
) -> None:
    """Measure a router and its rivals on the labelled held-out cases."""
    from reward_data.case_store import CaseStore
    from rl4seg.paser.evaluation import evaluate_router
    from rl4seg.paser.package import load_router

    runtime = ctx.runtime()
    loaded, spec = load_router(ctx.path(router), runtime)
    with CaseStore(ctx.path(cases) / "cases.h5") as store:
        figures = evaluate_router(loaded, spec, store, config, seed, runtime, ctx.out, ctx.progress)
    ctx.record(**{f"iou_{name}": value for name, value in figures.items()})


@stage(LatencyRef, title="latency")
def time_routing(
    ctx: StageContext,
    config: PaserEvaluationConfig,
    router: RouterRef,
    evaluation: Evaluation,
    cases: CaseSet,
    timed_on: RuntimeConfig,
) -> None:
    """Measure the time per image of a router and its rivals on this device."""
    from reward_data.case_store import CaseStore
    from rl4seg.paser.evaluation import read_figures
    from rl4seg.paser.latency import LATENCY, measure_latency
    from rl4seg.paser.package import load_router

    runtime = ctx.runtime()
    loaded, spec = load_router(ctx.path(router), runtime)
    folder = ctx.path(evaluation)
    with CaseStore(ctx.path(cases) / "cases.h5") as store:
        found = measure_latency(
            loaded, spec, read_figures(folder), store, folder, config, runtime, ctx.progress
        )
    (ctx.out / LATENCY).write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")


@stage(PackageRef, title="package")
def package_router(ctx: StageContext, basis: ModelBasis, router: RouterRef, cases: CaseSet) -> None:
    """Put the router into one folder with all that using it takes."""
    from rl4seg.package import write_spec
    from rl4seg.paser.package import FOLDER, load_router, save_router
    from rl4seg.policies import save_model

    loaded, spec = load_router(ctx.path(router), ctx.runtime())
    save_model(loaded.nets.models[0], ctx.out)
    save_router(loaded, spec, ctx.out / FOLDER)
    write_spec(basis.package_spec(ctx.path(cases) / "cases.h5", nets=list(spec.names)), ctx.out)


@stage(PaserReport, title="report")
def write_paser_report(
    ctx: StageContext, run_name: str, config_yaml: str, records: tuple[PaserRecord, ...]
) -> None:
    """Write ``report.html``, ``paser.json`` and the tables ``paser.csv`` and ``curves.csv``."""
    from flows.reporting.paser import SeedFolder, collect, write

    folders = [
        SeedFolder(
            record.seed,
            ctx.path(record.router),
            ctx.path(record.trained),
            ctx.path(record.evaluation),
            ctx.path(record.latency),
        )
        for record in records
    ]
    write(collect(run_name, config_yaml, folders), folders, ctx.out)
