"""PPO for segmentation as a single-step decision: state = image, action = mask, reward per pixel.

Read `finetune` (the loop), then `Learner.round` (act once, update k times), then `Learner.loss` (the objective). Two
forms share them: RL4Seg's per-pixel critic (arXiv 2406.17902) and a group-relative baseline over M spatially
correlated masks of the same image (arXiv 2402.03300). The policy runs in eval mode throughout, so a rollout changes
no normalisation statistics and the rollout's forward pass is also the first update's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reward_data.anatomy import RuleSet
from reward_data.errors import DataError
from reward_data.types import Progress, no_progress
from rl4seg import losses
from rl4seg.configs.ppo import PPOConfig
from rl4seg.data import batches_per_epoch
from rl4seg.degrade import degrade
from rl4seg.histories import write_history
from rl4seg.networks import build_network, reestimate_statistics, shrink_and_perturb
from rl4seg.policies import Model, save_model
from rl4seg.reward_net import RewardModel
from rl4seg.rewards import mask_rewards
from rl4seg.rollout import Rollout, action_log_prob, sample_masks
from rl4seg.runtime import Runtime, derive_seed, step_generator
from rl4seg.target_data import Anchor, Minibatch, TargetData
from rl4seg.training import Stateful, last_means, run_steps

NOISE, INIT, PERTURB = 22, 23, 25  # branches of the seed tree


@dataclass
class Learner:
    """Everything that one round of PPO touches."""

    config: PPOConfig
    iteration: int
    policy: torch.nn.Module
    reference: torch.nn.Module
    critic: torch.nn.Module | None
    reward: RewardModel | None
    rules: RuleSet
    optimiser: torch.optim.Optimizer
    runtime: Runtime

    def logits(self, images: Tensor) -> Tensor:
        """Policy logits with gradient. Shape: (B, C, *S) -> (B, K, *S)."""
        with self.runtime.autocast():
            out: Tensor = self.policy(images)
        return out

    def value(self, images: Tensor) -> Tensor:
        """Per-pixel critic in [0, 1], one value for all masks of an image. Shape: (B, C, *S) -> (B, M, *S)."""
        shape = (len(images), self.config.samples, *images.shape[2:])
        if self.critic is None:
            return images.new_zeros(shape)
        with self.runtime.autocast():
            out: Tensor = self.critic(images)
        return out.sigmoid().expand(shape)

    @torch.no_grad()
    def act(
        self, batch: Minibatch, logits: Tensor, value: Tensor, generator: torch.Generator
    ) -> tuple[Rollout, Tensor]:
        """Sample masks and score all that stays fixed during the k updates; also their validity (B, M)."""
        config = self.config
        sigma = config.noise_length * max(batch.images.shape[2:])
        actions = sample_masks(
            logits, config.samples, config.noise_mix, sigma, generator, config.first_argmax
        )
        given, known = self._given(batch, actions)
        actions = torch.where(given, batch.truth[:, None], actions)
        with self.runtime.autocast():
            logits_ref = self.reference(batch.images)
        log_prob, log_prob_ref = action_log_prob(logits, actions), action_log_prob(logits_ref, actions)
        reward, valid = mask_rewards(
            config.reward, batch.images, actions, self.rules, batch.spacing_mm, self.reward
        )
        reward = torch.where(known, (actions == batch.truth[:, None]).to(reward), reward)
        if config.divergence_in == "reward":
            reward = reward - config.divergence / self.iteration * (log_prob - log_prob_ref)
        rollout = Rollout(
            batch.images,
            actions,
            log_prob,
            log_prob_ref,
            logits_ref,
            reward,
            value.detach(),
            self._acting(batch),
        )
        return rollout, valid

    def _acting(self, batch: Minibatch) -> Tensor:
        """Images that the policy gradient is for: all, or those with no accepted mask or an expert's. Shape: (B,)."""
        if self.config.accepted_images != "left_to_anchor":
            return torch.ones_like(batch.accepted)
        return ~batch.accepted | _reviewed(batch)

    def _given(self, batch: Minibatch, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Which actions are replaced by the known mask (reward 1), and which are rewarded by their agreement with it.

        Accepted predictions and an expert's masks replace all M samples of their image. With a group baseline that
        would leave nothing to compare, so there an expert's mask replaces the last sample alone and its siblings earn
        1 where they agree with it, else 0. Shape: (B, M, 1, ...) both.
        """
        one = [1] * (actions.ndim - 2)
        reviewed, as_actions = _reviewed(batch), self.config.accepted_images == "as_actions"
        taken = (batch.accepted & as_actions & ~reviewed).reshape(-1, 1)
        expert = reviewed.reshape(-1, 1)
        place = torch.arange(actions.shape[1], device=actions.device)[None]
        replaced = expert & (place == place.max()) if self.config.baseline == "group" else expert
        shape = (*actions.shape[:2], *one)
        known = (taken | expert).expand(actions.shape[:2])
        return (taken | replaced).expand(actions.shape[:2]).reshape(shape), known.reshape(shape)

    def advantage(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Detached advantage and the weight of each action element. Shape: (B, M, *S) both.

        Group: compared with the siblings, on the pixels where they disagree. Critic: R - V, everywhere. Images that are
        left to the anchor have advantage 0 and keep their weight, so that the push shrinks as more masks are accepted.
        """
        scale = self.config.advantage_scale * rollout.acting.reshape(-1, *[1] * (rollout.reward.ndim - 1))
        if self.config.baseline == "group":
            gain = losses.group_relative_advantage(rollout.reward, self.config.advantage_floor)
            differ = (rollout.actions != rollout.actions[:, :1]).any(1, keepdim=True)
            return scale * gain, differ.expand(gain.shape).to(gain)
        return scale * (rollout.reward - rollout.value), torch.ones_like(rollout.reward)

    def loss(self, rollout: Rollout, logits: Tensor, value: Tensor) -> tuple[Tensor, dict[str, float]]:
        """policy_weight * clipped surrogate - entropy bonus + divergence from the reference + value loss."""
        config = self.config
        gain, weight = self.advantage(rollout)
        log_prob = action_log_prob(logits, rollout.actions)
        policy_loss = losses.clipped_policy_loss(log_prob, rollout.log_prob, gain, config.clip, weight)
        entropy = losses.categorical_entropy(logits).mean()
        kl_ref = losses.categorical_kl(logits, rollout.logits_ref).mean()
        total = config.policy_weight * policy_loss - config.entropy / self.iteration * entropy
        if config.divergence_in == "loss":
            total = total + config.divergence / self.iteration * kl_ref
        stats = {
            "policy_loss": policy_loss,
            "entropy": entropy,
            "kl_ref": kl_ref,
            "approx_kl": losses.approximate_kl(log_prob, rollout.log_prob),
            "clip_fraction": losses.clip_fraction(log_prob, rollout.log_prob, config.clip),
        }
        if self.critic is not None:
            stats["value_loss"] = losses.value_loss(value, rollout.reward)
            stats["explained_variance"] = losses.explained_variance(value, rollout.reward)
            total = total + stats["value_loss"]
        return total, {name: stat.item() for name, stat in stats.items()}

    def anchor_loss(self, logits: Tensor, anchor: Anchor) -> Tensor:
        """Dice + cross-entropy on accepted predictions. Shape: logits (B, K, *S)."""
        return self.config.anchor_weight * losses.dice_cross_entropy(logits, anchor.masks)

    def update(self, loss: Tensor) -> None:
        """One optimiser step with clipped gradients, policy and critic each by itself."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        for network in (self.policy, *([self.critic] if self.critic is not None else [])):
            torch.nn.utils.clip_grad_norm_(network.parameters(), self.config.grad_norm)
        self.optimiser.step()

    def round(
        self, batch: Minibatch, anchors: Sequence[Anchor], generator: torch.Generator
    ) -> dict[str, float]:
        """Act once, update k times. ``anchors`` holds one anchor batch per update, or nothing.

        The policy may act on a degraded view; reference, reward and critic see the image itself.

        Passes at k = 5 with a critic: 5 policy + 5 critic + 1 reference + 1 reward forward, 5 + 5 backward.
        """
        rows: list[dict[str, float]] = []
        rollout: Rollout | None = None
        count = len(batch.images)
        views = degrade(self.config.act_degrade, batch.images, generator)
        for number in range(self.config.updates):
            anchor = anchors[number] if anchors else None
            both = torch.cat([views, anchor.images]) if anchor else views
            logits, value = self.logits(both), self.value(batch.images)
            if rollout is None:
                rollout, valid = self.act(batch, logits[:count].detach(), value, generator)
                outcome = {"reward": rollout.reward.mean().item(), "validity": valid.mean().item()}
            loss, row = self.loss(rollout, logits[:count], value)
            if anchor:
                anchored = self.anchor_loss(logits[count:], anchor)
                loss, row["anchor_loss"] = loss + anchored, anchored.item()
            self.update(loss)
            rows.append(row)
        return {**outcome, **{name: float(np.mean([row[name] for row in rows])) for name in rows[0]}}

    def anchor_round(self, anchors: Sequence[Anchor]) -> dict[str, float]:
        """The control with PPO off: k updates on the anchor alone."""
        values = []
        for anchor in anchors:
            loss = self.anchor_loss(self.logits(anchor.images), anchor)
            self.update(loss)
            values.append(loss.item())
        return {"anchor_loss": float(np.mean(values))}


def _reviewed(batch: Minibatch) -> Tensor:
    """Images whose mask is an expert's. Shape: (B,) bool."""
    return torch.zeros_like(batch.accepted) if batch.reviewed is None else batch.reviewed


def _learner(
    policy: Model,
    reward: RewardModel | None,
    rules: RuleSet,
    config: PPOConfig,
    iteration: int,
    seed: int,
    data: TargetData,
) -> Learner:
    runtime = data.runtime
    network, reference = policy.network.to(runtime.device), policy.clone().network
    if config.shrink_perturb is not None and iteration > 1:
        generator = torch.Generator().manual_seed(derive_seed(seed, PERTURB))
        shrink_and_perturb(network, config.shrink_perturb.shrink, config.shrink_perturb.sigma, generator)
        reestimate_statistics(network, [data.minibatch(i).images for i in range(min(8, len(data.indices)))])
    for frozen in (reference, *([reward.model.network] if reward else [])):
        frozen.eval().requires_grad_(False)
    groups = [{"params": list(network.parameters()), "lr": config.learning_rate}]
    critic = None
    if config.baseline == "critic" and config.policy_weight:
        critic = build_network(
            config.critic, policy.spec.in_channels, 1, len(policy.spec.shape), (seed, INIT)
        )
        critic.to(runtime.device).eval()
        groups.append({"params": list(critic.parameters()), "lr": config.critic_learning_rate})
    optimiser = torch.optim.Adam(groups)
    return Learner(config, iteration, network.eval(), reference, critic, reward, rules, optimiser, runtime)


def finetune(
    policy: Model,
    reward: RewardModel | None,
    data: TargetData,
    rules: RuleSet,
    iteration: int,
    out: Path,
    checkpoint: Path,
    progress: Progress = no_progress,
) -> dict[str, float]:
    """One iteration of PPO on unlabelled target images; writes the policy and ``history.csv`` into ``out``.

    Args:
        policy: where to start; a frozen copy of it is the reference.
        reward: the calibrated reward net; may be None where the config does not use it.
        iteration: i = 1, 2, ...; entropy bonus and divergence are divided by it.

    Raises:
        DataError: there is no target image, or the anchor is all there is to learn from and it is empty.
        Rl4SegError: a loss became NaN or infinite.
    """
    config, seed = data.config, data.seed
    if len(data.indices) == 0:
        raise DataError("the target has no training image; check target.path and its split column")
    if config.policy_weight == 0 and len(data.anchors) + len(data.replayed) == 0:
        raise DataError(
            "PPO is off and no prediction was accepted as anchor: nothing to learn from; loosen the rules"
        )
    learner = _learner(policy, reward, rules, config, iteration, seed, data)
    per_epoch = batches_per_epoch(len(data.indices), config.batch_size)
    total = config.epochs * per_epoch

    def step(index: int) -> dict[str, float]:
        generator = step_generator(seed, NOISE, index)
        anchors = data.anchor_batches(index)
        if config.policy_weight == 0:
            return learner.anchor_round(anchors)
        return learner.round(data.minibatch(index), anchors, generator)

    states: dict[str, Stateful] = {"policy": learner.policy, "optimiser": learner.optimiser}
    if learner.critic is not None:
        states["critic"] = learner.critic
    history = run_steps(
        step, total, states, checkpoint, progress, config.checkpoint_seconds, data.runtime.device, per_epoch
    )
    write_history(out / "history.csv", history)
    save_model(policy, out)
    return {"rounds": float(total), "steps": float(total * config.updates), **last_means(history)}
