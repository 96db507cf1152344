"""The loop that teaches a keep-or-drop policy, whatever is done with the patches that it keeps.

Read `train_keep`: one page, the paper's steps in order. A `KeepBatch` says what a keep map is worth: the classifier's
answer on the kept patches (`rl4seg.patchdrop.classification`), or the mIoU of a stitched mask
(`rl4seg.patchdrop.windows`). The policy gradient is `rl4seg.reinforce`, with two classes, drop and keep.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from reward_data.types import Progress, no_progress
from rl4seg.configs.patchdrop import KeepTrainingConfig
from rl4seg.patchdrop.bernoulli import greedy_keep, keep_logits, keep_reward, unique_policies
from rl4seg.reinforce import baseline_values, mask_log_prob, reinforce_loss
from rl4seg.rollout import sample_masks
from rl4seg.runtime import Runtime, derive_seed
from rl4seg.training import Stateful, descend, run_steps

SAMPLE = 84  # branch of the seed tree


class KeepBatch(Protocol):
    """Some images and what their keep maps are worth."""

    @property
    def low(self) -> Tensor:
        """What the policy sees. Shape: (B, C, *s)."""
        ...

    def quality(self, keep: Tensor) -> Tensor:
        """How good the answer is from the kept patches, in [0, 1]; no gradient. Shape: (B, M, P) bool -> (B, M)."""
        ...

    def loss(self, keep: Tensor) -> Tensor | None:
        """The loss of whoever learns beside the policy, (); None where nobody does. Shape: keep (B, M, P)."""
        ...


def steps_of(config: KeepTrainingConfig, count: int) -> int:
    """Optimiser steps of a training on ``count`` images."""
    return config.steps or max(1, round(config.epochs * count / min(config.batch_size, count)))


def alpha_at(config: KeepTrainingConfig, index: int, total: int) -> float:
    """The smoothing of a step: alpha, or linear from alpha to alpha_end."""
    if config.alpha_end is None or total < 2:
        return config.alpha
    return config.alpha + (config.alpha_end - config.alpha) * index / (total - 1)


def keep_loss(
    logits: Tensor, batch: KeepBatch, config: KeepTrainingConfig, alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """(policy loss (), sampled keep maps (B, M, P), figures) of one batch. Shape: logits (B, P).

    -mean (R(a) - R(greedy)) log pi(a), a ~ Bernoulli(p~); arXiv 2003.00425, eq. 5 to 9.
    """
    greedy = greedy_keep(logits)
    two = keep_logits(logits, alpha)
    maps = sample_masks(two.detach(), config.samples, 0.0, 0.0, generator, False)
    keep = maps.bool()
    quality, own = batch.quality(torch.cat([keep, greedy[:, None]], 1)).split([config.samples, 1], 1)
    reward = keep_reward(quality, keep, config.penalty)
    greedy_reward = keep_reward(own, greedy[:, None], config.penalty)[:, 0]
    baseline = baseline_values(reward, config.baseline, greedy_reward)
    loss = reinforce_loss(mask_log_prob(two, maps, reduction=config.log_prob), reward, baseline)
    patches = greedy.float().sum(1)
    figures = {
        "policy_loss": loss.item(),
        "reward": reward.mean().item(),
        "baseline_reward": greedy_reward.mean().item(),
        "quality": own.mean().item(),
        "patches": patches.mean().item(),
        "patches_sd": patches.std(correction=0).item(),
        "patches_sampled": keep.float().sum(-1).mean().item(),
        "unique_policies": float(unique_policies(greedy)),
        "alpha": alpha,
    }
    return loss, keep, figures


def train_keep(
    policy: nn.Module,
    beside: nn.Module | None,
    read: Callable[[int], KeepBatch],
    config: KeepTrainingConfig,
    total: int,
    seed: int,
    runtime: Runtime,
    checkpoint: Path,
    progress: Progress = no_progress,
    per_epoch: int | None = None,
) -> list[dict[str, float]]:
    """Train a policy, and the network ``beside`` it that learns on what it keeps, in place; every step's figures.

    Args:
        read: the batch of a step; a function of the step alone, so that a killed training ends with the same bits.

    Raises:
        Rl4SegError: a figure became NaN or infinite.
    """
    learners = {"policy": (policy, config.learning_rate)}
    if beside is not None:
        learners["beside"] = (beside, config.classifier_rate)
    groups = [{"params": list(network.parameters()), "lr": rate} for network, rate in learners.values()]
    states: dict[str, Stateful] = {name: network for name, (network, _) in learners.items()}
    optimiser = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
    parameters: list[Tensor] = [weight for group in groups for weight in group["params"]]  # type: ignore[attr-defined]
    policy.train()

    def step(index: int) -> dict[str, float]:
        batch = read(index)  # 1. The images at low resolution, and the policy's probabilities.
        with runtime.autocast():
            logits = policy(batch.low)
        # 2. Sampled keep maps against the thresholded policy, and the gradient of the expected reward.
        generator = torch.Generator().manual_seed(derive_seed(seed, SAMPLE, index))
        loss, keep, figures = keep_loss(logits, batch, config, alpha_at(config, index, total), generator)
        # 3. The classifier learns on what was kept.
        other = batch.loss(keep)
        if other is not None:
            figures["cross_entropy"] = other.item()
            loss = loss + other
        descend(optimiser, loss, parameters, config.grad_norm)
        return figures

    states["optimiser"] = optimiser
    history = run_steps(
        step, total, states, checkpoint, progress, config.checkpoint_seconds, runtime.device, per_epoch
    )
    policy.eval()
    return history
