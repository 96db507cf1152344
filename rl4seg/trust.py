"""How far each mask of a review can be trusted: the Dice that calibrated reward x softmax lets expect.

The product is better calibrated and ranks images better than the reward alone; see `rl4seg.evaluate` and the README.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from reward_data.case_store import CaseStore
from reward_data.trust import expected_dice
from reward_data.types import Float32, Float64, Int64, Progress, UInt8, no_progress
from rl4seg.policies import Model, TorchSegmenter
from rl4seg.reward_net import RewardModel
from rl4seg.runtime import Runtime


class Inspection(NamedTuple):
    """What an expert is shown of some cases: probabilities (n, K, *S) and, in [0, 1], expected errors (n, *S)."""

    probabilities: Float32
    error: Float32


def mask_trust(
    model: Model,
    reward: RewardModel,
    store: CaseStore,
    indices: Int64,
    masks: Callable[[Int64], UInt8],
    progress: Progress = no_progress,
) -> Float64:
    """Trust in the masks of some cases, see `reward_data.trust.expected_dice`. Shape: (n,).

    ``masks`` gives the masks (b, *S) of places (b,) in ``indices``; it is asked for one batch at a time.
    """
    runtime, trust = reward.runtime, np.zeros(len(indices))
    segmenter = TorchSegmenter(model, runtime)
    for start in range(0, len(indices), runtime.batch_size):
        places = np.arange(start, min(start + runtime.batch_size, len(indices)))
        some = masks(places)
        probabilities = segmenter.probabilities(store.images(indices[places]))
        errors = np.float32(1) - _belief(reward, store, indices[places], some, probabilities)
        trust[places] = [expected_dice(error, mask) for error, mask in zip(errors, some, strict=True)]
        progress(start + len(places), len(indices))
    return trust


def inspect(
    model: Model, reward: RewardModel, store: CaseStore, indices: Int64, runtime: Runtime
) -> Inspection:
    """Class probabilities of a policy and where its masks are expected to be wrong, for a few cases."""
    segmenter = TorchSegmenter(model, runtime)
    found: list[tuple[Float32, Float32]] = []
    for index in indices:
        one = np.array([index])
        probabilities = segmenter.probabilities(store.images(one))
        belief = _belief(reward, store, one, probabilities.argmax(1).astype(np.uint8), probabilities)
        found.append((probabilities[0], np.float32(1) - belief[0]))
    return Inspection(np.stack([soft for soft, _ in found]), np.stack([error for _, error in found]))


def _belief(
    reward: RewardModel, store: CaseStore, indices: Int64, masks: UInt8, probabilities: Float32
) -> Float32:
    """Probability that each pixel is right: calibrated reward x softmax of the mask's class. Shape: (n, *S)."""
    images = reward.runtime.tensor(store.images(indices))
    score = reward.score(images, reward.runtime.tensor(masks, torch.long)[:, None])[:, 0]
    confidence = np.take_along_axis(probabilities, masks[:, None].astype(np.int64), 1)[:, 0]
    belief: Float32 = score.float().cpu().numpy() * confidence
    return belief
