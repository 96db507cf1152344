"""The one resumable training loop: numbered steps, a checkpoint now and then, a tidy history.

Every random draw of a step is a function of (seed, step) - `rl4seg.runtime.step_generator` - so the state to save is
the step, the weights, the optimisers and the history; a run killed anywhere ends with the bits of an undisturbed one.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from reward_data.errors import Rl4SegError
from reward_data.types import Progress

CHECKPOINT = "state.pt"


class Stateful(Protocol):
    """Anything with a state dict: networks, optimisers, schedulers."""

    def state_dict(self) -> dict[str, Any]:
        """The state."""
        ...

    def load_state_dict(self, state_dict: Any) -> Any:
        """Restore it."""
        ...


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write atomically: a kill leaves the old checkpoint or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def run_steps(
    step: Callable[[int], dict[str, float]],
    total: int,
    states: Mapping[str, Stateful],
    checkpoint: Path,
    progress: Progress,
    every_seconds: float = 20.0,
    device: torch.device | None = None,
    per_epoch: int | None = None,
) -> list[dict[str, float]]:
    """Call ``step(i)`` for i in [done, total) and return every step's metrics, earlier ones from the checkpoint.

    Args:
        step: does optimiser step i and returns its metrics by name.
        states: what the checkpoint keeps besides the history.
        checkpoint: folder that survives a kill.
        every_seconds: time between checkpoints; 0 saves after every step.
        per_epoch: steps of an epoch, for the progress to say in which one it is.

    Raises:
        Rl4SegError: a metric became NaN or infinite.
    """
    path = checkpoint / CHECKPOINT
    history: list[dict[str, float]] = []
    if path.exists():
        saved = torch.load(path, map_location=device or "cpu", weights_only=True)
        for name, part in states.items():
            part.load_state_dict(saved[name])
        history = saved["history"]
    saved_at = time.monotonic()
    for index in range(len(history), total):
        metrics = {"step": float(index + 1), **step(index)}
        bad = [name for name, value in metrics.items() if not math.isfinite(value)]
        if bad:
            raise Rl4SegError(
                f"training diverged at step {index + 1} of {total}: {bad[0]} is {metrics[bad[0]]}; "
                "lower the learning rate or use runtime.precision=float32"
            )
        history.append(metrics)
        if time.monotonic() - saved_at >= every_seconds and index + 1 < total:
            save_checkpoint(path, {**{k: v.state_dict() for k, v in states.items()}, "history": history})
            saved_at = time.monotonic()
        epoch = {"epoch": 1.0 + index // per_epoch} if per_epoch else {}
        progress(index + 1, total, epoch | {k: v for k, v in metrics.items() if k != "step"})
    return history


def descend(
    optimiser: torch.optim.Optimizer, loss: Tensor, parameters: list[Tensor], grad_norm: float | None = None
) -> None:
    """One optimiser step, the gradients clipped to ``grad_norm``."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    if grad_norm is not None:
        torch.nn.utils.clip_grad_norm_(parameters, grad_norm)
    optimiser.step()


def last_means(history: list[dict[str, float]]) -> dict[str, float]:
    """The means of every metric over the last fifth of the steps."""
    tail = history[-max(1, len(history) // 5) :]
    return {name: float(np.mean([row[name] for row in tail])) for name in tail[-1] if name != "step"}
