"""Speed and size of the reward dataset at 256x256, one thread: ``python -m tests.benchmarks.bench_reward_store``.

Speckled images in a sector (they hardly compress), drawn ventricles, the default distortions of masks; 9 examples
per image, and the worst case of one (a correction). Exit code 1 when a target is missed: the size in both cases, the
speed at 9 per image; wall time, so other work on the machine counts against it.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from reward_data.correction import Correction
from reward_data.distortions import DistortionConfig, sample_distortions
from reward_data.mask_damage import Affine, Damage, Morph, Warp, damage_mask
from reward_data.reward_store import ImageEntry, RewardStore, RewardStoreWriter

SIZE, IMAGES, BATCH = 256, 60, 16
LEAST_PER_SECOND, MOST_KB = 1000, 60


def ventricle(rng: np.random.Generator) -> np.ndarray:
    row, column = np.mgrid[:SIZE, :SIZE] / SIZE
    centre = rng.uniform(0.45, 0.55, 2)
    distance = np.hypot((row - centre[0]) / 0.33, (column - centre[1]) / 0.2) + (row > centre[0] + 0.2)
    return np.where(distance < 0.7, 1, np.where(distance < 1, 2, 0)).astype(np.uint8)


def speckle(rng: np.random.Generator) -> np.ndarray:
    row, column = np.mgrid[:SIZE, :SIZE] / SIZE
    sector = np.abs(column - 0.5) < 0.7 * row + 0.02
    return (np.clip(rng.rayleigh(50, (1, SIZE, SIZE)), 0, 255) * sector).astype(np.uint8)


def write(path: Path, per_image: int) -> None:
    with RewardStoreWriter(path, 1, (SIZE, SIZE)) as writer:
        for index in range(IMAGES):
            rng = np.random.default_rng(index)
            truth, examples = ventricle(rng), []
            while len(examples) < per_image:
                for record in sample_distortions(DistortionConfig(), 3, (), rng):
                    if isinstance(record, Affine | Damage | Morph | Warp):
                        examples.append((record, damage_mask(record, truth)))
            if per_image == 1:
                examples = [(Correction(steps=("shape_prior",), closing_radius=0.05), examples[0][1])]
            entry = ImageEntry(f"case {index}", "train", True, speckle(rng), truth)
            writer.add(entry, examples[:per_image])


def read_singly(store: RewardStore) -> None:
    """Image, proposed mask and error map of every example, each by a call of its own."""
    for example in range(len(store)):
        one = np.array([example])
        store.images(one), store.proposed(one), store.errors(one)


def read_batches(store: RewardStore) -> None:
    for first in range(0, len(store), BATCH):
        store.read(np.arange(first, min(first + BATCH, len(store))))


def examples_per_second(path: Path, read: Callable[[RewardStore], None]) -> float:
    """All examples in order, the file opened anew; best of five rounds."""
    rounds = []
    for _ in range(5):
        start = time.perf_counter()
        with RewardStore(path) as store:
            read(store)
            rounds.append(len(store) / (time.perf_counter() - start))
    return max(rounds)


def main() -> int:
    met = True
    with tempfile.TemporaryDirectory() as folder:
        for per_image in (9, 1):
            path = Path(folder) / f"{per_image}.h5"
            start = time.perf_counter()
            write(path, per_image)
            seconds = time.perf_counter() - start
            examples = IMAGES * per_image
            kilobytes = path.stat().st_size / examples / 1e3
            singly = examples_per_second(path, read_singly)
            name = f"reward store, 256x256, {per_image} examples per image"
            print(f"{name}, made and written, ms per example: {seconds / examples * 1e3:.2f}")
            print(f"{name}, kB per example (at most {MOST_KB}): {kilobytes:.1f}")
            wanted = f" (at least {LEAST_PER_SECOND})" if per_image > 1 else ""
            print(f"{name}, examples/s read in order, one by one{wanted}: {singly:.0f}")
            print(f"{name}, examples/s, {BATCH} at once: {examples_per_second(path, read_batches):.0f}")
            met = met and kilobytes <= MOST_KB and (singly >= LEAST_PER_SECOND or not wanted)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
