"""What a round of PPO reads: unlabelled target images, and the masks that are taken for true, by (seed, round)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from reward_data.case_store import CaseStore
from reward_data.reward_store import RewardStore
from reward_data.types import Int64
from rl4seg.augment import augment
from rl4seg.configs.ppo import PPOConfig
from rl4seg.data import batch_indices
from rl4seg.runtime import Runtime, derive_seed

ORDER, ANCHOR, REPLAY = 21, 24, 26  # branches of the seed tree


class Minibatch(NamedTuple):
    """The unlabelled images of one round, and what judging their masks needs."""

    images: Tensor  # (B, C, *S)
    spacing_mm: list[tuple[float, ...]]
    accepted: Tensor  # (B,) bool
    truth: Tensor  # (B, *S) int64; zeros where not accepted
    reviewed: Tensor | None = None  # (B,) bool: the truth is an expert's; None = nowhere


class Anchor(NamedTuple):
    """Accepted predictions, and source images, as supervised targets: images (B, C, *S), masks (B, *S) int64."""

    images: Tensor
    masks: Tensor


@dataclass
class TargetData:
    """Target images and accepted predictions, by (seed, round). An expert's masks are among the accepted ones."""

    store: CaseStore
    indices: Int64
    rewards: RewardStore
    config: PPOConfig
    seed: int
    runtime: Runtime
    source: CaseStore | None = None

    def __post_init__(self) -> None:
        self.anchors = self.rewards.anchors()
        self.replayed = np.zeros(0, np.int64)
        if self.source is not None and self.config.source_replay:
            self.replayed = self.source.indices("train", labelled=True)
        self.image_of_case = {self.rewards.case_ids[int(i)]: int(i) for i in self.anchors}

    def minibatch(self, index: int) -> Minibatch:
        """Images of round ``index``, every target image once per epoch."""
        chosen = self.indices[
            batch_indices(len(self.indices), self.config.batch_size, index, self.seed, ORDER)
        ]
        images = self.runtime.tensor(self.store.images(chosen))
        known = [self.image_of_case.get(self.store.ids[int(i)]) for i in chosen]
        by_expert = [image is not None and bool(self.rewards.reviewed[image]) for image in known]
        truth = torch.zeros(len(chosen), *self.store.shape, dtype=torch.long, device=self.runtime.device)
        for row, image in enumerate(known):
            if image is not None and (by_expert[row] or self.config.accepted_images == "as_actions"):
                truth[row] = self.runtime.tensor(self.rewards.truths(np.array([image]))[0], torch.long)
        accepted = torch.tensor([image is not None for image in known], device=self.runtime.device)
        reviewed = torch.tensor(by_expert, device=self.runtime.device)
        return Minibatch(images, [self.store.spacing_mm(int(i)) for i in chosen], accepted, truth, reviewed)

    def anchor_batches(self, index: int) -> list[Anchor]:
        """One augmented anchor batch per update of round ``index``; none where the anchor is switched off."""
        if not self.config.anchor_weight or len(self.anchors) + len(self.replayed) == 0:
            return []
        return [self._anchor(index * self.config.updates + j) for j in range(self.config.updates)]

    def _anchor(self, number: int) -> Anchor:
        """Accepted predictions and replayed source images of update ``number``, augmented."""
        images, masks = [], []
        if len(self.anchors):
            chosen = self.anchors[
                batch_indices(len(self.anchors), self.config.anchor_batch, number, self.seed, ANCHOR)
            ]
            images.append(self.rewards.anchor_images(chosen))
            masks.append(self.rewards.truths(chosen))
        if self.source is not None and len(self.replayed):
            chosen = self.replayed[
                batch_indices(len(self.replayed), self.config.source_replay, number, self.seed, REPLAY)
            ]
            images.append(self.source.images(chosen))
            masks.append(self.source.labels(chosen))
        generator = torch.Generator().manual_seed(derive_seed(self.seed, ANCHOR, number))
        moved, (labels,) = augment(
            self.config.anchor_augment,
            self.runtime.tensor(np.concatenate(images)),
            (self.runtime.tensor(np.concatenate(masks), torch.long),),
            generator,
        )
        return Anchor(moved, labels)


def target_data(
    store: CaseStore,
    rewards: RewardStore,
    source: CaseStore | None,
    config: PPOConfig,
    seed: int,
    runtime: Runtime,
) -> TargetData:
    """Training images of an unlabelled target, its accepted predictions, and the labelled source where there is one."""
    return TargetData(store, store.indices("train"), rewards, config, seed, runtime, source)
