"""Supervised training of a policy on a labelled domain: the source model, and the upper bound on target labels."""

from __future__ import annotations

from pathlib import Path

import torch

from reward_data.case_store import CaseStore
from reward_data.errors import DataError
from reward_data.types import Float32, Int64, Progress, UInt8, no_progress
from rl4seg.augment import augment
from rl4seg.configs.supervised import SupervisedConfig
from rl4seg.data import batch_indices, batches_per_epoch
from rl4seg.histories import write_history
from rl4seg.losses import dice_cross_entropy
from rl4seg.metrics import dice_per_class
from rl4seg.policies import Model, ModelSpec, TorchSegmenter, new_model, save_model
from rl4seg.runtime import Runtime, step_generator
from rl4seg.training import Stateful, descend, run_steps

ORDER, NOISE, INIT = 1, 2, 3  # branches of the seed tree


def train_policy(
    store: CaseStore,
    indices: Int64,
    spec: ModelSpec,
    config: SupervisedConfig,
    seed: int,
    runtime: Runtime,
    out: Path,
    checkpoint: Path,
    progress: Progress = no_progress,
) -> dict[str, float]:
    """Train a fresh policy on ``indices`` of ``store`` and save it with its ``history.csv`` into ``out``.

    Raises:
        DataError: no labelled case is given, or class_weights has another length than the classes.
    """
    _check(indices, spec, config)
    model = new_model(spec, seed, INIT)
    model.network.to(runtime.device).train()
    total = config.steps or config.epochs * batches_per_epoch(len(indices), config.batch_size)
    optimiser = torch.optim.AdamW(
        model.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.learning_rate, total_steps=max(total, 2))
    weights = (
        None if config.class_weights is None else torch.tensor(config.class_weights, device=runtime.device)
    )

    def step(index: int) -> dict[str, float]:
        chosen = indices[batch_indices(len(indices), config.batch_size, index, seed, ORDER)]
        images, labels = (
            runtime.tensor(store.images(chosen)),
            runtime.tensor(store.labels(chosen), torch.long),
        )
        images, (labels,) = augment(config.augment, images, (labels,), step_generator(seed, NOISE, index))
        with runtime.autocast():
            logits = model.network(images)
        loss = dice_cross_entropy(logits, labels, config.dice_weight, weights, config.label_smoothing)
        descend(optimiser, loss, list(model.network.parameters()), config.grad_norm)
        schedule.step()
        return {"loss": loss.item(), "learning_rate": float(schedule.get_last_lr()[0])}

    states: dict[str, Stateful] = {"network": model.network, "optimiser": optimiser, "schedule": schedule}
    history = run_steps(
        step, total, states, checkpoint, progress, config.checkpoint_seconds, runtime.device,
        batches_per_epoch(len(indices), config.batch_size),
    )  # fmt: skip
    write_history(out / "history.csv", history, every=max(1, total // 200))
    save_model(model, out)
    return {
        "steps": float(total),
        "loss": history[-1]["loss"],
        "train_dice": _dice(store, indices[:64], model, runtime),
    }


def _check(indices: Int64, spec: ModelSpec, config: SupervisedConfig) -> None:
    if len(indices) == 0:
        raise DataError(
            "no labelled training case: give a source with labels, or a checkpoint by policy.checkpoint"
        )
    if config.class_weights is not None and len(config.class_weights) != len(spec.class_names):
        raise DataError(
            f"class_weights has {len(config.class_weights)} values, the label map has {len(spec.class_names)} classes; "
            "give one weight per class, background first"
        )


def _dice(store: CaseStore, indices: Int64, model: Model, runtime: Runtime) -> float:
    images: Float32 = store.images(indices)
    masks = TorchSegmenter(model, runtime).probabilities(images).argmax(1)
    truths: UInt8 = store.labels(indices)
    scores = [dice_per_class(m, t, model.num_classes).mean() for m, t in zip(masks, truths, strict=True)]
    return float(sum(scores) / len(scores))
