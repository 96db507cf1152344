"""Supervised fine-tuning of a trained policy: what the loop's rivals with labels do, with the loop's own optimiser.

As in the loop the network runs in eval mode, so that a rival differs from it in what it learns from and in nothing
else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from reward_data.case_store import CaseStore
from reward_data.errors import DataError
from reward_data.types import Float32, Int64, Progress, UInt8, no_progress
from rl4seg.augment import augment
from rl4seg.configs.rivals import ContinuedConfig
from rl4seg.data import batch_indices, batches_per_epoch
from rl4seg.histories import write_history
from rl4seg.losses import dice_cross_entropy
from rl4seg.policies import Model, save_model
from rl4seg.runtime import Runtime, step_generator
from rl4seg.training import descend, last_means, run_steps

ORDER, NOISE = 31, 32  # branches of the seed tree


@dataclass(frozen=True)
class LabelledCases:
    """The labelled training cases of a store, ``batch`` of them per step."""

    store: CaseStore
    batch: int

    def __post_init__(self) -> None:
        if len(self.indices) == 0:
            raise DataError(
                "no labelled training case to go on with; give labels (labelsTr, or a label column), or switch the "
                "rivals off that need them (rivals.upper_bound=false, rivals.strong_augmentation=false)"
            )

    @cached_property
    def indices(self) -> Int64:
        """Places of the cases in the store."""
        return self.store.indices("train", labelled=True)

    def read(self, step: int, *seed_path: int) -> tuple[Float32, UInt8]:
        """Images (B, C, *S) in [0, 1] and labels (B, *S) of a step; every case once before any is seen twice."""
        chosen = self.indices[batch_indices(len(self.indices), self.batch, step, *seed_path)]
        return self.store.images(chosen), self.store.labels(chosen)


def continue_training(
    policy: Model,
    parts: Sequence[LabelledCases],
    config: ContinuedConfig,
    total: int,
    seed: int,
    runtime: Runtime,
    out: Path,
    checkpoint: Path,
    progress: Progress = no_progress,
) -> dict[str, float]:
    """Train ``policy`` on for ``total`` steps; writes it and ``history.csv`` into ``out``.

    Args:
        parts: datasets that every batch is put together from, e.g. target cases and replayed source cases.

    Returns:
        Number of steps, and the means of the metrics over the last fifth of them.

    Raises:
        Rl4SegError: the loss became NaN or infinite.
    """
    network = policy.network.to(runtime.device).eval()
    optimiser = torch.optim.Adam(network.parameters(), lr=config.learning_rate)

    def step(index: int) -> dict[str, float]:
        read = [part.read(index, seed, ORDER, number) for number, part in enumerate(parts)]
        images = runtime.tensor(np.concatenate([images for images, _ in read]))
        labels = runtime.tensor(np.concatenate([labels for _, labels in read]), torch.long)
        images, (labels,) = augment(config.augment, images, (labels,), step_generator(seed, NOISE, index))
        with runtime.autocast():
            logits = network(images)
        loss = dice_cross_entropy(logits, labels)
        descend(optimiser, loss, list(network.parameters()), config.grad_norm)
        return {"loss": loss.item()}

    history = run_steps(
        step, total, {"network": network, "optimiser": optimiser}, checkpoint, progress, config.checkpoint_seconds,
        runtime.device, batches_per_epoch(len(parts[0].indices), parts[0].batch),
    )  # fmt: skip
    return finish(policy, history, out)


def finish(policy: Model, history: list[dict[str, float]], out: Path) -> dict[str, float]:
    """Leave the trained policy and its history in ``out``; the figures of its artifact."""
    write_history(out / "history.csv", history)
    save_model(policy, out)
    return {"steps": float(len(history)), **last_means(history)}
