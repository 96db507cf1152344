"""What a policy learns by in reward tuning: one function of logits and truth for every estimator and rival."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from reward_data.errors import ConfigError
from rl4seg.configs.reward_tuning import TuningConfig
from rl4seg.networks import most_probable
from rl4seg.overlap_losses import dice_loss, lovasz_softmax
from rl4seg.reinforce import baseline_values, mask_log_prob, reinforce_loss, sample
from rl4seg.reward_registry import RewardMix
from rl4seg.reward_weighted import (
    check_counts,
    counted_pixels,
    deficit_weights,
    image_cross_entropy,
    weighted_cross_entropy,
)
from rl4seg.task_rewards import RewardContext

Figures = dict[str, float]


class TuningLoss:
    """The loss of a config: of logits (B, K, *S) and truth (B, *S), with its figures for the log.

    Args:
        class_weights: of the cross-entropies, Shape: (K,); None = equal.

    Raises:
        ConfigError: a reward that cannot be found.
    """

    def __init__(self, config: TuningConfig, class_weights: Tensor | None = None) -> None:
        self.config, self.class_weights = config, class_weights
        self.mix = RewardMix(config.reward)
        self._losses: dict[str, Callable[..., tuple[Tensor, Figures]]] = {
            "reinforce": self._reinforce,
            "weighted_ce": self._weighted,
            "cross_entropy": self._cross_entropy,
            "dice": self._dice,
            "lovasz": self._lovasz,
        }

    def __call__(
        self, logits: Tensor, truth: Tensor, context: RewardContext, generator: torch.Generator
    ) -> tuple[Tensor, Figures]:
        """Scalar loss with gradient, and figures.

        Raises:
            ConfigError: a reward returned NaN, another shape, or left [0, 1].
            DataError: no pixel of the batch counts, or class weights do not fit the classes.
        """
        check_counts(truth, None, self.config.ignore_index)
        loss, figures = self._losses[self.config.estimator](logits, truth, context, generator)
        return self.config.loss_weight * loss, figures

    def cross_entropy(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Cross-entropy, mean over images. Shape: (B, K, *S), (B, *S) -> ()."""
        return self._per_image(logits, truth).mean()

    def _per_image(self, logits: Tensor, truth: Tensor) -> Tensor:
        config = self.config
        return image_cross_entropy(logits, truth, self.class_weights, config.ignore_index, config.reduction)

    def _reinforce(
        self, logits: Tensor, truth: Tensor, context: RewardContext, generator: torch.Generator
    ) -> tuple[Tensor, Figures]:
        """Sample M masks per image, score them whole, raise the probability of those above their baseline."""
        config = self.config.reinforce
        masks = sample(logits, config, generator)
        reward, greedy = self.mix(masks, truth, context), None
        figures = {"reward": reward.mean().item(), "reward_sd": reward.std(1, correction=0).mean().item()}
        if config.baseline == "greedy":
            greedy = self._greedy(logits, truth, context)
            figures["greedy_reward"] = greedy.mean().item()
        try:
            baseline = baseline_values(reward, config.baseline, greedy)
        except ValueError as error:
            raise ConfigError(f"{error}; set reinforce.samples=2 or more") from error
        counted = counted_pixels(truth, self.config.ignore_index)
        loss = reinforce_loss(mask_log_prob(logits, masks, counted, config.log_prob), reward, baseline)
        if config.cross_entropy:
            figures["cross_entropy"] = (cross_entropy := self.cross_entropy(logits, truth)).item()
            loss = loss + config.cross_entropy * cross_entropy
        return loss, figures

    def _weighted(
        self, logits: Tensor, truth: Tensor, context: RewardContext, generator: torch.Generator
    ) -> tuple[Tensor, Figures]:
        reward = self._greedy(logits, truth, context)
        weight = deficit_weights(reward, self.config.weighted.compare, self.config.weighted.negative)
        loss = weighted_cross_entropy(self._per_image(logits, truth), weight)
        return loss, {"greedy_reward": reward.mean().item(), "image_weight": weight.mean().item()}

    def _cross_entropy(self, logits: Tensor, truth: Tensor, *rest: object) -> tuple[Tensor, Figures]:
        return self.cross_entropy(logits, truth), {}

    def _dice(self, logits: Tensor, truth: Tensor, *rest: object) -> tuple[Tensor, Figures]:
        return dice_loss(logits, truth, self.config.ignore_index, self.config.reward.background), {}

    def _lovasz(self, logits: Tensor, truth: Tensor, *rest: object) -> tuple[Tensor, Figures]:
        return lovasz_softmax(logits, truth, self.config.ignore_index, self.config.reward.background), {}

    def _greedy(self, logits: Tensor, truth: Tensor, context: RewardContext) -> Tensor:
        """Reward of the argmax masks. Shape: (B,)."""
        return self.mix(most_probable(logits.detach())[:, None], truth, context)[:, 0]
