"""A router from trained nets: costs, then the policy by REINFORCE, then nets and policy in turn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from reward_data.case_store import CaseStore
from reward_data.class_statistics import check_weights
from reward_data.types import Int64, Progress, no_progress
from rl4seg.configs.network import NetworkConfig
from rl4seg.configs.paser import (
    FinetuningConfig,
    PolicyTrainingConfig,
    RoutingConfig,
    RoutingRewardConfig,
    SharesConfig,
)
from rl4seg.histories import write_history
from rl4seg.paser.budget import calibrate
from rl4seg.paser.costs import measure_costs
from rl4seg.paser.data import calibrated_on, labelled, stage_cases, views
from rl4seg.paser.figures import Costs, RouterSpec
from rl4seg.paser.finetuning import Finetuning, finetune_routing
from rl4seg.paser.grid import PatchGrid
from rl4seg.paser.nets import Nets
from rl4seg.paser.package import save_router
from rl4seg.paser.policy import feature_count, new_policy
from rl4seg.paser.policy_training import train_routing
from rl4seg.paser.reward import gains, rewards
from rl4seg.paser.router import Router
from rl4seg.paser.table import routing_table
from rl4seg.policies import new_model, spec_for
from rl4seg.runtime import Runtime
from rl4seg.training import last_means

VALIDATION = "validation images"
INIT = 82  # branch of the seed tree


def costs_of(
    networks: Sequence[NetworkConfig], store: CaseStore, routing: RoutingConfig, timed: bool, runtime: Runtime
) -> Costs:
    """Count, and where ``timed`` measure, fresh nets and a policy on images of the store's shape."""
    models = [new_model(spec_for(network, store), 0, INIT) for network in networks]
    for model in models:
        model.network.to(runtime.device)
    nets = Nets(tuple(str(place) for place in range(len(models))), tuple(models))
    policy = new_policy(routing, store.num_classes, store.channels, len(nets)).to(runtime.device).eval()
    cells = [count * routing.resolution for count in routing.grid]
    read = (feature_count(routing.inputs, store.num_classes, store.channels), *cells)
    grid = PatchGrid(store.shape, routing.grid, routing.margin)
    return measure_costs(nets, policy, read, store.channels, grid, runtime.device, timed)


def learn_routing(
    nets: Nets,
    store: CaseStore,
    indices: Int64,
    routing: RoutingConfig,
    reward: RoutingRewardConfig,
    costs: Costs,
    config: PolicyTrainingConfig,
    seed: int,
    runtime: Runtime,
    out: Path,
    checkpoint: Path,
    progress: Progress = no_progress,
) -> dict[str, float]:
    """Train a fresh policy on ``indices`` with the nets as they are; writes the router and ``history.csv``.

    Returns:
        Means over the last fifth of the steps: greedy reward, the best there is, entropy.

    Raises:
        ConfigError: class weights that do not fit the classes.
    """
    if reward.class_weights is not None:
        check_weights(reward.class_weights, store.class_names)
    policy = new_policy(routing, store.num_classes, store.channels, len(nets), seed, INIT).to(runtime.device)
    shares = costs.shares(reward.cost)
    router = Router(nets, policy, routing, shares)
    table = routing_table(router, views(store, indices, config.augment, config.views, seed, runtime))
    earned = rewards(gains(table.counts, reward.gain, reward.class_weights), shares, reward.lambda_cost)
    history = train_routing(
        policy,
        torch.from_numpy(table.read),
        torch.from_numpy(earned),
        config,
        seed,
        runtime,
        checkpoint,
        progress,
    )
    save_router(router, RouterSpec(names=nets.names, routing=routing, shares=shares, costs=costs), out)
    return _figures(history, out)


def finetune_router(
    router: Router,
    spec: RouterSpec,
    store: CaseStore,
    indices: Int64,
    reward: RoutingRewardConfig,
    policy: PolicyTrainingConfig,
    config: FinetuningConfig,
    class_weights: tuple[float, ...] | None,
    seed: int,
    runtime: Runtime,
    out: Path,
    checkpoint: Path,
    progress: Progress = no_progress,
) -> dict[str, float]:
    """Train the larger nets and the policy in turn on ``indices``; writes the router and ``history.csv``."""
    weights = None if class_weights is None else torch.tensor(class_weights, device=runtime.device)
    work = Finetuning(router, reward, policy, config, weights)
    images, truth = labelled(store, indices, runtime)
    history = finetune_routing(work, images, truth, seed, runtime, checkpoint, progress)
    save_router(router, spec, out)
    return _figures(history, out)


def _figures(history: list[dict[str, float]], out: Path) -> dict[str, float]:
    write_history(out / "history.csv", history, every=max(1, len(history) // 200))
    means = last_means(history)
    shown = {name: value for name, value in means.items() if name in ("reward", "best", "entropy")}
    return {"steps": float(len(history)), **shown}


def calibrated(
    router: Router,
    spec: RouterSpec,
    store: CaseStore,
    shares: SharesConfig,
    budget: float,
    seed: int,
    runtime: Runtime,
) -> RouterSpec:
    """The spec with its curve of budgets, the policy standing at ``budget``.

    Raises:
        ConfigError: the budget is below what the smallest net costs.
    """
    indices, basis = calibrated_on(store, stage_cases(store, shares, seed))
    table = routing_table(router, [labelled(store, np.array([index]), runtime) for index in indices])
    overhead = spec.costs.overhead_gflop(spec.routing.passes)
    if shares.together and basis != VALIDATION:
        basis = "training images, which the nets have learned from as well"
    curve = calibrate(table, spec.costs, spec.shares, overhead, basis)
    return spec.model_copy(update={"curve": curve, "threshold": curve.threshold(budget)})
