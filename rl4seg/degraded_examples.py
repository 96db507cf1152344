"""Examples of the reward net from degraded images: the policy's own mistakes, with a truth that is known.

An accepted target image (its pseudo ground truth) or a labelled source image is augmented and degraded until the policy
errs on it; the degraded image, what the policy says about it and where that is wrong are an example. So the reward net
learns from mistakes like those on hard target images, which are never accepted and of which no truth is known.
Drawn anew for every step from (seed, step).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from reward_data.case_store import CaseStore
from reward_data.reward_store import RewardStore
from reward_data.types import Float32, Int64, UInt8
from rl4seg.augment import augment
from rl4seg.configs.reward_net import RewardNetConfig
from rl4seg.networks import most_probable
from rl4seg.policies import Model
from rl4seg.rollout import sample_masks
from rl4seg.runtime import Runtime, derive_seed

DRAW = 14  # branch of the seed tree
NOISE_MIX, NOISE_LENGTH = 0.9, 0.06  # of the sampled masks, as in the policy's own rollouts


@dataclass
class DegradedExamples:
    """Degraded images of the newest reward dataset's accepted cases, and of the labelled source where there is one."""

    policy: Model
    rewards: RewardStore
    source: CaseStore | None
    config: RewardNetConfig
    seed: int
    runtime: Runtime
    _pools: dict[str, tuple[Int64, Int64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.policy.network.to(self.runtime.device).eval()
        anchors = self.rewards.anchors()
        splits = np.array([self.rewards.image_splits[int(i)] for i in anchors], dtype=np.str_)
        for name in ("train", "val"):
            source = np.zeros(0, np.int64)
            if self.source is not None:
                source = self.source.indices(name, labelled=True)
            self._pools[name] = (anchors[splits == name], source)

    def available(self, split: str) -> bool:
        """Whether there is any image to degrade in a split ("train" or "val")."""
        return any(len(pool) for pool in self._pools[split])

    def batch(
        self, split: str, count: int, number: int, sampled: bool = True
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Batch ``number`` of a split: images (n, C, *S), masks, errors and truths (n, *S) int64.

        Half of the images are target ones, half source ones, where there are both. Masks are the policy's argmax or,
        for the configured share, sampled from it; without ``sampled`` all are the argmax.
        """
        place = derive_seed(self.seed, DRAW, ("train", "val").index(split), number)
        generator = torch.Generator().manual_seed(place)
        images, truths = self._draw(split, count, np.random.default_rng(place))
        moved, (truth,) = augment(
            self.config.degraded_augment,
            self.runtime.tensor(images),
            (self.runtime.tensor(truths, torch.long),),
            generator,
        )
        with torch.no_grad(), self.runtime.autocast():
            logits = self.policy.network(moved)
        masks = most_probable(logits)
        if sampled and self.config.sampled:
            sigma = NOISE_LENGTH * max(moved.shape[2:])
            drawn = sample_masks(logits, 1, NOISE_MIX, sigma, generator, False)[:, 0]
            chosen = torch.rand(count, generator=generator) < self.config.sampled
            masks = torch.where(chosen.to(masks.device).reshape(-1, *[1] * (masks.ndim - 1)), drawn, masks)
        return moved, masks, (masks != truth).long(), truth

    def _draw(self, split: str, count: int, generator: np.random.Generator) -> tuple[Float32, UInt8]:
        """Images and truths, with replacement."""
        anchors, source = self._pools[split]
        shares = _shares(count, (len(anchors), len(source)))
        images, truths = [], []
        if shares[0]:
            chosen = generator.choice(anchors, shares[0])
            images.append(self.rewards.anchor_images(chosen))
            truths.append(self.rewards.truths(chosen))
        if shares[1] and self.source is not None:
            chosen = generator.choice(source, shares[1])
            images.append(self.source.images(chosen))
            truths.append(self.source.labels(chosen))
        return np.concatenate(images), np.concatenate(truths)


def _shares(count: int, sizes: Sequence[int]) -> tuple[int, int]:
    """How many of ``count`` come from each of two pools: half and half, all from one where the other is empty."""
    target, source = sizes
    if not source:
        return count, 0
    if not target:
        return 0, count
    return count - count // 2, count // 2
