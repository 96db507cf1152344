"""What policy and reward net say of a batch of images on the network's grid: probabilities, masks, expected errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from reward_data.post_processing import post_process
from reward_data.trust import expected_dice
from reward_data.types import Float32, UInt8
from rl4seg.calibration import calibrated_probability
from rl4seg.configs.predict import PredictConfig
from rl4seg.networks import most_probable
from rl4seg.package import ModelPackage
from rl4seg.policies import Model
from rl4seg.reward_net import RewardModel, reward_input
from rl4seg.runtime import Runtime
from rl4seg.sampled_predictions import augmented, probabilities_of
from rl4seg.windows import through_windows


class Sight(NamedTuple):
    """Of one image: probabilities (K, *G), mask (*G) and the probability that the mask is wrong (*G).

    ``reward`` is the mean calibrated reward, None without a reward net; ``rounds`` of test-time optimisation behind it.
    """

    probabilities: Float32
    mask: UInt8
    error: Float32
    reward: float | None = None
    rounds: int = 0

    @property
    def trust(self) -> float:
        """See `reward_data.trust.expected_dice`."""
        return expected_dice(self.error, self.mask)


@torch.no_grad()
def look(
    package: ModelPackage, images: Tensor, options: PredictConfig, windowed: bool, runtime: Runtime
) -> list[Sight]:
    """What a package says of images that lie on one grid. Shape: (B, C, *G)."""
    shape = package.spec.preprocess.shape
    overlap = options.window.overlap

    def over(see: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        if not windowed:
            return see
        return lambda inputs: through_windows(see, inputs, shape, overlap, runtime.batch_size)

    probabilities = over(lambda some: _probabilities(package.model, some, options, runtime))(images)
    masks = _masks(probabilities, options.post_process)
    reward = None
    if package.reward is not None:
        inputs = reward_input(images, masks, package.reward.num_classes)
        reward = over(lambda some: _reward(package.reward, some, runtime))(inputs)[:, 0]
    return sights(probabilities, masks, reward)


def sights(probabilities: Tensor, masks: Tensor, reward: Tensor | None) -> list[Sight]:
    """The belief that each pixel is right, calibrated reward x softmax of the mask's class, and what follows from it.

    Shape: (B, K, *G), (B, *G) int64, (B, *G).
    """
    belief = probabilities.gather(1, masks[:, None])[:, 0]
    if reward is not None:
        belief = belief * reward
    right = belief.float().cpu().numpy()
    arrays = masks.cpu().numpy().astype(np.uint8)
    soft = probabilities.float().cpu().numpy()
    means = [None] * len(masks) if reward is None else reward.flatten(1).mean(1).tolist()
    return [Sight(soft[b], arrays[b], np.float32(1) - right[b], means[b]) for b in range(len(arrays))]


def _probabilities(model: Model, images: Tensor, options: PredictConfig, runtime: Runtime) -> Tensor:
    """Shape: (B, C, *S) -> (B, K, *S). Every image sees the same draws, whatever batch it is in."""
    settings = options.augmented
    if not settings.draws:
        return probabilities_of(model, images, runtime)
    same = [0] * len(images)
    return augmented(
        model, images, same, settings.changes, settings.draws, options.seed, runtime
    ).probabilities


def _masks(probabilities: Tensor, clean: bool) -> Tensor:
    masks = most_probable(probabilities)
    if not clean:
        return masks
    arrays = np.stack([post_process(mask) for mask in masks.cpu().numpy().astype(np.uint8)])
    return torch.from_numpy(arrays).to(masks)


def _reward(reward: RewardModel | None, inputs: Tensor, runtime: Runtime) -> Tensor:
    """Calibrated probability of being right, from image and one-hot mask. Shape: (B, C + K, *S) -> (B, 1, *S)."""
    assert reward is not None
    reward.model.network.eval()
    with runtime.autocast():
        logits = reward.model.network(inputs)
    return calibrated_probability(logits[:, :1], reward.temperature)
