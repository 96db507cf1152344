"""What choosing windows is worth: mIoU against windows and against measured seconds per image."""

from __future__ import annotations

import csv
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reward_data.case_store import CaseStore
from reward_data.errors import DataError
from reward_data.types import Int64, Progress, no_progress
from rl4seg.evaluate import held_out
from rl4seg.patchdrop.grid import first_of, patch_count
from rl4seg.patchdrop.networks import KeepNetwork
from rl4seg.patchdrop.window_policy import keep_probabilities, tables_of
from rl4seg.patchdrop.windows import CoarseView, WindowSegmenter, WindowTable, cell_entropy

COARSE, FULL, POLICY, ENTROPY, RANDOM, ORACLE = (
    "coarse only", "full sliding window", "policy", "entropy windows", "random windows", "oracle windows",
)  # fmt: skip
CASES, SUMMARY, CURVES = "cases.csv", "summary.json", "curves.csv"
SHARES = (0, 1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 1)  # of the cells, in the curves
DEALT = 93  # branch of the seed tree


@dataclass(frozen=True)
class WindowEvaluator:
    """Both networks and a policy on the held-out images of a store."""

    segmenter: WindowSegmenter
    policy: KeepNetwork
    store: CaseStore
    draws: int
    seed: int

    @property
    def indices(self) -> Int64:
        """The labelled held-out images.

        Raises:
            DataError: there are none.
        """
        places = np.array([i for i in held_out(self.store) if self.store.has_label[i]], np.int64)
        if len(places) == 0:
            raise DataError(
                "no held-out image with a label: set dataset.test_fraction, or give a val or test split"
            )
        return places


def orders_of(table: WindowTable, probabilities: Tensor, grid: tuple[int, ...]) -> dict[str, Tensor]:
    """The order in which each chooser takes windows, the best first. Shape: (N, P) each.

    oracle: by how many more pixels the fine network gets right, which needs the truth.
    """
    right = [counts.diagonal(dim1=-2, dim2=-1).sum(-1) for counts in (table.fine, table.coarse)]
    view = CoarseView(table.policy_input, table.policy_input)
    values = {POLICY: probabilities, ENTROPY: cell_entropy(view, grid), ORACLE: right[0] - right[1]}
    return {name: value.argsort(dim=1, descending=True, stable=True) for name, value in values.items()}


def random_orders(count: int, patches: int, draws: int, seed: int) -> Tensor:
    """Windows in random orders. Shape: (draws, N, P)."""
    rng = np.random.default_rng([seed, DEALT])
    tiled = np.tile(np.arange(patches), (draws * count, 1))
    return torch.from_numpy(rng.permuted(tiled, axis=1)).reshape(draws, count, patches)


def evaluate_windows(
    evaluator: WindowEvaluator, out: Path, progress: Progress = no_progress
) -> dict[str, float]:
    """Measure every arm on the held-out images; writes ``cases.csv``, ``curves.csv`` and ``summary.json``.

    Entropy, random and oracle windows are as many as the policy keeps, image by image.

    Raises:
        DataError: no held-out image has a label.
    """
    segmenter, indices = evaluator.segmenter, evaluator.indices
    table = tables_of(segmenter, evaluator.store, indices, False, progress)
    probabilities, keep = keep_probabilities(evaluator.policy, table.policy_input, segmenter.runtime)
    orders, patches = orders_of(table, probabilities, segmenter.grid), patch_count(segmenter.grid)
    dealt = random_orders(len(indices), patches, evaluator.draws, evaluator.seed).to(keep.device)
    counts, rows = keep.sum(1), torch.arange(len(indices), device=keep.device)

    def miou(kept: Tensor) -> Tensor:
        return table.miou(rows, kept[:, None])[:, 0].double()

    def blind(numbers: Tensor) -> Tensor:
        return torch.stack([miou(first_of(order, numbers)) for order in dealt]).mean(0)

    arms = {
        COARSE: (miou(torch.zeros_like(keep)), torch.zeros_like(counts)),
        FULL: (miou(torch.ones_like(keep)), torch.full_like(counts, patches)),
        POLICY: (miou(keep), counts),
        ENTROPY: (miou(first_of(orders[ENTROPY], counts)), counts),
        RANDOM: (blind(counts), counts),
        ORACLE: (miou(first_of(orders[ORACLE], counts)), counts),
    }
    figures = {
        name: {"miou": float(value.mean()), "windows": float(used.double().mean())}
        for name, (value, used) in arms.items()
    }
    _write_cases(evaluator, indices, arms, keep, out / CASES)
    curves = []
    for share in SHARES:
        numbers = torch.full_like(counts, round(share * patches))
        values = {name: miou(first_of(order, numbers)) for name, order in orders.items()}
        values[RANDOM] = blind(numbers)
        curves += [(name, int(numbers[0]), float(value.mean())) for name, value in values.items()]
    with (out / CURVES).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("chooser", "windows", "miou"))
        writer.writerows((name, number, f"{value:.6g}") for name, number, value in curves)
    content = {"images": len(indices), "grid": segmenter.grid, "arms": figures}
    (out / SUMMARY).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return {f"miou {name}": figure["miou"] for name, figure in figures.items()}


