"""Supervised training of one network on random crops of the size of a patch; the smallest also learns from the largest.

Crops and not patches: there are more of them, and a net must not learn where in the image the grid cuts.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from reward_data.case_store import CaseStore
from reward_data.errors import DataError
from reward_data.types import Int64, Progress, no_progress
from rl4seg.augment import augment
from rl4seg.configs.paser import DistillationConfig, MemberConfig, PretrainingConfig
from rl4seg.data import batch_indices
from rl4seg.histories import write_history
from rl4seg.losses import dice_cross_entropy
from rl4seg.policies import Model, new_model, save_model, spec_for
from rl4seg.runtime import Runtime, derive_seed, step_generator
from rl4seg.training import Stateful, descend, last_means, run_steps

ORDER, PLACE, NOISE, INIT = 73, 74, 75, 76  # branches of the seed tree


def distillation_loss(student: Tensor, teacher: Tensor, config: DistillationConfig) -> Tensor:
    """How far the student's answer is from the teacher's, mean over pixels. Shape: (B, K, *S) both.

    kl: T^2 KL(softmax(teacher / T) || softmax(student / T)) (Hinton et al. 2015, arXiv 1503.02531). mse: mean squared
    difference of the logits (Ba and Caruana 2014, arXiv 1312.6184).
    """
    if config.kind == "mse":
        return functional.mse_loss(student, teacher)
    heat = config.temperature
    target, log_student = (teacher / heat).log_softmax(1), (student / heat).log_softmax(1)
    divergence = (target.exp() * (target - log_student)).sum(1)
    return heat**2 * divergence.mean()


def random_crops(
    images: Tensor, truth: Tensor, size: tuple[int, ...], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """One crop of every image at a random place. Shape: (B, C, *S), (B, *S) -> (B, C, *size), (B, *size)."""
    cut_images, cut_truth = [], []
    for image, label in zip(images, truth, strict=True):
        room = [whole - part + 1 for whole, part in zip(label.shape, size, strict=True)]
        starts = [int(torch.randint(free, (), generator=generator)) for free in room]
        region = tuple(slice(start, start + part) for start, part in zip(starts, size, strict=True))
        cut_images.append(image[(slice(None), *region)])
        cut_truth.append(label[region])
    return torch.stack(cut_images), torch.stack(cut_truth)


def pretrain(
    store: CaseStore,
    indices: Int64,
    member: MemberConfig,
    config: PretrainingConfig,
    class_weights: tuple[float, ...] | None,
    crop: tuple[int, ...],
    teacher: Model | None,
    seed: int,
    runtime: Runtime,
    out: Path,
    checkpoint: Path,
    progress: Progress = no_progress,
) -> dict[str, float]:
    """Train a fresh network on crops of ``indices``; writes it and ``history.csv`` into ``out``.

    Returns:
        Steps, and the mean loss of the last fifth of them.

    Raises:
        DataError: there is no case to train on.
    """
    if len(indices) == 0:
        raise DataError(f"no labelled training case for the net {member.name!r}; give more labelled groups")
    images, truth = runtime.tensor(store.images(indices)), runtime.tensor(store.labels(indices), torch.long)
    model = new_model(spec_for(member.network, store), seed, INIT)
    network = model.network.to(runtime.device).train()
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=member.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, member.learning_rate, total_steps=max(member.steps, 2)
    )
    weights = None if class_weights is None else torch.tensor(class_weights, device=runtime.device)
    learned = config.distillation

    def step(index: int) -> dict[str, float]:
        rows = _rows(len(indices), config.batch_size, index, seed)
        places = torch.Generator().manual_seed(derive_seed(seed, PLACE, index))
        some, label = random_crops(images[rows], truth[rows], crop, places)
        some, (label,) = augment(config.augment, some, (label,), step_generator(seed, NOISE, index))
        with runtime.autocast():
            logits = network(some)
        loss = dice_cross_entropy(logits, label, config.dice_weight, weights)
        figures = {"truth": loss.item()}
        if teacher is not None and learned.kind != "none":
            with torch.no_grad(), runtime.autocast():
                shown = teacher.network(some)
            apart = distillation_loss(logits, shown, learned)
            loss = (1 - learned.weight) * loss + learned.weight * apart
            figures["distillation"] = apart.item()
        descend(optimiser, loss, list(network.parameters()), config.grad_norm)
        schedule.step()
        return {"loss": loss.item(), **figures}

    states: dict[str, Stateful] = {"network": network, "optimiser": optimiser, "schedule": schedule}
    history = run_steps(
        step, member.steps, states, checkpoint, progress, config.checkpoint_seconds, runtime.device
    )
    write_history(out / "history.csv", history, every=max(1, member.steps // 200))
    save_model(model, out)
    return {"steps": float(member.steps), "loss": last_means(history)["loss"]}


def _rows(count: int, batch: int, step: int, seed: int) -> Int64:
    """Images of a step, ``batch`` of them even where there are fewer: every one as often as any other."""
    parts = []
    for number in range(-(-batch // count)):
        parts.append(batch_indices(count, batch, step * -(-batch // count) + number, seed, ORDER))
    rows: Int64 = np.concatenate(parts)[:batch]
    return rows
