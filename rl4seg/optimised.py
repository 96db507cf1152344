"""Test-time optimisation: a few rounds of PPO on one image, the best of the masks on the way kept.

The rounds are `rl4seg.ppo.Learner`'s own, on a copy of the policy that is thrown away afterwards: the policy in memory
and on disk is never changed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rl4seg.configs.predict import PredictConfig
from rl4seg.package import ModelPackage
from rl4seg.ppo import Learner
from rl4seg.runtime import Runtime, derive_seed
from rl4seg.sight import Sight, look
from rl4seg.target_data import Minibatch

ROUND = 43  # branch of the seed tree


def optimised(
    package: ModelPackage,
    images: Tensor,
    spacing_mm: tuple[float, ...],
    first: Sight,
    passes: Callable[[Sight], bool],
    options: PredictConfig,
    runtime: Runtime,
) -> Sight:
    """The sight of highest mean calibrated reward among ``first`` and those after each round; of equals the earliest.

    The rounds end at the first mask that ``passes`` the checks: further ones would only please the reward net.
    Shape: images (1, C, *S). Equal images, seeds and options give equal sights on one machine.
    """
    copy = ModelPackage(package.spec, package.model.clone(), package.reward)
    learner = _learner(copy, package, options, runtime)
    batch = _unlabelled(images, spacing_mm)
    best = first
    for number in range(1, options.optimised.rounds + 1):
        generator = torch.Generator().manual_seed(derive_seed(options.seed, ROUND, number))
        learner.round(batch, [], generator)
        sight = look(copy, images, options, False, runtime)[0]._replace(rounds=number)
        if (sight.reward or 0.0) > (best.reward or 0.0):
            best = sight
        if passes(sight):
            break
    return best


def _learner(copy: ModelPackage, package: ModelPackage, options: PredictConfig, runtime: Runtime) -> Learner:
    """PPO on the copy, with the package's own policy as the reference."""
    config = options.optimised.ppo.model_copy(update={"baseline": "group"})
    network = copy.model.network.eval().requires_grad_(True)
    optimiser = torch.optim.Adam(network.parameters(), config.learning_rate)
    reference = package.model.network
    return Learner(
        config, 1, network, reference, None, package.reward, package.spec.rules, optimiser, runtime
    )


def _unlabelled(images: Tensor, spacing_mm: tuple[float, ...]) -> Minibatch:
    """A round's images without anything that is known about their masks."""
    count = len(images)
    accepted = torch.zeros(count, dtype=torch.bool, device=images.device)
    truth = torch.zeros(count, *images.shape[2:], dtype=torch.long, device=images.device)
    return Minibatch(images, [spacing_mm] * count, accepted, truth)
