"""What a routing reaches at what cost: the policy, an entropy cascade, chance and an oracle, from one table.

Every curve is a list of actions (I, P); the score is the mean over images of the mean IoU of the stitched mask, the
price the mean number of patches by net.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch

from reward_data.types import Bool, Float64, Int64
from rl4seg.paser.figures import Costs, Point
from rl4seg.paser.policy import EVERYTHING, NOTHING, choices
from rl4seg.paser.reward import gains, mean_iou, rewards, routed
from rl4seg.paser.table import RoutingTable


def score(table: RoutingTable, actions: Int64) -> float:
    """Mean over images of the IoU of their stitched masks. Shape: (I, P)."""
    return float(mean_iou(routed(table.counts, actions)).mean())


def counts_by_net(actions: Int64, nets: int) -> Int64:
    """Patches by net of every image. Shape: (I, P) -> (I, N)."""
    counts: Int64 = np.stack([(actions == net).sum(1) for net in range(nets)], 1)
    return counts


def point(
    table: RoutingTable,
    actions: Int64,
    costs: Costs,
    overhead: float,
    setting: float,
    ran: Bool | None = None,
) -> Point:
    """Score and price of actions; ``ran`` (I, P, N) where more nets run than decide."""
    nets = table.counts.shape[2]
    used = counts_by_net(actions, nets)
    bare = float(costs.gflop(used if ran is None else ran.sum(1)).mean())
    return Point(
        setting=setting, iou=score(table, actions), gflop=bare + overhead, bare_gflop=bare,
        patches=tuple((used.mean(0) / actions.shape[1]).tolist()),
    )  # fmt: skip


# --- the policy ------------------------------------------------------------------------------------------------------


def policy_actions(table: RoutingTable, shares: Sequence[float], threshold: float) -> Int64:
    """The policy's greedy choices at a place on its curve. Shape: -> (I, P)."""
    actions: Int64 = choices(
        torch.from_numpy(table.logits), torch.tensor(shares, dtype=torch.float64), threshold
    ).numpy()
    return actions


def thresholds(table: RoutingTable, shares: Sequence[float], most: int = 500) -> Float64:
    """Thresholds between those at which some patch changes its net, ascending, with both ends; at most so many."""
    log_pi = torch.from_numpy(table.logits).log_softmax(-1).numpy()
    cost = np.asarray(shares, np.float64)
    found = []
    for a in range(len(cost)):
        for b in range(a):
            if cost[a] != cost[b]:
                found.append((log_pi[..., a] - log_pi[..., b]) / (cost[a] - cost[b]))
    values = np.unique(np.concatenate([v.ravel() for v in found])) if found else np.zeros(1)
    between = (values[1:] + values[:-1]) / 2
    if len(between) > most:
        between = between[np.linspace(0, len(between) - 1, most).round().astype(int)]
    return np.concatenate([[EVERYTHING], between, [NOTHING]])


# --- rivals ----------------------------------------------------------------------------------------------------------


def cascade_actions(order: Float64, share: float, net: int) -> Int64:
    """The ``share`` of all patches with the largest uncertainty goes to one net. Shape: (I, P)."""
    actions = np.zeros(order.shape, np.int64)
    taken = round(share * order.size)
    if taken:
        worst = np.argsort(-order, axis=None, kind="stable")[:taken]
        actions.reshape(-1)[worst] = net
    return actions


def band_actions(order: Float64, shares: Sequence[float]) -> Int64:
    """All patches in order of their uncertainty, the surest to the first net, the least sure to the last.

    ``shares`` of the patches by net sum to 1. Shape: (I, P), (N,) -> (I, P).
    """
    ends = np.rint(np.cumsum(shares) * order.size).astype(int)
    actions = np.zeros(order.size, np.int64)
    ranked = np.argsort(order, axis=None, kind="stable")
    for net in range(1, len(shares)):
        actions[ranked[ends[net - 1] : ends[net]]] = net
    return actions.reshape(order.shape)


def band_shares(nets: int, most: int = 300) -> Float64:
    """Ways of sharing patches out among the nets, as finely as so many ways allow. Shape: (n, N), rows sum to 1."""
    steps = 1
    while math.comb(steps + nets, nets - 1) <= most:
        steps += 1
    cuts = np.array(list(itertools.combinations_with_replacement(range(steps + 1), nets - 1)), np.float64)
    ends = np.concatenate([np.zeros((len(cuts), 1)), cuts, np.full((len(cuts), 1), steps)], 1)
    ways: Float64 = np.diff(ends, axis=1) / steps
    return ways


def sequential_actions(table: RoutingTable, share: float) -> tuple[Int64, Bool]:
    """A cascade through all nets: where a net's entropy is above the threshold, the next one is asked, and paid too.

    The threshold is the quantile of the smallest net's uncertainty that lets ``share`` of the patches through.
    Returns actions (I, P), and which nets ran on which patch (I, P, N) bool.
    """
    nets = table.counts.shape[2]
    limit = np.quantile(table.uncertain, 1 - share) if share < 1 else -np.inf
    actions = np.zeros(table.uncertain.shape, np.int64)
    ran = np.zeros((*actions.shape, nets), np.bool_)
    unsure = table.uncertain > limit
    for net in range(1, nets):
        ran[..., net] = unsure
        actions[unsure] = net
        unsure = unsure & (table.entropies[..., net] > limit)
    return actions, ran


def ran_once(actions: Int64, nets: int) -> Bool:
    """Which nets run where each patch is decided by one look. Shape: (I, P) -> (I, P, N)."""
    ran: Bool = actions[..., None] == np.arange(nets)
    return ran


def random_actions(actions: Int64, rng: np.random.Generator) -> Int64:
    """The same choices for patches drawn at random: equal cost. Shape: (I, P)."""
    mixed: Int64 = rng.permutation(actions.reshape(-1)).reshape(actions.shape)
    return mixed


def oracle_actions(gain: Float64, shares: Sequence[float], lambda_cost: float) -> Int64:
    """The choice of the highest reward, the truth being known. Shape: (I, P, N) -> (I, P)."""
    best: Int64 = rewards(gain, shares, lambda_cost).argmax(-1)
    return best


def oracle_lambdas(gain: Float64, shares: Sequence[float], points: int) -> Float64:
    """Values of lambda from spending everything that helps to spending nothing."""
    rates = gain[..., 1:] / np.maximum(np.asarray(shares)[1:], 1e-12)
    useful = np.sort(rates[rates > 0])
    if not len(useful):
        return np.array([1.0])
    rate = np.quantile(useful, np.linspace(0, 1, points))
    inside: Float64 = rate / (
        1 + rate
    )  # (1 - lambda) gain = lambda cost where lambda / (1 - lambda) = gain / cost
    return np.concatenate([[0.0], inside, [1.0]])


def table_gains(table: RoutingTable) -> Float64:
    """What every choice adds to the IoU of its image."""
    return gains(table.counts, "image_iou")
