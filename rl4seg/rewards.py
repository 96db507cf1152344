"""What a sampled mask earns: the reward net's per-pixel belief, the anatomical verdict, or a mix."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from reward_data.anatomy import RuleSet, is_valid
from reward_data.types import Bool
from rl4seg.configs.ppo import RewardConfig
from rl4seg.reward_net import RewardModel


def verdicts(masks: Tensor, rules: RuleSet, spacing_mm: list[tuple[float, ...]]) -> Tensor:
    """1 where a mask obeys every rule, else 0. Shape: (B, M, *S) -> (B, M) float on the CPU."""
    arrays = masks.cpu().numpy().astype(np.uint8)
    valid: Bool = np.array(
        [
            [is_valid(mask, rules, spacing) for mask in group]
            for group, spacing in zip(arrays, spacing_mm, strict=True)
        ]
    )
    return torch.from_numpy(valid.astype(np.float32))


def mask_rewards(
    config: RewardConfig,
    images: Tensor,
    masks: Tensor,
    rules: RuleSet,
    spacing_mm: list[tuple[float, ...]],
    reward: RewardModel | None,
) -> tuple[Tensor, Tensor]:
    """Per-pixel reward (B, M, *S) and validity (B, M) of sampled masks (B, M, *S).

    Raises:
        ValueError: the learned reward is asked for and no reward net is given.
    """
    valid = verdicts(masks, rules, spacing_mm).to(images)
    total = (
        (config.verdict * valid).reshape(*valid.shape, *[1] * (masks.ndim - 2)).expand(masks.shape).clone()
    )
    if config.learned:
        if reward is None:
            raise ValueError("reward.learned > 0 needs a reward net")
        total += config.learned * reward.score(images, masks)
    return total, valid
