"""Which images a training step sees: a function of (seed, step), so nothing about order needs saving."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from reward_data.types import Int64


@lru_cache(maxsize=8)
def _permutation(count: int, epoch: int, seed_path: tuple[int, ...]) -> Int64:
    return np.random.default_rng([*seed_path, epoch]).permutation(count).astype(np.int64)


def batches_per_epoch(count: int, batch: int) -> int:
    """Full batches that cover ``count`` items once; the last one is filled up from the next permutation."""
    return -(-count // batch)


def batch_indices(count: int, batch: int, step: int, *seed_path: int) -> Int64:
    """Positions in 0..count-1 of batch number ``step``: item s of an endless series of permutations.

    Every item is seen once before any is seen twice; a batch may run over into the next permutation, so all
    batches have the same size (``batch``, or ``count`` where there are fewer).
    """
    batch = min(batch, count)
    positions = np.arange(step * batch, (step + 1) * batch)
    return np.array([_permutation(count, int(p // count), seed_path)[p % count] for p in positions], np.int64)
