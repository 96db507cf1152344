"""PaSeR as a flow: several networks, and a policy that spends the large ones only where they pay.

Read it from the bottom: `paser` is the whole story,

    import -> costs -> large, medium -> tiny (shown by the large one) -> policy -> finetune -> calibrate
           -> evaluate -> time -> package -> report

Every call below is a cached stage: run the flow a second time and each one answers from the artifact store.
"""

from __future__ import annotations

from flows import paser_config, preflight
from flows.config_loader import dump_config
from flows.handing_out import ModelBasis, publish_package, publish_report
from flows.paser_config import PaserConfig
from flows.paser_tasks import (
    CostsRef,
    PaserRecord,
    PaserReport,
    RouterRef,
    calibrate_router,
    evaluate_routing,
    finetune,
    measure_net_costs,
    package_router,
    pretrain_net,
    time_routing,
    train_policy,
    write_paser_report,
)
from flows.prefect_settings import flow
from flows.restart import restarted_from
from flows.run_environment import run_environment
from flows.stages import current_environment
from flows.store import CaseSet, Policy
from flows.tasks import import_dataset
from rl4seg.paser.figures import Costs


def imported(config: PaserConfig) -> CaseSet:
    """The labelled images on the networks' grid."""
    return import_dataset.named("import")(*preflight.dataset_inputs(config.dataset), config.preprocess)


def pretrained(config: PaserConfig, prefix: str, cases: CaseSet, seed: int) -> tuple[Policy, ...]:
    """All networks, the largest trained first: it shows the smallest how."""
    found: dict[int, Policy] = {}
    for place in reversed(range(len(config.nets))):
        member = config.nets[place]
        learned, last = config.pretraining.distillation, len(config.nets) - 1
        distil = learned.kind != "none" and (place == 0 or (learned.into == "all" and place < last))
        found[place] = pretrain_net.named(f"{prefix}{member.name} · pretrain")(
            member, config.pretraining, config.class_weights, config.routing, config.shares, cases,
            found[last] if distil else None, seed,
        )  # fmt: skip
    return tuple(found[place] for place in range(len(config.nets)))


def net_costs(config: PaserConfig, cases: CaseSet) -> CostsRef:
    """What the networks cost, which their weights do not change; refuses a budget that cannot be kept.

    Raises:
        ConfigError: the smallest net alone is above the budget.
    """
    timed_on = config.runtime if config.reward.cost == "latency" else None
    members = tuple(member.network for member in config.nets)
    costs: CostsRef = measure_net_costs.named("costs")(members, config.routing, cases, timed_on)
    here = current_environment()
    if here.plan is None:
        known = Costs.model_validate_json((here.store.path(costs) / "costs.json").read_text(encoding="utf-8"))
        known.check_budget(config.routing, config.evaluation.budget)
    return costs


def one_seed(config: PaserConfig, cases: CaseSet, costs: CostsRef, seed: int) -> PaserRecord:
    """Everything of one seed."""
    prefix = f"seed {seed} · " if len(config.all_seeds()) > 1 else ""
    names = tuple(member.name for member in config.nets)
    # The networks, each on crops of the images of the first stage.
    nets = pretrained(config, prefix, cases, seed)
    # The policy on images of its own, then policy and nets in turn on others.
    trained: RouterRef = train_policy.named(f"{prefix}policy")(
        names, nets, config.routing, config.reward, costs, config.policy, config.shares, cases, seed
    )
    router = trained
    if config.finetuning.steps:
        router = finetune.named(f"{prefix}finetune")(
            router,
            config.reward,
            config.policy,
            config.finetuning,
            config.class_weights,
            config.shares,
            cases,
            seed,
        )
    # Which threshold spends how much; then what it is worth, and how long it takes.
    router = calibrate_router.named(f"{prefix}calibrate")(
        router, config.shares, config.evaluation.budget, cases, seed
    )
    evaluation = evaluate_routing.named(f"{prefix}evaluate")(config.evaluation, router, cases, seed)
    latency = time_routing.named(f"{prefix}latency")(
        config.evaluation, router, evaluation, cases, config.runtime
    )
    return PaserRecord(seed=seed, trained=trained, router=router, evaluation=evaluation, latency=latency)


def stages(config: PaserConfig) -> PaserReport:
    """Every stage of a run, from the images to the report; the router of the first seed is handed out."""
    cases = imported(config)
    costs = net_costs(config, cases)
    records = tuple(one_seed(config, cases, costs, seed) for seed in config.all_seeds())
    basis = ModelBasis(labels=config.dataset.labels, preprocess=config.preprocess)
    publish_package(package_router(basis, records[0].router, cases), config.name)
    report = write_paser_report(config.name, dump_config(config), records)
    publish_report(report)
    return report


@flow(
    name="paser",
    flow_run_name="paser {config.name}",
    persist_result=False,
    validate_parameters=True,
)
def paser(config: PaserConfig, restart_from: str | None = None) -> PaserReport:
    """Train networks and a routing policy, and compare it with its rivals; the result is the report's artifact.

    Args:
        config: What to run.
        restart_from: A stage that runs anew with all that follow from it, e.g. policy; empty = none.
    """
    with run_environment(config):
        paser_config.check(config)
        with restarted_from(restart_from, stages, config):
            return stages(config)
