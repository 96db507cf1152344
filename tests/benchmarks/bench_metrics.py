"""Hausdorff distances per mask: ``python -m tests.benchmarks.bench_metrics``. Reference 14 ms, attainable 2.1 ms."""

from __future__ import annotations

import itertools
import time

import numpy as np

from rl4seg.metrics import surface_distances
from tests.reward_data.test_anatomy import ventricle


def main() -> None:
    masks = [ventricle(256, np.random.default_rng([1, index])) for index in range(20)]
    begun = time.process_time()
    for a, b in itertools.pairwise(masks):
        for values in ((1,), (2,), (1, 2)):
            surface_distances(np.isin(a, values), np.isin(b, values), (1.0, 1.0))
    per_mask = (time.process_time() - begun) / (len(masks) - 1) * 1e3
    print(f"HD and HD95 of 3 structures of a 256x256 mask, ms: {per_mask:.2f}")


if __name__ == "__main__":
    main()
