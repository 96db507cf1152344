"""REINFORCE for the routing policy, on rewards that are known for every choice: the nets are frozen meanwhile.

    grad E[R] = E[(R_p(a) - b) grad log pi(a | patch p)]     (Williams 1992), plus tau times the policy's entropy

With probability 1 - alpha a whole batch acts at random, as published; a random action counts pi(a) N times, so that
the gradient stays that of the policy. See `rl4seg.reinforce` for the baselines.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from reward_data.types import Progress, no_progress
from rl4seg.configs.paser import ExplorationConfig, PolicyTrainingConfig
from rl4seg.configs.reward_tuning import Baseline
from rl4seg.data import batch_indices, batches_per_epoch
from rl4seg.paser.policy import RoutingPolicy, per_patch
from rl4seg.reinforce import baseline_values, reinforce_loss
from rl4seg.runtime import Runtime, step_generator
from rl4seg.training import Stateful, descend, run_steps

ORDER, ACT = 71, 72  # branches of the seed tree


def act(
    logits: Tensor, samples: int, exploration: ExplorationConfig, alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """M choices per patch and the weight of each. Shape: (n, N) -> (n, M) int64, (n, M).

    With probability 1 - ``alpha`` all of them are uniform, with weight pi(a) N where the config asks for it.
    """
    nets = logits.shape[1]
    probabilities = logits.detach().softmax(1)
    explore = torch.rand((), generator=generator).item() >= alpha
    acting = torch.full_like(probabilities, 1 / nets) if explore else probabilities
    actions = torch.multinomial(acting.cpu(), samples, replacement=True, generator=generator).to(
        logits.device
    )
    weight = torch.ones_like(actions, dtype=logits.dtype)
    if explore and exploration.importance:
        weight = probabilities.gather(1, actions) * nets
    return actions, weight


def policy_loss(
    logits: Tensor, rewards: Tensor, actions: Tensor, weight: Tensor, baseline: Baseline, entropy_bonus: float
) -> tuple[Tensor, dict[str, float]]:
    """The loss of one step and its figures. Shape: (n, N), (n, N), (n, M), (n, M)."""
    log_pi = logits.log_softmax(1)
    earned = rewards.gather(1, actions)
    greedy = rewards.gather(1, logits.argmax(1, keepdim=True))[:, 0]
    better = weight * (earned - baseline_values(earned, baseline, greedy))
    gradient = reinforce_loss(log_pi.gather(1, actions), better, torch.zeros_like(better))
    entropy = -(log_pi.exp() * log_pi).sum(1).mean()
    figures = {
        "reward": greedy.mean().item(),
        "best": rewards.max(1).values.mean().item(),
        "entropy": entropy.item(),
    }
    return gradient - entropy_bonus * entropy, figures


def train_routing(
    policy: RoutingPolicy,
    read: Tensor,
    rewards: Tensor,
    config: PolicyTrainingConfig,
    seed: int,
    runtime: Runtime,
    checkpoint: Path,
    progress: Progress = no_progress,
) -> list[dict[str, float]]:
    """Train the policy in place; returns every step's figures.

    Args:
        read: what the policy reads of all images and their views. Shape: (V, F, ...).
        rewards: of every choice. Shape: (V, P, N).
    """
    policy.to(runtime.device).train()
    read, rewards = read.to(runtime.device), rewards.to(runtime.device, torch.float32)
    optimiser = torch.optim.AdamW(
        policy.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)

    def step(index: int) -> dict[str, float]:
        generator = step_generator(seed, ACT, index)
        chosen = batch_indices(len(read), config.batch_size, index, seed, ORDER)
        logits = per_patch(policy(read[chosen])).flatten(0, 1)
        alpha = config.exploration.alpha(index, config.steps)
        actions, weight = act(logits, config.samples, config.exploration, alpha, generator)
        values = rewards[chosen].flatten(0, 1)
        loss, figures = policy_loss(
            logits, values, actions, weight, config.baseline, config.entropy_weight(index)
        )
        descend(optimiser, loss, list(policy.parameters()), config.grad_norm)
        schedule.step()
        return {"loss": loss.item(), **figures}

    states: dict[str, Stateful] = {"policy": policy, "optimiser": optimiser, "schedule": schedule}
    history = run_steps(
        step, config.steps, states, checkpoint, progress, config.checkpoint_seconds, runtime.device,
        batches_per_epoch(len(read), config.batch_size),
    )  # fmt: skip
    policy.eval()
    return history
