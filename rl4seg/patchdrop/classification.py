"""Training of classifiers and of policies on labelled images: the stages of PatchDrop.

`train_classifier` makes the high- or the low-resolution classifier; `train_policy` is Pt (policy only), Ft-1 (with the
high-resolution classifier) and Ft-2 (two streams); `train_rival` gives a classifier that sees as many patches, chosen
blindly, the same number of steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from reward_data.image_store import ImageStore
from reward_data.types import Int64, Progress, no_progress
from rl4seg.configs.patchdrop import Chooser, ClassifierTrainingConfig, KeepTrainingConfig
from rl4seg.data import batch_indices, batches_per_epoch
from rl4seg.histories import write_history
from rl4seg.patchdrop.choosers import blind_keep
from rl4seg.patchdrop.learning import steps_of, train_keep
from rl4seg.patchdrop.models import DropModel, save_drop_model
from rl4seg.patchdrop.networks import DropClassifier, has_running_statistics
from rl4seg.runtime import Runtime, step_generator
from rl4seg.training import Stateful, descend, last_means, run_steps

ORDER, NOISE, BLIND = 85, 86, 87  # branches of the seed tree


def moved(images: Tensor, flip: bool, shift: float, generator: torch.Generator) -> Tensor:
    """Flip half of the images along their last axis and shift each by whole pixels, zeros coming in.

    Shape: (B, C, *S); the draw is on the CPU, the same for every device.
    """
    batch, dims = len(images), images.ndim - 2
    if flip:
        turned = (torch.rand(batch, generator=generator) < 0.5).to(images.device)
        images = torch.where(turned.reshape(-1, *[1] * (dims + 1)), images.flip(-1), images)
    for axis in range(dims):
        size = images.shape[2 + axis]
        reach = round(shift * size)
        if reach == 0:
            continue
        by = torch.randint(-reach, reach + 1, (batch,), generator=generator)
        source = (torch.arange(size)[None] + by[:, None]).to(images.device)
        column = [batch, *[size if d == axis + 1 else 1 for d in range(dims + 1)]]
        inside = ((source >= 0) & (source < size)).reshape(column)
        index = source.clamp(0, size - 1).reshape(column).expand(images.shape)
        images = images.gather(2 + axis, index) * inside
    return images


@dataclass(frozen=True)
class TrainingImages:
    """The training images of a store as augmented batches by (seed, step)."""

    store: ImageStore
    batch_size: int
    flip: bool
    shift: float
    seed: int
    runtime: Runtime

    @property
    def count(self) -> int:
        """How many training images there are."""
        return len(self.store.train)

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return batches_per_epoch(self.count, self.batch_size)

    def read(self, step: int) -> tuple[Tensor, Tensor, torch.Generator]:
        """Images (B, C, *S) in [0, 1], labels (B) and the step's generator."""
        places = self.store.train
        chosen = places[batch_indices(len(places), self.batch_size, step, self.seed, ORDER)]
        pixels = torch.from_numpy(self.store.pixels(chosen)).to(self.runtime.device)
        generator = step_generator(self.seed, NOISE, step)
        images = moved(pixels.float() / 255, self.flip, self.shift, generator)
        return images, self.runtime.tensor(self.store.labels(chosen), torch.long), generator


@dataclass(frozen=True)
class ImageBatch:
    """Images whose keep maps are worth a right answer; see `rl4seg.patchdrop.learning.KeepBatch`."""

    model: DropModel
    images: Tensor
    low: Tensor
    labels: Tensor
    runtime: Runtime
    learns: bool

    def quality(self, keep: Tensor) -> Tensor:
        """1 where the classifier, in eval mode, is right. Shape: (B, M, P) -> (B, M)."""
        with torch.no_grad(), self.runtime.autocast():
            answers = self.model.classify_maps(self.images, self.low, keep).argmax(-1)
        return (answers == self.labels[:, None]).float()

    def loss(self, keep: Tensor) -> Tensor | None:
        """Cross-entropy on the kept patches, mean over the samples, the classifier in train mode."""
        if not self.learns:
            return None
        return torch.stack([learned_loss(self, part) for part in keep.unbind(1)]).mean()


def learned_loss(batch: ImageBatch, keep: Tensor) -> Tensor:
    """Cross-entropy with gradients into the high-resolution classifier. Shape: keep (B, P) -> ()."""
    high = batch.model.high
    assert high is not None
    high.train(has_running_statistics(high))
    with batch.runtime.autocast():
        logits = batch.model.classify(batch.images, batch.low, keep)
    high.eval()
    return functional.cross_entropy(logits, batch.labels)


