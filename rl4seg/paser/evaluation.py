"""A router measured on held-out images against what one would do instead, at equal cost and along whole curves.

GFLOP are counted with the overhead that a method has: dropout passes for policy and cascade, the policy net for the
policy; tables also have them without. Oracle and chance have no overhead: they are what a free decision would give.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from reward_data.case_store import CaseStore
from reward_data.types import Bool, Float64, Int64, Progress, no_progress
from rl4seg.configs.paser import PaserEvaluationConfig
from rl4seg.networks import most_probable
from rl4seg.paser import curves
from rl4seg.paser.data import held_out_labelled, labelled
from rl4seg.paser.figures import (
    CASCADE,
    EVERY,
    ORACLE,
    POLICY,
    RANDOM,
    TRAINED,
    Point,
    RouterSpec,
    RoutingFigures,
)
from rl4seg.paser.reward import mean_iou
from rl4seg.paser.router import Router
from rl4seg.paser.table import RoutingTable, routing_table
from rl4seg.runtime import Runtime, derive_seed

FIGURES, TABLE, ACTIONS, EXAMPLES = "routing.json", "table.npz", "actions.npz", "examples.npz"
CHANCE = 84  # branch of the seed tree
SHOWN = 4


class Routed(NamedTuple):
    """A routing of all images: who decides each patch (I, P), which nets ran on it (I, P, N), what came of it."""

    actions: Int64
    ran: Bool
    point: Point


@dataclass(frozen=True)
class Routings:
    """The routings of one table; see `routings`."""

    table: RoutingTable
    spec: RouterSpec
    config: PaserEvaluationConfig
    seed: int

    @property
    def patches(self) -> int:
        """P."""
        return int(self.table.counts.shape[1])

    def at(self, actions: Int64, setting: float, overhead: float, ran: Bool | None = None) -> Point:
        """A point of these actions."""
        return curves.point(self.table, actions, self.spec.costs, overhead, setting, ran)

    def overhead(self, policy: bool) -> float:
        """GFLOP per image of the dropout passes, and of the policy."""
        return self.spec.costs.overhead_gflop(self.spec.routing.passes, policy)

    def everywhere(self, net: int) -> Point:
        """One net on every patch, the smallest beside it on the whole image."""
        return self.at(np.full(self.table.uncertain.shape, net, np.int64), float(net), 0.0)

    def alone(self, net: int) -> Point:
        """One net on whole images in one piece: what one would do without routing."""
        gflop = self.spec.costs.alone_gflop(net)
        return Point(
            setting=float(net), iou=float(mean_iou(self.table.whole[:, net]).mean()), gflop=gflop, bare_gflop=gflop,
            patches=tuple(float(place == net) for place in range(len(self.spec.names))),
        )  # fmt: skip

    def policy(self, threshold: float) -> tuple[Int64, Point]:
        """The policy at a place on its curve."""
        actions = curves.policy_actions(self.table, self.spec.shares, threshold)
        return actions, self.at(actions, threshold, self.overhead(True))

    def policy_curve(self) -> tuple[Point, ...]:
        """From nothing to everything."""
        found = curves.thresholds(self.table, self.spec.shares)
        chosen = found[np.unique(np.linspace(0, len(found) - 1, self.config.points).round().astype(int))]
        return tuple(self.policy(float(t))[1] for t in chosen[::-1])

    def cascades(self) -> dict[str, list[Routed]]:
        """Every cascade: straight to one larger net and through all of them along all shares; bands of uncertainty."""
        nets, free = len(self.spec.names), self.overhead(False)
        shares = np.linspace(0, 1, max(self.config.points, 1 + self.patches)).tolist()
        out: dict[str, list[Routed]] = {}
        for net in range(1, nets):
            found = [curves.cascade_actions(self.table.uncertain, share, net) for share in shares]
            out[f"{CASCADE} to {self.spec.names[net]}"] = [
                Routed(a, curves.ran_once(a, nets), self.at(a, share, free))
                for a, share in zip(found, shares)
            ]
        if nets > 2:
            steps = [curves.sequential_actions(self.table, share) for share in shares]
            out[f"{CASCADE} through all"] = [
                Routed(a, ran, self.at(a, share, free, ran)) for (a, ran), share in zip(steps, shares)
            ]
            bands = [
                (curves.band_actions(self.table.uncertain, ways), ways) for ways in curves.band_shares(nets)
            ]
            out[f"{CASCADE} in bands"] = frontier(
                [Routed(a, curves.ran_once(a, nets), self.at(a, ways[-1], free)) for a, ways in bands]
            )
        return out

    def chance(self, actions: Int64) -> tuple[Int64, Point]:
        """The same number of patches per net at random places: one draw, and the mean point of many."""
        rng = np.random.default_rng(derive_seed(self.seed, CHANCE))
        drawn = [curves.random_actions(actions, rng) for _ in range(self.config.random_draws)]
        points = [self.at(a, 0.0, 0.0) for a in drawn]
        return drawn[0], points[0].model_copy(update={"iou": float(np.mean([p.iou for p in points]))})

    def oracles(self) -> list[Routed]:
        """The best choices by the truth, along lambda."""
        gain, nets = curves.table_gains(self.table), len(self.spec.names)
        shares = self.spec.costs.shares("macs")
        lambdas = curves.oracle_lambdas(gain, shares, max(self.config.points, 100)).tolist()
        found = [(curves.oracle_actions(gain, shares, value), value) for value in lambdas[::-1]]
        return [Routed(a, curves.ran_once(a, nets), self.at(a, value, 0.0)) for a, value in found]


def best_within(found: Sequence[Routed], gflop: float, bare: bool = False) -> Routed:
    """The routing of the highest IoU among those that cost no more; the cheapest where all cost more."""

    def price(routed: Routed) -> float:
        return routed.point.bare_gflop if bare else routed.point.gflop

    inside = [routed for routed in found if price(routed) <= gflop * (1 + 1e-9)]
    return max(inside, key=lambda routed: routed.point.iou) if inside else min(found, key=price)


def frontier(found: Sequence[Routed]) -> list[Routed]:
    """Those that no cheaper one is as good as, cheapest first."""
    kept: list[Routed] = []
    for routed in sorted(found, key=lambda routed: (routed.point.gflop, -routed.point.iou)):
        if not kept or routed.point.iou > kept[-1].point.iou:
            kept.append(routed)
    return kept


def measured(work: Routings, split: str) -> tuple[RoutingFigures, dict[str, Int64]]:
    """Everything about one table, and the actions of the methods of the table of results."""
    spec, table = work.spec, work.table
    rows = {name: work.alone(net) for net, name in enumerate(spec.names)}
    actions: dict[str, Int64] = {}
    threshold = 0.0 if spec.curve is None else spec.curve.threshold(work.config.budget)
    actions[POLICY], rows[POLICY] = work.policy(threshold)
    actions[TRAINED], rows[TRAINED] = work.policy(0.0)
    rows[f"{spec.names[-1]} {EVERY}"] = work.everywhere(len(spec.names) - 1)
    cascades, target = work.cascades(), rows[POLICY]
    every = [routed for found in cascades.values() for routed in found]
    actions[RANDOM], rows[RANDOM] = work.chance(actions[POLICY])
    oracles = work.oracles()
    for name, chosen in (
        (CASCADE, best_within(every, target.gflop)),
        (ORACLE, best_within(oracles, target.bare_gflop, bare=True)),
    ):
        actions[name], rows[name] = chosen.actions, chosen.point
    own = work.policy_curve()
    along = {name: tuple(routed.point for routed in found) for name, found in cascades.items()}
    return RoutingFigures(
        split=split,
        images=len(table.counts),
        nets=spec.names,
        budget=work.config.budget,
        overhead_gflop=work.overhead(True),
        rows=rows,
        curves={
            POLICY: own,
            **along,
            RANDOM: tuple(work.chance(work.policy(p.setting)[0])[1] for p in own),
            ORACLE: tuple(routed.point for routed in oracles),
        },
        over_cascade=tuple((p.gflop, p.iou - best_within(every, p.gflop).point.iou) for p in own),
    ), actions


def evaluate_router(
    router: Router,
    spec: RouterSpec,
    store: CaseStore,
    config: PaserEvaluationConfig,
    seed: int,
    runtime: Runtime,
    out: Path,
    progress: Progress = no_progress,
) -> dict[str, float]:
    """Measure a router on the labelled held-out cases; writes figures, table, actions and a few examples.

    Returns:
        IoU of every method of the table.

    Raises:
        DataError: no held-out case has a label.
        ConfigError: the budget is below what the smallest net costs.
    """
    indices = held_out_labelled(store)
    batches = [labelled(store, np.array([index]), runtime) for index in indices]
    table = routing_table(router, batches, progress, in_one_piece=True)
    figures, actions = measured(Routings(table, spec, config, seed), store.splits[int(indices[0])])
    table.save(out / TABLE)
    save_arrays(out / ACTIONS, actions)
    (out / FIGURES).write_text(figures.model_dump_json(indent=1) + "\n", encoding="utf-8")
    save_arrays(out / EXAMPLES, _examples(router, store, indices[:SHOWN], actions[POLICY], runtime))
    return {name: point.iou for name, point in figures.rows.items()}


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays, compressed."""
    named: dict[str, Any] = dict(arrays)
    np.savez_compressed(path, **named)


