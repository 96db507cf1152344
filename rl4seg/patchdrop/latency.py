"""What skipping saves, measured: seconds per image with truly skipped compute, and multiply-adds counted.

Two savings are told apart. *Acquisition*: the share of high-resolution pixels that need not be taken, 1 - k / P; it
holds however the classifier works. *Compute*: seconds and multiply-adds of the whole decision, policy and
low-resolution stream included, against the high-resolution classifier on everything.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reward_data.image_store import ImageStore, spread
from rl4seg.configs.patchdrop import LatencyConfig
from rl4seg.patchdrop.models import DropModel
from rl4seg.runtime import Runtime


@dataclass(frozen=True)
class TimedArm:
    """One way of answering: ``answer`` of images (B, C, *S) in [0, 1]."""

    name: str
    answer: Callable[[Tensor], Tensor]


def whole_answer(model: DropModel) -> Callable[[Tensor], Tensor]:
    """The classifier alone: every patch, or the low-resolution image where there is no high-resolution classifier."""
    return lambda images: model.classify(images, model.lowered(images), None)


def skipped_answer(model: DropModel) -> Callable[[Tensor], Tensor]:
    """Low resolution, policy, then the classifier on the patches that it keeps."""

    def answer(images: Tensor) -> Tensor:
        low = model.lowered(images)
        return model.classify(images, low, model.decide(low))

    return answer


@torch.no_grad()
def measured(
    arms: Sequence[TimedArm], store: ImageStore, config: LatencyConfig, runtime: Runtime
) -> dict[str, dict[str, float]]:
    """Milliseconds per image by arm and batch size, and multiply-adds per image in millions.

    The arms take turns, so that whatever else the machine does meets all of them; the median of the rounds counts.
    """
    images = runtime.tensor(store.images(spread(store.test, config.images)))
    out: dict[str, dict[str, float]] = {arm.name: {"mmacs": _mmacs(arm, images, runtime)} for arm in arms}
    for size in config.batch_sizes:
        # few single images are enough: each costs as much as a whole batch of small ones
        batches = list(images[: min(len(images), 64) if size == 1 else len(images)].split(size))
        for arm in arms:
            _seconds(arm, batches[:2], runtime)
        rounds = [{arm.name: _seconds(arm, batches, runtime) for arm in arms} for _ in range(config.repeats)]
        count = sum(len(batch) for batch in batches)
        for arm in arms:
            median = statistics.median(seconds[arm.name] for seconds in rounds)
            out[arm.name][f"ms_batch_{size}"] = 1000 * median / count
    return out


def _seconds(arm: TimedArm, batches: Sequence[Tensor], runtime: Runtime) -> float:
    waits = runtime.device.type == "cuda"
    if waits:
        torch.cuda.synchronize(runtime.device)
    start = time.perf_counter()
    with runtime.autocast():
        for batch in batches:
            arm.answer(batch)
    if waits:
        torch.cuda.synchronize(runtime.device)
    return time.perf_counter() - start


def _mmacs(arm: TimedArm, images: Tensor, runtime: Runtime) -> float:
    """Multiply-adds of convolutions and matrix products per image, counted while it runs, in millions."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, runtime.autocast():
        arm.answer(images)
    return float(counter.get_total_flops() / 2 / len(images) / 1e6)