def train_classifier(
    model: DropModel,
    part: str,
    store: ImageStore,
    config: ClassifierTrainingConfig,
    seed: int,
    runtime: Runtime,
    out: Path,
    checkpoint: Path,
    progress: Progress = no_progress,
) -> dict[str, float]:
    """Train one of the classifiers, ``high`` or ``low``, on whole images; writes it and its history into ``out``.

    Raises:
        Rl4SegError: the loss became NaN or infinite.
    """
    network: DropClassifier = getattr(model.to(runtime), part)
    source = TrainingImages(store, config.batch_size, config.flip, config.shift, seed, runtime)
    total = config.steps or max(1, round(config.epochs * source.count / min(config.batch_size, source.count)))
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.learning_rate, total_steps=max(total, 2))
    network.train()

    def step(index: int) -> dict[str, float]:
        images, labels, _ = source.read(index)
        with runtime.autocast():
            logits = network(images if part == "high" else model.lowered(images))
        loss = functional.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
        descend(optimiser, loss, list(network.parameters()), config.grad_norm)
        schedule.step()
        return {"loss": loss.item(), "accuracy": (logits.argmax(1) == labels).float().mean().item()}

    states: dict[str, Stateful] = {"network": network, "optimiser": optimiser, "schedule": schedule}
    history = run_steps(
        step, total, states, checkpoint, progress, config.checkpoint_seconds, runtime.device, source.per_epoch
    )
    network.eval()
    return finish(model, history, out)


def train_policy(
    model: DropModel,
    learns: bool,
    store: ImageStore,
    config: KeepTrainingConfig,
    seed: int,
    runtime: Runtime,
    out: Path,
    checkpoint: Path,
    progress: Progress = no_progress,
) -> dict[str, float]:
    """Train the policy of a model; with ``learns`` its high-resolution classifier too (Ft-1; two streams: Ft-2).

    Raises:
        Rl4SegError: a figure became NaN or infinite.
    """
    model.to(runtime)
    assert model.policy is not None
    assert model.high is not None
    source = TrainingImages(store, config.batch_size, config.flip, config.shift, seed, runtime)

    def read(step: int) -> ImageBatch:
        images, labels, _ = source.read(step)
        return ImageBatch(model, images, model.lowered(images), labels, runtime, learns)

    total = steps_of(config, source.count)
    history = train_keep(
        model.policy, model.high if learns else None, read, config, total, seed, runtime, checkpoint, progress,
        source.per_epoch,
    )  # fmt: skip
    return finish(model, history, out)


def train_rival(
    model: DropModel,
    counts: Int64,
    chooser: Chooser,
    order: Tensor,
    store: ImageStore,
    config: KeepTrainingConfig,
    seed: int,
    runtime: Runtime,
    out: Path,
    checkpoint: Path,
    progress: Progress = no_progress,
) -> dict[str, float]:
    """Train the high-resolution classifier on patches that are chosen without looking, as many as a policy keeps.

    Args:
        counts: numbers of patches to draw from, e.g. those that a policy keeps of the training images.
        chooser: random, or another: the first patches of ``order``.

    Raises:
        Rl4SegError: the loss became NaN or infinite.
    """
    high = model.to(runtime).high
    assert high is not None
    source = TrainingImages(store, config.batch_size, config.flip, config.shift, seed, runtime)
    total = steps_of(config, source.count)
    optimiser = torch.optim.AdamW(
        high.parameters(), lr=config.classifier_rate, weight_decay=config.weight_decay
    )

    def step(index: int) -> dict[str, float]:
        images, labels, _ = source.read(index)
        rng = np.random.default_rng([seed, BLIND, index])
        drawn = (rng.choice(counts, len(images)) for _ in range(config.samples))  # as many as a policy's
        keep = torch.stack([blind_keep(chooser, own, order, rng) for own in drawn], 1).to(runtime.device)
        loss = ImageBatch(model, images, model.lowered(images), labels, runtime, True).loss(keep)
        assert loss is not None
        descend(optimiser, loss, list(high.parameters()), config.grad_norm)
        return {"cross_entropy": loss.item(), "patches": keep.float().sum(-1).mean().item()}

    history = run_steps(
        step, total, {"network": high, "optimiser": optimiser}, checkpoint, progress,
        config.checkpoint_seconds, runtime.device, source.per_epoch,
    )  # fmt: skip
    return finish(model, history, out)


def finish(model: DropModel, history: list[dict[str, float]], out: Path) -> dict[str, float]:
    """Leave the model and its history in ``out``; the figures of its artifact."""
    write_history(out / "history.csv", history, every=max(1, len(history) // 200))
    save_drop_model(model, out)
    return {"steps": float(len(history)), **last_means(history)}
