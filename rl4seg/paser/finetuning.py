"""Nets and policy in turn: each larger net learns on the patches that it is given, the policy from what they do.

The smallest net stays as it is: it is what the policy reads. As in `rl4seg.continued` the networks keep eval mode.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from reward_data.types import Float64, Progress, no_progress
from rl4seg.configs.paser import FinetuningConfig, PolicyTrainingConfig, RoutingRewardConfig
from rl4seg.data import batch_indices, batches_per_epoch
from rl4seg.losses import dice_cross_entropy
from rl4seg.networks import most_probable
from rl4seg.paser.grid import PatchGrid
from rl4seg.paser.policy import per_patch
from rl4seg.paser.policy_training import act, policy_loss
from rl4seg.paser.reward import gains, rewards
from rl4seg.paser.router import Router
from rl4seg.paser.table import patch_counts
from rl4seg.runtime import Runtime, step_generator
from rl4seg.training import Stateful, descend, run_steps

ORDER, ACT = 77, 78  # branches of the seed tree


@dataclass(frozen=True)
class Finetuning:
    """What a round needs: the router, and the settings of reward, policy and rounds."""

    router: Router
    reward: RoutingRewardConfig
    policy: PolicyTrainingConfig
    config: FinetuningConfig
    class_weights: Tensor | None

    def grid(self, images: Tensor) -> PatchGrid:
        """The patches of these images."""
        return self.router.grid(tuple(images.shape[2:]))

    def values(self, images: Tensor, truth: Tensor, small: Tensor) -> Tensor:
        """What every choice would earn with the nets as they are now. Shape: -> (B * P, N)."""
        answers = [most_probable(small)]
        answers += [most_probable(self.router.alone(images, net)) for net in range(1, len(self.router.nets))]
        counts = patch_counts(answers, truth, self.grid(images), small.shape[1])
        gain: Float64 = gains(counts, self.reward.gain, self.reward.class_weights)
        earned = rewards(gain, self.router.costs, self.reward.lambda_cost)
        return torch.from_numpy(earned).to(small).flatten(0, 1)


def routed_loss(
    work: Finetuning, net: int, images: Tensor, truth: Tensor, chosen: Tensor, runtime: Runtime
) -> Tensor:
    """Class-weighted cross-entropy and Dice of a net over the own pixels of its patches. Shape: chosen (n, 2)."""
    grid = work.grid(images)
    with runtime.autocast():
        logits = work.router.nets.models[net].network(grid.cut(images, chosen))
    label = grid.cut(truth[:, None], chosen)[:, 0]
    counted = torch.zeros_like(label, dtype=torch.bool)
    for row, (_, patch) in enumerate(chosen.tolist()):
        counted[row][grid.inside[patch]] = True
    own = logits.float().movedim(1, -1)[counted].T[None]  # (1, K, pixels)
    return dice_cross_entropy(own, label[counted][None], work.config.dice_weight, work.class_weights)


def finetune_routing(
    work: Finetuning,
    images: Tensor,
    truth: Tensor,
    seed: int,
    runtime: Runtime,
    checkpoint: Path,
    progress: Progress = no_progress,
) -> list[dict[str, float]]:
    """Train larger nets and policy in place, in turn; returns the figures of every round.

    Shape: images (I, C, *S), truth (I, *S) int64.
    """
    router, config = work.router, work.config
    router.nets.eval()
    router.policy.train()
    networks = [model.network for model in router.nets.models]
    nets = {
        net: torch.optim.Adam(networks[net].parameters(), config.net_learning_rate)
        for net in range(1, len(networks))
    }
    chooser = torch.optim.Adam(router.policy.parameters(), config.policy_learning_rate)

    def round_(index: int) -> dict[str, float]:
        generator = step_generator(seed, ACT, index)
        rows = batch_indices(len(images), config.batch_size, index, seed, ORDER)
        some, label = images[rows], truth[rows]
        look = router.look(some)
        alpha = config.exploration.alpha(index, config.steps)
        # 1 The policy acts; every net learns on what it was given.
        logits = per_patch(router.policy(look.read)).flatten(0, 1)
        actions, weight = act(logits, config.samples, config.exploration, alpha, generator)
        given = actions[:, 0].reshape(len(some), -1).cpu()
        losses: dict[str, float] = {}
        for net, optimiser in nets.items():
            chosen = (given == net).nonzero()
            if len(chosen):
                loss = routed_loss(work, net, some, label, chosen, runtime)
                descend(optimiser, loss, list(networks[net].parameters()), work.policy.grad_norm)
                losses[f"loss_{router.nets.names[net]}"] = loss.item()
        # 2 The policy learns from the nets as they are now.
        values = work.values(some, label, look.logits)
        loss, figures = policy_loss(
            logits, values, actions, weight, work.policy.baseline, work.policy.entropy_bonus
        )
        descend(chooser, loss, list(router.policy.parameters()), work.policy.grad_norm)
        return {"loss": loss.item(), **figures, **losses}

    states: dict[str, Stateful] = {"policy": router.policy, "chooser": chooser}
    for net, optimiser in nets.items():
        states |= {f"net_{net}": networks[net], f"optimiser_{net}": optimiser}
    history = run_steps(
        round_, config.steps, states, checkpoint, progress, config.checkpoint_seconds, runtime.device,
        batches_per_epoch(len(images), config.batch_size),
    )  # fmt: skip
    router.policy.eval()
    return history
