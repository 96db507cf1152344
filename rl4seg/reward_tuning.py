"""Reward tuning: a trained network goes on learning, by the metric that matters instead of by cross-entropy.

Read `tune_policy` (a policy on a case store), then `tune` (the loop, for any network of class logits and any source of
batches). Every estimator and rival goes through the same loop with the same batches, augmentation and optimiser, so
that a difference between two of them is one of their losses. As in `rl4seg.continued` the network keeps eval mode.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from reward_data.anatomy import RuleSet
from reward_data.case_store import CaseStore
from reward_data.class_statistics import check_weights, class_weights, count_labels, load_class_weights
from reward_data.errors import DataError
from reward_data.types import Int64, Progress, no_progress
from rl4seg.augment import augment
from rl4seg.configs.reward_tuning import COMPUTED, TuningConfig
from rl4seg.continued import NOISE, ORDER
from rl4seg.data import batch_indices, batches_per_epoch
from rl4seg.heads import MainOutput, heads_loss
from rl4seg.histories import write_history
from rl4seg.networks import most_probable
from rl4seg.policies import Model, save_model
from rl4seg.reward_registry import reward_context
from rl4seg.runtime import Runtime, derive_seed, step_generator
from rl4seg.task_rewards import RewardContext, accuracy, dice, miou
from rl4seg.training import Stateful, descend, last_means, run_steps
from rl4seg.tuning_losses import TuningLoss

SAMPLE = 61  # branch of the seed tree
MEASURES = {"miou": miou, "dice": dice, "accuracy": accuracy}
VALIDATION, START = "val_", "start_"  # figures of the history that are no step's own


class TuningBatch(NamedTuple):
    """Images (B, C, *S), truth (B, *S) int64 and what the rewards may know of them."""

    images: Tensor
    truth: Tensor
    context: RewardContext


@dataclass(frozen=True)
class TuningCases:
    """The labelled cases of a store's split, as batches by (seed, step); `rl4seg.continued` has the same ones."""

    store: CaseStore
    indices: Int64
    config: TuningConfig
    runtime: Runtime
    rules: RuleSet | None = None

    def training(self, step: int, seed: int) -> TuningBatch:
        """The augmented batch of a step."""
        path = (seed, ORDER, 0)
        chosen = self.indices[batch_indices(len(self.indices), self.config.batch_size, step, *path)]
        batch = self.read(chosen)
        generator = step_generator(seed, NOISE, step)
        images, (truth,) = augment(self.config.augment, batch.images, (batch.truth,), generator)
        return TuningBatch(images, truth, batch.context)

    def read(self, chosen: Int64) -> TuningBatch:
        """Some cases as they are."""
        images = self.runtime.tensor(self.store.images(chosen))
        truth = self.runtime.tensor(self.store.labels(chosen), torch.long)
        spacing = [self.store.spacing_mm(int(i)) for i in chosen]
        return TuningBatch(images, truth, self.context(spacing))

    def context(self, spacing_mm: list[tuple[float, ...]]) -> RewardContext:
        """The context of images with these pixel sizes."""
        config, names = self.config, self.store.class_names
        return reward_context(config.reward, names, spacing_mm, config.ignore_index, self.rules)

    def measured(self, network: nn.Module, loss: TuningLoss) -> dict[str, float]:
        """Mean over the cases, none augmented, of mIoU, Dice, accuracy and the reward of the argmax mask."""
        rows: list[Tensor] = []
        for start in range(0, len(self.indices), self.runtime.batch_size):
            batch = self.read(self.indices[start : start + self.runtime.batch_size])
            with torch.no_grad(), self.runtime.autocast():
                masks = most_probable(network(batch.images))[:, None]
            arguments = (masks, batch.truth, batch.context)
            values = [measure(*arguments) for measure in MEASURES.values()] + [loss.mix(*arguments)]
            rows.append(torch.cat(values, 1).cpu())
        means = torch.cat(rows).double().mean(0).tolist()
        return dict(zip((*MEASURES, "reward"), means, strict=True))


def store_class_weights(config: TuningConfig, store: CaseStore, indices: Int64) -> tuple[float, ...] | None:
    """One weight per class of the store, from the config's list or file, or computed from the labels ``indices``.

    Raises:
        ConfigError: their number is not that of the classes, the file cannot be read, or a class is nowhere.
    """
    given = config.class_weights
    if given is None:
        return None
    if given == COMPUTED:
        labels = (store.labels([int(i)])[0] for i in indices)
        counted = count_labels(labels, store.class_names, config.ignore_index)
        return class_weights(counted, config.class_smooth)
    weights = load_class_weights(Path(given)) if isinstance(given, str) else given
    return check_weights(weights, store.class_names)