def _write_cases(
    evaluator: WindowEvaluator,
    indices: Int64,
    arms: dict[str, tuple[Tensor, Tensor]],
    keep: Tensor,
    path: Path,
) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("case", "arm", "miou", "windows", "keep"))
        for place, index in enumerate(indices):
            bits = "".join("1" if kept else "0" for kept in keep[place].tolist())
            for name, (value, used) in arms.items():
                row = (evaluator.store.ids[int(index)], name, f"{float(value[place]):.6g}", int(used[place]))
                writer.writerow((*row, bits if name == POLICY else ""))


# --- seconds ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def time_windows(evaluator: WindowEvaluator, repeats: int) -> dict[str, float]:
    """Measured seconds per image of every arm, dropped windows truly skipped; everything it needs is counted.

    The arms take turns on every image; the median over rounds, then the mean over images.
    """
    images = [
        evaluator.segmenter.runtime.tensor(evaluator.store.images([int(i)])[0]) for i in evaluator.indices
    ]
    arms = _ways(evaluator)
    for work in arms.values():
        work(images[0])
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for image in images:
        rounds = [{name: _seconds(work, image) for name, work in arms.items()} for _ in range(repeats)]
        for name in arms:
            seconds[name].append(statistics.median(row[name] for row in rounds))
    return {name: statistics.mean(values) for name, values in seconds.items()}


def _ways(evaluator: WindowEvaluator) -> dict[str, Callable[[Tensor], Tensor]]:
    """How each arm makes a mask (*G) of an image (C, *G)."""
    segmenter, patches = evaluator.segmenter, patch_count(evaluator.segmenter.grid)
    rng = np.random.default_rng([evaluator.seed, DEALT])

    def policy(view: CoarseView) -> Tensor:
        return keep_probabilities(evaluator.policy, view.policy_input, segmenter.runtime)[1][0]

    usual = round(
        statistics.mean(
            int(policy(segmenter.look(segmenter.runtime.tensor(evaluator.store.images([int(i)])))).sum())
            for i in evaluator.indices
        )
    )

    def entropy(view: CoarseView) -> Tensor:
        order = cell_entropy(view, segmenter.grid).argsort(dim=1, descending=True, stable=True)
        return first_of(order, torch.tensor([usual], device=order.device))[0]

    def random(view: CoarseView) -> Tensor:
        order = torch.from_numpy(rng.permutation(patches)).to(view.probabilities.device)
        return first_of(order, torch.tensor([usual], device=order.device))[0]

    def way(choose: Callable[[CoarseView], Tensor]) -> Callable[[Tensor], Tensor]:
        def work(image: Tensor) -> Tensor:
            view = segmenter.look(image[None])
            return segmenter.segment(image, view, choose(view))

        return work

    def full(image: Tensor) -> Tensor:
        return segmenter.segment_fully(image, evaluator.store.num_classes)

    def coarse(image: Tensor) -> Tensor:
        return segmenter.segment_coarsely(segmenter.look(image[None]), tuple(image.shape[1:]))[0]

    return {COARSE: coarse, FULL: full, POLICY: way(policy), ENTROPY: way(entropy), RANDOM: way(random)}


def _seconds(work: Callable[[Tensor], Tensor], image: Tensor) -> float:
    if image.device.type == "cuda":
        torch.cuda.synchronize(image.device)
    start = time.perf_counter()
    work(image)
    if image.device.type == "cuda":
        torch.cuda.synchronize(image.device)
    return time.perf_counter() - start
