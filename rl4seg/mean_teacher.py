"""Mean teacher: a student that agrees with its own running average on unlabelled images, however they are augmented.

Tarvainen & Valpola 2017, arXiv 1703.01780; for another domain French et al. 2018, arXiv 1706.05208, whose confidence
mask is used here. The teacher sees the plain image, the student an augmented one; the teacher's class probabilities
are moved along. The teacher is the result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from reward_data.case_store import CaseStore
from reward_data.errors import DataError
from reward_data.types import Int64, Progress, no_progress
from rl4seg.augment import BatchAugmentation, apply_to_images, augment, draw
from rl4seg.configs.rivals import ContinuedConfig, MeanTeacherConfig
from rl4seg.continued import LabelledCases, finish
from rl4seg.data import batch_indices, batches_per_epoch
from rl4seg.degrade import degrade
from rl4seg.losses import dice_cross_entropy, masked_mean
from rl4seg.policies import Model
from rl4seg.runtime import Runtime, step_generator
from rl4seg.training import Stateful, descend, run_steps

ORDER, SOURCE, NOISE = 51, 52, 53  # branches of the seed tree


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, ema: float) -> None:
    """theta' <- ema theta' + (1 - ema) theta, in place (arXiv 1703.01780, section 2)."""
    for mine, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
        mine.mul_(ema).add_(theirs, alpha=1 - ema)


def consistency_weight(config: MeanTeacherConfig, step: int, total: int) -> float:
    """consistency x exp(-5 (1 - t)^2), t = step / (ramp x total), from t = 1 on constant (section 3.1 and appendix)."""
    length = config.ramp * total
    t = 1.0 if step >= length else step / length
    return config.consistency * math.exp(-5 * (1 - t) ** 2)


def consistency_loss(logits: Tensor, wanted: Tensor, confidence: float) -> Tensor:
    """Mean of sum_k (p_k - q_k)^2 over the pixels where the teacher is sure, max_k q_k >= confidence.

    Args:
        logits: the student's. Shape: (B, K, *S)
        wanted: the teacher's class probabilities q; all 0 where there is no image. Shape: (B, K, *S)
        confidence: in [0, 1).
    """
    largest = wanted.amax(1)
    sure = (largest >= confidence) & (largest > 0)
    distance = (logits.softmax(1) - wanted.detach()).square().sum(1)
    return masked_mean(distance, sure.to(distance))


def move(record: BatchAugmentation, probabilities: Tensor) -> Tensor:
    """The affine part of an augmentation on class probabilities, 0 outside the image. Shape: (B, K, *S)."""
    grid = functional.affine_grid(
        record.theta.to(probabilities), list(probabilities.shape), align_corners=False
    )
    return functional.grid_sample(
        probabilities, grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )


@dataclass
class Pair:
    """Student and teacher, and what they learn from."""

    student: Model
    teacher: Model
    store: CaseStore
    indices: Int64
    source: LabelledCases | None
    config: MeanTeacherConfig
    training: ContinuedConfig
    seed: int
    runtime: Runtime

    def loss(self, index: int, total: int) -> tuple[Tensor, dict[str, float]]:
        """Consistency on target images, and Dice + cross-entropy on source labels where there is a source."""
        generator = step_generator(self.seed, NOISE, index)
        moved, wanted = self._target(index, generator)
        images = moved
        if self.source is not None:
            pixels, masks = self.source.read(index, self.seed, SOURCE)
            labels = self.runtime.tensor(masks, torch.long)
            labelled, (labels,) = augment(
                self.training.augment, self.runtime.tensor(pixels), (labels,), generator
            )
            images = torch.cat([moved, labelled])
        with self.runtime.autocast():
            logits = self.student.network(images)
        agreement = consistency_loss(logits[: len(moved)], wanted, self.config.confidence)
        loss = consistency_weight(self.config, index, total) * agreement
        if self.source is not None:
            loss = loss + dice_cross_entropy(logits[len(moved) :], labels)
        sure = (wanted.amax(1) >= self.config.confidence).float().mean()
        return loss, {"loss": loss.item(), "consistency": agreement.item(), "sure": float(sure)}

    @torch.no_grad()
    def _target(self, index: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Augmented target images (B, C, *S) and the teacher's probabilities moved alike (B, K, *S)."""
        chosen = self.indices[
            batch_indices(len(self.indices), self.training.batch_size, index, self.seed, ORDER)
        ]
        images = self.runtime.tensor(self.store.images(chosen))
        with self.runtime.autocast():
            probabilities: Tensor = self.teacher.network(images)
        probabilities = probabilities.softmax(1)
        if self.training.augment is None:
            return images, probabilities
        record = draw(self.training.augment, images, generator)
        moved = degrade(self.training.augment.degrade, apply_to_images(record, images), generator)
        return moved, move(record, probabilities)


def train_mean_teacher(
    policy: Model,
    store: CaseStore,
    indices: Int64,
    source: LabelledCases | None,
    config: MeanTeacherConfig,
    training: ContinuedConfig,
    total: int,
    seed: int,
    runtime: Runtime,
    out: Path,
    checkpoint: Path,
    progress: Progress = no_progress,
) -> dict[str, float]:
    """Train a student from ``policy`` for ``total`` steps; writes its teacher and ``history.csv`` into ``out``.

    Args:
        indices: unlabelled target images of ``store``.
        source: labelled source cases; None leaves consistency alone.

    Returns:
        Number of steps; over the last fifth of them the means of the loss, the consistency, and the share of pixels
        that the teacher is sure of.

    Raises:
        DataError: there is no target image.
        Rl4SegError: the loss became NaN or infinite.
    """
    if len(indices) == 0:
        raise DataError("the target has no training image; check target.path and its split column")
    student, teacher = policy, policy.clone()
    student.network.to(runtime.device).eval()
    teacher.network.to(runtime.device).eval().requires_grad_(False)
    pair = Pair(student, teacher, store, indices, source, config, training, seed, runtime)
    optimiser = torch.optim.Adam(student.network.parameters(), lr=training.learning_rate)

    def step(index: int) -> dict[str, float]:
        loss, figures = pair.loss(index, total)
        descend(optimiser, loss, list(student.network.parameters()), training.grad_norm)
        update_teacher(teacher.network, student.network, config.ema)
        return figures

    states: dict[str, Stateful] = {"student": student.network, "teacher": teacher.network}
    states["optimiser"] = optimiser
    history = run_steps(
        step, total, states, checkpoint, progress, training.checkpoint_seconds, runtime.device,
        batches_per_epoch(len(indices), training.batch_size),
    )  # fmt: skip
    return finish(teacher, history, out)