def tune(
    network: nn.Module,
    read: Callable[[int], TuningBatch],
    loss: TuningLoss,
    measure: Callable[[nn.Module], dict[str, float]] | None,
    runtime: Runtime,
    seed: int,
    checkpoint: Path,
    progress: Progress = no_progress,
    per_epoch: int | None = None,
) -> list[dict[str, float]]:
    """Train ``network`` in place for ``config.steps`` steps; returns every step's figures.

    Args:
        network: images (B, C, *S) to class logits: a tensor, a sequence or a dictionary, see `rl4seg.heads`. It stays
            in the mode (train or eval) that it is in.
        read: the batch of a step; a function of the step alone, so that a killed training ends with the same bits.
        measure: figures of the network as it is now, asked before the first step, every ``validate_every`` steps and
            after the last; in the history with the prefixes ``start_`` and ``val_``.

    Raises:
        ConfigError: a reward returned NaN or another shape; an output that does not exist.
        DataError: a batch in which nothing counts.
        Rl4SegError: the loss became NaN or infinite.
    """
    config, seen = loss.config, MainOutput(network, loss.config.heads)
    parameters: list[Tensor] = [weight for weight in network.parameters() if weight.requires_grad]
    optimiser = torch.optim.Adam(parameters, lr=config.learning_rate)

    def step(index: int) -> dict[str, float]:
        start = measure(seen) if measure and index == 0 else {}
        batch = read(index)
        generator = torch.Generator().manual_seed(derive_seed(seed, SAMPLE, index))
        with runtime.autocast():
            outputs = seen.outputs(batch.images)
        total, row = _total_loss(loss, outputs, batch, generator)
        descend(optimiser, total, parameters, config.grad_norm)
        row = {"loss": total.item(), **row, **{START + name: value for name, value in start.items()}}
        done = index + 1
        due = done == config.steps or (config.validate_every and done % config.validate_every == 0)
        if measure and due:
            row |= {VALIDATION + name: value for name, value in measure(seen).items()}
        return row

    states: dict[str, Stateful] = {"network": network, "optimiser": optimiser}
    return run_steps(
        step, config.steps, states, checkpoint, progress, config.checkpoint_seconds, runtime.device, per_epoch
    )


def _total_loss(
    loss: TuningLoss, outputs: dict[str, Tensor], batch: TuningBatch, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """The weighted loss of all outputs of the network, and the figures of the main one."""
    heads, row = loss.config.heads, dict[str, float]()

    def main(logits: Tensor) -> Tensor:
        value, figures = loss(logits.float(), batch.truth, batch.context, generator)
        row.update(figures)
        return value

    def auxiliary(logits: Tensor) -> Tensor:
        if heads.auxiliary == "cross_entropy":
            return loss.cross_entropy(logits.float(), batch.truth)
        return loss(logits.float(), batch.truth, batch.context, generator)[0]

    total, losses = heads_loss(outputs, heads, tuple(batch.truth.shape[1:]), main, auxiliary)
    if len(outputs) > 1:
        row |= {f"loss_{name}": value.item() for name, value in losses.items()}
    return total, row


def tune_policy(
    policy: Model,
    store: CaseStore,
    rules: RuleSet | None,
    config: TuningConfig,
    seed: int,
    runtime: Runtime,
    out: Path,
    checkpoint: Path,
    progress: Progress = no_progress,
) -> dict[str, float]:
    """Tune a policy on the labelled training cases of a store; writes it and its figures into ``out``.

    ``losses.csv`` has the figures of every step, ``metrics.csv`` those on the store's validation split (step 0: before
    the first step; none without such a split), ``history.csv`` both.

    Returns:
        Steps, the means of the losses over the last fifth of them, and the last validation.

    Raises:
        DataError: there is no labelled training case.
        ConfigError: class weights that do not fit, or a reward that cannot be found or fails when it is tried.
    """
    chosen = store.indices("train", labelled=True)
    if len(chosen) == 0:
        raise DataError("no labelled training case to tune on; give labels (labelsTr, or a label column)")
    weights = store_class_weights(config, store, chosen)
    loss = TuningLoss(config, None if weights is None else torch.tensor(weights, device=runtime.device))
    training = TuningCases(store, chosen, config, runtime, rules)
    validation = TuningCases(store, store.indices("val", labelled=True), config, runtime, rules)
    loss.mix.try_out(training.context([]), store.shape)
    history = tune(
        policy.network.to(runtime.device).eval(),
        lambda step: training.training(step, seed),
        loss,
        (lambda network: validation.measured(network, loss)) if len(validation.indices) else None,
        runtime, seed, checkpoint, progress, batches_per_epoch(len(chosen), config.batch_size),
    )  # fmt: skip
    save_model(policy, out)
    return write_figures(history, out)


def write_figures(history: list[dict[str, float]], out: Path) -> dict[str, float]:
    """Write ``losses.csv``, ``metrics.csv`` and ``history.csv``; the figures of the artifact."""
    own = [{k: v for k, v in row.items() if not k.startswith((VALIDATION, START))} for row in history]
    measured = [{"step": 0.0, **_without(START, history[0])}] if history else []
    measured += [{"step": row["step"], **_without(VALIDATION, row)} for row in history]
    measured = [row for row in measured if len(row) > 1]
    write_history(out / "losses.csv", own)
    write_history(out / "history.csv", [dict(row) for row in history])
    if measured:
        write_history(out / "metrics.csv", measured)
    last = (
        {VALIDATION + name: value for name, value in measured[-1].items() if name != "step"}
        if measured
        else {}
    )
    return {"steps": float(len(history)), **last_means(own), **last}


def _without(prefix: str, row: dict[str, float]) -> dict[str, float]:
    return {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}
