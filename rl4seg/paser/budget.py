"""One threshold for a budget: calibrated on labelled images that are not tested on, used at prediction."""

from __future__ import annotations

from collections.abc import Sequence

from rl4seg.paser.curves import point, policy_actions, thresholds
from rl4seg.paser.figures import BudgetCurve, Costs
from rl4seg.paser.table import RoutingTable


def calibrate(
    table: RoutingTable, costs: Costs, shares: Sequence[float], overhead: float, basis: str
) -> BudgetCurve:
    """The curve of a policy on labelled images; of thresholds of equal cost, the middle one."""
    largest = costs.alone_gflop(table.counts.shape[2] - 1)
    points = [
        point(table, policy_actions(table, shares, float(t)), costs, overhead, float(t))
        for t in thresholds(table, shares)[::-1]
    ]
    by_cost: dict[float, list[tuple[float, float]]] = {}
    for p in points:
        by_cost.setdefault(round(p.gflop / largest, 9), []).append((p.setting, p.iou))
    kept = sorted((share, found[len(found) // 2]) for share, found in by_cost.items())
    return BudgetCurve(
        thresholds=tuple(t for _, (t, _) in kept),
        shares=tuple(share for share, _ in kept),
        iou=tuple(iou for _, (_, iou) in kept),
        images=len(table.counts),
        basis=basis,
    )
