"""All that a routing can need to know of a set of images: every net's confusion on every patch, and what can be seen.

With it every policy, cascade and oracle is scored without running a network again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reward_data.types import Float32, Float64, Int64, Progress, no_progress
from rl4seg.networks import most_probable
from rl4seg.paser.grid import PatchGrid
from rl4seg.paser.reward import confusion
from rl4seg.paser.router import Router
from rl4seg.paser.uncertainty import entropy

SAVED = ("counts", "whole", "uncertain", "entropies", "logits")


@dataclass(frozen=True)
class RoutingTable:
    """I images, P patches, N nets, K classes.

    ``counts`` (I, P, N, K, K): confusion of each net on each patch. ``whole`` (I, N, K, K): of each net that sees the
    image in one piece; (I, 0, K, K) where that was not asked for. ``uncertain`` (I, P): mean uncertainty of the
    smallest net. ``entropies`` (I, P, N): mean entropy of each net's plain answer. ``read`` (I, F, ...): what the
    policy reads. ``logits`` (I, P, N): what it says.
    """

    counts: Int64
    whole: Int64
    uncertain: Float64
    entropies: Float64
    read: Float32
    logits: Float64

    def save(self, path: Path) -> None:
        """Write without what the policy reads, which can be made again."""
        np.savez(path, **{name: getattr(self, name) for name in SAVED})

    @classmethod
    def load(cls, path: Path) -> RoutingTable:
        """Read what `save` wrote; ``read`` is empty."""
        with np.load(path) as file:
            parts = {name: file[name] for name in SAVED}
        return cls(read=np.zeros((len(parts["counts"]), 0), np.float32), **parts)


@torch.no_grad()
def routing_table(
    router: Router,
    batches: list[tuple[Tensor, Tensor]],
    progress: Progress = no_progress,
    in_one_piece: bool = False,
) -> RoutingTable:
    """Run every net on every patch of labelled images, batch by batch: images (B, C, *S), truth (B, *S) int64.

    With ``in_one_piece`` also on whole images, which takes as long again.
    """
    router.nets.eval()
    router.policy.eval()
    parts = []
    for done, (images, truth) in enumerate(batches):
        parts.append(_part(router, images, truth, in_one_piece))
        progress(done + 1, len(batches))
    return RoutingTable(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _part(router: Router, images: Tensor, truth: Tensor, in_one_piece: bool) -> tuple[np.ndarray, ...]:
    grid = router.grid(tuple(images.shape[2:]))
    look = router.look(images)
    answers = [look.logits.softmax(1)]
    answers += [router.alone(images, net).exp() for net in range(1, len(router.nets))]
    counts = patch_counts([most_probable(answer) for answer in answers], truth, grid, look.logits.shape[1])
    entropies = np.stack([patch_means(entropy(answer), grid) for answer in answers], 2)
    pieces = [router.nets.whole(images, net) for net in range(len(router.nets))] if in_one_piece else []
    return (
        counts,
        whole_counts([most_probable(piece) for piece in pieces], truth, look.logits.shape[1]),
        patch_means(look.uncertain, grid),
        entropies,
        look.read.cpu().numpy(),
        router.logits(look).double().cpu().numpy(),
    )


def patch_counts(answers: Sequence[Tensor], truth: Tensor, grid: PatchGrid, classes: int) -> Int64:
    """Confusion of every net's mask on every patch. Shape: N of (B, *S), (B, *S) -> (B, P, N, K, K)."""
    nets = []
    for answer in answers:
        pairs = list(zip(answer, truth, strict=True))
        nets.append([[confusion(a[own], t[own], classes) for own in grid.own] for a, t in pairs])
    return np.stack([np.array(rows) for rows in nets], 2)


def whole_counts(answers: Sequence[Tensor], truth: Tensor, classes: int) -> Int64:
    """Confusion of every net's mask of whole images. Shape: N of (B, *S), (B, *S) -> (B, N, K, K)."""
    rows = [
        [confusion(answer[image], label, classes) for answer in answers] for image, label in enumerate(truth)
    ]
    return np.array(rows, np.int64)


def patch_means(values: Tensor, grid: PatchGrid) -> Float64:
    """Mean over the own pixels of every patch. Shape: (B, *S) -> (B, P)."""
    rows = [[float(value[own].mean()) for own in grid.own] for value in values]
    return np.array(rows, np.float64)
