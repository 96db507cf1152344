"""Which images each stage learns from: the training groups divided once, none in two stages."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from reward_data.case_store import CaseStore
from reward_data.errors import DataError
from reward_data.types import Int64
from rl4seg.augment import augment
from rl4seg.configs.augment import AugmentConfig
from rl4seg.configs.paser import SharesConfig
from rl4seg.evaluate import held_out
from rl4seg.runtime import Runtime, derive_seed

SPLIT, VIEW = 79, 80  # branches of the seed tree


class StageCases(NamedTuple):
    """Places in the store."""

    pretraining: Int64
    policy: Int64
    finetuning: Int64


def stage_cases(store: CaseStore, shares: SharesConfig, seed: int) -> StageCases:
    """The labelled training cases of every stage, divided by group; all of them for all where shares.together.

    Raises:
        DataError: fewer groups than stages.
    """
    labelled = store.indices("train", labelled=True)
    if shares.together:
        return StageCases(labelled, labelled, labelled)
    groups = sorted({store.groups[i] for i in labelled})
    if len(groups) < 3:
        raise DataError(
            f"{len(groups)} labelled training group(s), wanted three or more: nets, policy and finetuning learn from "
            "groups of their own; give more, or set shares.together=true"
        )
    order = np.random.default_rng(derive_seed(seed, SPLIT)).permutation(len(groups))
    weights = np.array([shares.pretraining, shares.policy, shares.finetuning])
    ends = np.rint(np.cumsum(weights)[:2] / weights.sum() * len(groups)).astype(int)
    first = int(np.clip(ends[0], 1, len(groups) - 2))
    second = int(np.clip(ends[1], first + 1, len(groups) - 1))
    parts = [{groups[i] for i in part} for part in np.split(order, [first, second])]
    return StageCases(
        *(np.array([i for i in labelled if store.groups[i] in part], np.int64) for part in parts)
    )


def held_out_labelled(store: CaseStore) -> Int64:
    """The labelled held-out cases: the test split, else the validation split.

    Raises:
        DataError: there are none.
    """
    indices = np.array([i for i in held_out(store) if store.has_label[i]], np.int64)
    if len(indices) == 0:
        raise DataError(
            "no held-out case with a label: set dataset.test_fraction, or give a test or val split"
        )
    return indices


def calibrated_on(store: CaseStore, cases: StageCases) -> tuple[Int64, str]:
    """Labelled cases to choose the threshold on, and which these are: validation where others are tested on."""
    validation = store.indices("val", labelled=True)
    if len(validation) and len(store.indices("test", labelled=True)):
        return validation, "validation images"
    return cases.policy, "training images of the policy, which the nets were not pretrained on"


def labelled(store: CaseStore, indices: Int64, runtime: Runtime) -> tuple[Tensor, Tensor]:
    """Images (I, C, *S) and truth (I, *S) int64."""
    return runtime.tensor(store.images(indices)), runtime.tensor(store.labels(indices), torch.long)


def views(
    store: CaseStore, indices: Int64, config: AugmentConfig | None, count: int, seed: int, runtime: Runtime
) -> list[tuple[Tensor, Tensor]]:
    """Every case as it is, then ``count`` - 1 augmented views of all of them, one image at a time."""
    out = []
    for number in range(count if config is not None else 1):
        for index in indices:
            images, truth = labelled(store, np.array([index]), runtime)
            if number and config is not None:
                generator = torch.Generator().manual_seed(derive_seed(seed, VIEW, number, int(index)))
                images, (truth,) = augment(config, images, (truth,), generator)
            out.append((images, truth))
    return out
