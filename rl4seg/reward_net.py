"""The reward net: image + proposed mask -> probability, per pixel, that the mask is right there.

RL4Seg (Judge et al. 2024, arXiv 2406.17902): target ``truth == proposed``, binary cross-entropy, trained on the
reward datasets of all iterations so far, then calibrated by a temperature on images held out from training.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from reward_data.errors import DataError
from reward_data.reward_store import RewardStore
from reward_data.types import Bool, Float32, Int64, Progress, UInt8, no_progress
from rl4seg.augment import augment
from rl4seg.calibration import calibrated_probability, fit_temperature
from rl4seg.configs.reward_net import RewardNetConfig
from rl4seg.data import batch_indices, batches_per_epoch
from rl4seg.degraded_examples import DegradedExamples
from rl4seg.histories import write_history
from rl4seg.losses import correctness_loss
from rl4seg.metrics import Reliability, auroc, reliability
from rl4seg.policies import Model, ModelSpec, load_model, new_model, save_model
from rl4seg.runtime import Runtime, step_generator
from rl4seg.training import Stateful, descend, run_steps

ORDER, NOISE, INIT = 11, 12, 13  # branches of the seed tree
CALIBRATION = "calibration.json"
RELIABILITY = "reliability.json"
CALIBRATION_BATCHES, CALIBRATION_IMAGES = (
    16,
    32,
)  # degraded held-out images that the temperature is fitted and judged on


class RewardExamples:
    """The examples of several reward datasets under one index: the cumulative dataset of RL4Seg."""

    def __init__(self, stores: Sequence[RewardStore]) -> None:
        self.stores = tuple(stores)

    def split(self, name: str) -> Int64:
        """(store, example) pairs of a split. Shape: (n, 2)."""
        parts = [
            np.stack([np.full(len(i), n), i], 1) for n, s in enumerate(self.stores) for i in [s.indices(name)]
        ]
        return np.concatenate(parts).astype(np.int64)

    def read(self, pairs: Int64) -> tuple[Float32, UInt8, Bool]:
        """Images (B, C, *S), proposed masks (B, *S) and errors (B, *S) of (store, example) pairs."""
        rows = [self.stores[n].read(np.array([i])) for n, i in pairs.tolist()]
        images, proposed, errors = zip(*rows, strict=True)
        return np.concatenate(images), np.concatenate(proposed), np.concatenate(errors)


def reward_input(images: Tensor, masks: Tensor, num_classes: int) -> Tensor:
    """Image and one-hot mask side by side. Shape: (B, C, *S), (B, *S) int64 -> (B, C + K, *S)."""
    return torch.cat([images, functional.one_hot(masks, num_classes).movedim(-1, 1).to(images)], 1)


@dataclass
class RewardModel:
    """A calibrated reward net, always in eval mode."""

    model: Model
    num_classes: int
    temperature: float
    runtime: Runtime

    @torch.no_grad()
    def logits(self, images: Tensor, masks: Tensor) -> Tensor:
        """Uncalibrated logits. Shape: (B, C, *S), (B, M, *S) int64 -> (B, M, *S)."""
        self.model.network.eval()
        batch, samples, *shape = masks.shape
        repeated = images.repeat_interleave(samples, 0)
        with self.runtime.autocast():
            out = self.model.network(reward_input(repeated, masks.flatten(0, 1), self.num_classes))
        flat: Tensor = out[:, 0]
        return flat.reshape(batch, samples, *shape)

    def score(self, images: Tensor, masks: Tensor) -> Tensor:
        """Calibrated probability that each pixel is right. Shape: (B, C, *S), (B, M, *S) -> (B, M, *S) in [0, 1]."""
        return calibrated_probability(self.logits(images, masks), self.temperature)


def save_reward_model(reward: RewardModel, folder: Path) -> None:
    """Write weights, description and temperature."""
    save_model(reward.model, folder)
    content = {"temperature": reward.temperature, "num_classes": reward.num_classes}
    (folder / CALIBRATION).write_text(json.dumps(content) + "\n")


def load_reward_model(folder: Path, runtime: Runtime) -> RewardModel:
    """Read what `save_reward_model` wrote; ArtifactError as `load_model`."""
    content = json.loads((folder / CALIBRATION).read_text())
    return RewardModel(load_model(folder, runtime), content["num_classes"], content["temperature"], runtime)


def train_reward_net(
    examples: RewardExamples,
    class_names: tuple[str, ...],
    config: RewardNetConfig,
    seed: int,
    runtime: Runtime,
    out: Path,
    checkpoint: Path,
    progress: Progress = no_progress,
    degraded: DegradedExamples | None = None,
) -> dict[str, float]:
    """Fit the reward net on the train split, its temperature on one half of held-out pixels, and report calibration on
    the other half. Writes the model, ``calibration.json``, ``reliability.json`` and ``history.csv``.

    Args:
        degraded: the policy's own mistakes on degraded images. Where there are any, they make the better part of every
            batch, and those on held-out images calibrate; otherwise the validation split of the reward dataset does.

    Raises:
        DataError: a split of the reward dataset is empty.
    """
    train, held = examples.split("train"), examples.split("val")
    if len(train) == 0 or len(held) < 2:
        raise DataError(
            f"the reward dataset has {len(train)} training and {len(held)} validation examples; at least 1 and 2 are "
            "needed: give more unlabelled images, loosen the anatomy rules, or raise synthesis.validation_fraction"
        )
    reward = RewardModel(_fresh(examples, class_names, config, seed, runtime), len(class_names), 1.0, runtime)
    live = degraded if degraded is not None and config.degraded and degraded.available("train") else None
    history = _fit(reward.model, examples, train, live, config, seed, runtime, checkpoint, progress)
    if live is not None and live.available("val"):
        tuning, checking = (_degraded_logits(reward, live, first) for first in (0, 1))
    else:
        tuning, checking = (held_out_logits(reward, examples, half) for half in _halves(examples, held))
    reward.temperature = fit_temperature(torch.from_numpy(tuning[0]), torch.from_numpy(tuning[1]))
    logits, correct = checking
    write_history(out / "history.csv", history, every=max(1, config.steps // 200))
    save_reward_model(reward, out)
    curves = _curves(logits, correct, reward.temperature)
    (out / RELIABILITY).write_text(
        json.dumps({name: curve.to_json() for name, curve in curves.items()}) + "\n"
    )
    figures = {"loss": history[-1]["loss"], "temperature": reward.temperature}
    figures |= {"ece_before": curves["raw"].ece, "ece_after": curves["calibrated"].ece}
    ranking = auroc(-logits, ~correct)
    return figures | ({"error_auroc": ranking} if np.isfinite(ranking) else {})


def _fresh(
    examples: RewardExamples,
    class_names: tuple[str, ...],
    config: RewardNetConfig,
    seed: int,
    runtime: Runtime,
) -> Model:
    images, _, _ = examples.read(examples.split("train")[:1])
    spec = ModelSpec(
        network=config.network,
        in_channels=images.shape[1] + len(class_names),
        class_names=("correct",),
        shape=images.shape[2:],
    )
    model = new_model(spec, seed, INIT)
    model.network.to(runtime.device)
    return model


def _fit(
    model: Model,
    examples: RewardExamples,
    train: Int64,
    degraded: DegradedExamples | None,
    config: RewardNetConfig,
    seed: int,
    runtime: Runtime,
    checkpoint: Path,
    progress: Progress,
) -> list[dict[str, float]]:
    classes = model.spec.in_channels - examples.stores[0].channels
    optimiser = torch.optim.AdamW(
        model.network.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
    model.network.train()

    def step(index: int) -> dict[str, float]:
        images, masks, errors = examples.read(
            train[batch_indices(len(train), config.batch_size, index, seed, ORDER)]
        )
        moved, (mask, error) = augment(
            config.augment,
            runtime.tensor(images),
            (runtime.tensor(masks, torch.long), runtime.tensor(errors, torch.long)),
            step_generator(seed, NOISE, index),
        )
        if degraded is not None:
            image, own, wrong, _ = degraded.batch("train", config.degraded, index)
            moved, mask, error = torch.cat([moved, image]), torch.cat([mask, own]), torch.cat([error, wrong])
        with runtime.autocast():
            logits = model.network(reward_input(moved, mask, classes))[:, 0]
        loss = correctness_loss(logits, error == 0)
        descend(optimiser, loss, list(model.network.parameters()), config.grad_norm)
        schedule.step()
        return {"loss": loss.item()}

    states: dict[str, Stateful] = {"network": model.network, "optimiser": optimiser, "schedule": schedule}
    return run_steps(
        step, config.steps, states, checkpoint, progress, config.checkpoint_seconds, runtime.device,
        batches_per_epoch(len(train), config.batch_size),
    )  # fmt: skip


def _halves(examples: RewardExamples, held: Int64) -> tuple[Int64, Int64]:
    """Split validation pairs by case, so that no image serves both to fit and to judge the temperature."""
    cases = [examples.stores[n].case_ids[int(examples.stores[n].image_index[i])] for n, i in held.tolist()]
    order = {case: rank for rank, case in enumerate(sorted(set(cases)))}
    even = np.array([order[case] % 2 == 0 for case in cases])
    return (held, held) if even.all() else (held[even], held[~even])


def held_out_logits(reward: RewardModel, examples: RewardExamples, pairs: Int64) -> tuple[Float32, Bool]:
    """Logits and correctness at the pixels where the proposed mask or its truth is foreground."""
    logits, correct = [], []
    size = reward.runtime.batch_size
    for start in range(0, len(pairs), size):
        images, masks, errors = examples.read(pairs[start : start + size])
        z = reward.logits(reward.runtime.tensor(images), reward.runtime.tensor(masks, torch.long)[:, None])
        region = (masks > 0) | errors
        logits.append(z[:, 0].cpu().numpy()[region])
        correct.append(~errors[region])
    return np.concatenate(logits), np.concatenate(correct)


def _degraded_logits(reward: RewardModel, degraded: DegradedExamples, first: int) -> tuple[Float32, Bool]:
    """The same for the policy's argmax on held-out images, degraded; batches ``first``, ``first + 2``, ..."""
    logits, correct = [], []
    for number in range(first, CALIBRATION_BATCHES, 2):
        images, masks, errors, truths = degraded.batch("val", CALIBRATION_IMAGES, number, sampled=False)
        z = reward.logits(images, masks[:, None])[:, 0]
        region = (masks > 0) | (truths > 0)
        logits.append(z[region].cpu().numpy())
        correct.append((errors == 0)[region].cpu().numpy())
    return np.concatenate(logits), np.concatenate(correct)


def _curves(logits: Float32, correct: Bool, temperature: float) -> dict[str, Reliability]:
    z = torch.from_numpy(logits)
    return {
        "raw": reliability(calibrated_probability(z, 1.0).numpy(), correct),
        "calibrated": reliability(calibrated_probability(z, temperature).numpy(), correct),
    }