def _examples(
    router: Router, store: CaseStore, indices: Int64, actions: Int64, runtime: Runtime
) -> dict[str, np.ndarray]:
    """Images, truths, uncertainty and masks of a few cases: smallest net, routed, largest everywhere."""
    images, truth = labelled(store, indices, runtime)
    look = router.look(images)
    last = len(router.nets) - 1
    routed = router.decided(images, look.logits, torch.from_numpy(actions[: len(indices)]))
    answers = (look.logits, routed, router.alone(images, last))
    masks = torch.stack([most_probable(answer) for answer in answers], 1)
    uncertain: Float64 = look.uncertain.cpu().numpy()
    return {
        "images": (images.cpu().numpy() * 255).round().astype(np.uint8),
        "truth": truth.cpu().numpy().astype(np.uint8),
        "masks": masks.cpu().numpy().astype(np.uint8),
        "uncertain": uncertain.astype(np.float16),
        "actions": actions[: len(indices)].astype(np.uint8),
        "grid": np.array(router.config.grid),
        "ids": np.array([store.ids[i] for i in indices]),
    }


def read_figures(folder: Path) -> RoutingFigures:
    """What `evaluate_router` wrote."""
    return RoutingFigures.model_validate(json.loads((folder / FIGURES).read_text(encoding="utf-8")))
