"""Time of the early-exit verdict with the default rule set on one thread: ``python -m tests.benchmarks.bench_anatomy``.

Masks are 256x256. Valid: drawn ventricles. Invalid: the same with planted damage. Noisy: 2 % of the pixels struck.
"""

from __future__ import annotations

import time

import numpy as np

from reward_data.anatomy import is_valid, load_rules, measure
from tests.reward_data.test_anatomy import DAMAGE, noise, ventricle

REPEATS = 9


def milliseconds(masks: list[np.ndarray], judge=is_valid) -> float:  # type: ignore[no-untyped-def]
    """Core time, mean over the masks, best of several rounds."""
    rules = load_rules("lv_myo")
    rounds = []
    for _ in range(REPEATS):
        start = time.process_time()
        for mask in masks:
            judge(mask, rules, (1.0, 1.0))
        rounds.append((time.process_time() - start) / len(masks) * 1e3)
    return min(rounds)


def main() -> None:
    valid = [ventricle(256, np.random.default_rng([1, index])) for index in range(60)]
    damage = [d for d in DAMAGE if d is not noise]
    invalid = [damage[i % len(damage)](mask.copy(), np.random.default_rng(i)) for i, mask in enumerate(valid)]
    noisy = [noise(mask, np.random.default_rng(index)) for index, mask in enumerate(valid)]
    print(f"anatomical check, valid 256x256 mask, ms: {milliseconds(valid):.3f}")
    print(f"anatomical check, invalid 256x256 mask, ms: {milliseconds(invalid):.3f}")
    print(f"anatomical check, noisy 256x256 mask, ms: {milliseconds(noisy):.3f}")
    print(f"anatomical check, all values of a valid 256x256 mask, ms: {milliseconds(valid, measure):.3f}")


if __name__ == "__main__":
    main()
