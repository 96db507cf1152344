"""Speed and size of the reward dataset at 256x256, one thread: ``python -m tests.benchmarks.bench_reward_store``.

Speckled images in a sector (they hardly compress), drawn ventricles, the default distortions of masks; 10 examples
per image, and the worst case of one (a correction).
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from reward_data.correction import Correction
from reward_data.distortions import DistortionConfig, sample_distortions
from reward_data.mask_damage import Affine, Damage, Morph, Warp, damage_mask
from reward_data.reward_store import ImageEntry, RewardStore, RewardStoreWriter

SIZE, IMAGES, BATCH = 256, 60, 16


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


def examples_per_second(path: Path) -> float:
    """Image, proposed mask and error map of every example in order, in batches; best of five rounds."""
    rounds = []
    for _ in range(5):
        start = time.perf_counter()
        with RewardStore(path) as store:
            for first in range(0, len(store), BATCH):
                store.read(np.arange(first, min(first + BATCH, len(store))))
            rounds.append(len(store) / (time.perf_counter() - start))
    return max(rounds)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for per_image in (10, 1):
            path = Path(folder) / f"{per_image}.h5"
            start = time.perf_counter()
            write(path, per_image)
            seconds = time.perf_counter() - start
            examples = IMAGES * per_image
            name = f"reward store, 256x256, {per_image} examples per image"
            print(f"{name}, made and written, ms per example: {seconds / examples * 1e3:.2f}")
            print(f"{name}, kB per example: {path.stat().st_size / examples / 1e3:.1f}")
            print(f"{name}, examples/s read in order: {examples_per_second(path):.0f}")


if __name__ == "__main__":
    main()
