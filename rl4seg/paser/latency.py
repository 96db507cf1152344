"""Measured time per image of every method, with compute that is truly skipped.

The methods take turns: what else the machine does meets all of them alike. Of each the median over the turns counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from reward_data.case_store import CaseStore
from reward_data.types import Bool, Int64, Progress, no_progress
from rl4seg.configs.paser import PaserEvaluationConfig
from rl4seg.paser.data import held_out_labelled, labelled
from rl4seg.paser.evaluation import ACTIONS, TABLE, Routings, best_within
from rl4seg.paser.figures import (
    BARE,
    CASCADE,
    EVERY,
    ORACLE,
    POLICY,
    RANDOM,
    TRAINED,
    Latency,
    RouterSpec,
    RoutingFigures,
)
from rl4seg.paser.router import Router
from rl4seg.paser.table import RoutingTable
from rl4seg.runtime import Runtime

LATENCY = "latency.json"
MOST_IMAGES, CURVE_POINTS = 12, 8
T = TypeVar("T")
Work = Callable[[Tensor, int], object]


def in_turns(
    works: Mapping[str, Work], images: list[Tensor], repeats: int, device: torch.device, progress: Progress
) -> dict[str, float]:
    """ms per image of each; one turn before the first does not count."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            _wait(device)
            started = time.perf_counter()
            for place, image in enumerate(images):
                work(image, place)
            _wait(device)
            if turn:
                times[name].append(1e3 * (time.perf_counter() - started) / len(images))
        progress(turn + 1, repeats + 1)
    return {name: float(np.median(found)) for name, found in times.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_latency(
    router: Router,
    spec: RouterSpec,
    figures: RoutingFigures,
    store: CaseStore,
    evaluation: Path,
    config: PaserEvaluationConfig,
    runtime: Runtime,
    progress: Progress = no_progress,
) -> Latency:
    """Time every method of the table, and policy and cascade along their curves, on held-out images."""
    indices = held_out_labelled(store)
    timed = _evenly(len(indices), MOST_IMAGES)
    images = [labelled(store, np.array([index]), runtime)[0] for index in indices[timed]]
    with np.load(evaluation / ACTIONS) as file:
        actions: dict[str, Int64] = {name: file[name][timed] for name in file.files}
    rest = Routings(RoutingTable.load(evaluation / TABLE), spec, config, 0)
    cascades = [routed for found in rest.cascades().values() for routed in found]
    own = _spread([rest.policy(p.setting) for p in rest.policy_curve()])
    rivals = _spread([best_within(cascades, point.gflop) for _, point in own])
    nets, last = router.nets.names, len(router.nets) - 1
    works: dict[str, Work] = {name: _alone(router, net) for net, name in enumerate(nets)}
    works[f"{nets[last]} {EVERY}"] = _given(router, np.full_like(actions[POLICY], last))
    works |= {name: _thinking(router, actions[name]) for name in (POLICY, TRAINED)}
    works[CASCADE] = _cascading(router, best_within(cascades, figures.rows[POLICY].gflop).ran[timed])
    works |= {name: _given(router, actions[name]) for name in (RANDOM, ORACLE)}
    works[BARE] = _given(router, actions[POLICY])
    works |= {f"own {i}": _thinking(router, found[timed]) for i, (found, _) in enumerate(own)}
    works |= {f"rival {i}": _cascading(router, routed.ran[timed]) for i, routed in enumerate(rivals)}
    with torch.no_grad():
        ms = in_turns(works, images, config.repeats, runtime.device, progress)
    return Latency(
        device=runtime.device.type,
        threads=torch.get_num_threads(),
        images=len(images),
        ms={name: value for name, value in ms.items() if not name.startswith(("own ", "rival "))},
        curve=tuple((ms[f"own {i}"], p.iou, p.gflop) for i, (_, p) in enumerate(own)),
        cascade=tuple((ms[f"rival {i}"], r.point.iou, r.point.gflop) for i, r in enumerate(rivals)),
    )


def _spread(found: Sequence[T]) -> list[T]:
    """A few of them, the first and the last among them."""
    return [found[place] for place in _evenly(len(found), CURVE_POINTS)]


def _evenly(count: int, most: int) -> Int64:
    """At most so many places out of ``count``, the first and the last among them."""
    places: Int64 = np.unique(np.linspace(0, count - 1, most).round().astype(np.int64))
    return places


def _alone(router: Router, net: int) -> Work:
    """One net on the whole image in one piece."""
    return lambda image, _: router.nets.whole(image, net).log_softmax(1)


def _thinking(router: Router, actions: Int64) -> Work:
    """Smallest net, passes, policy; then the patches as the actions say, which are the policy's own."""

    def work(image: Tensor, place: int) -> Tensor:
        look = router.look(image)
        router.choose(look)
        return router.decided(image, look.logits, torch.from_numpy(actions[place : place + 1]))

    return work


def _cascading(router: Router, ran: Bool) -> Work:
    """Smallest net and passes, then every net on the patches that it is asked for, and the stitching."""

    def work(image: Tensor, place: int) -> Tensor:
        look = router.look(image)
        grid = router.grid(tuple(image.shape[2:]))
        out = look.logits.log_softmax(1)
        for net in range(1, len(router.nets)):
            patches = np.flatnonzero(ran[place, :, net])
            if len(patches):
                chosen = torch.from_numpy(np.stack([np.zeros_like(patches), patches], 1))
                grid.lay(
                    router.nets.on_patches(net, image, grid, chosen, router.batch).log_softmax(1), chosen, out
                )
        return out

    return work


def _given(router: Router, actions: Int64) -> Work:
    """Smallest net, then the patches."""

    def work(image: Tensor, place: int) -> Tensor:
        return router.decided(image, router.nets.whole(image), torch.from_numpy(actions[place : place + 1]))

    return work
