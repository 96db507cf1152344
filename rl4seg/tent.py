"""TENT: entropy minimisation of the normalisation layers' scale and shift on unlabelled images, and of nothing else.

Wang et al. 2021, arXiv 2006.10726, equation 1, offline: many passes over the target's training images, then evaluated
on others. Instance and group normalisation measure every image anew; the running statistics of batch normalisation
are measured once on target images and then stay, where the paper uses those of each batch.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from reward_data.case_store import CaseStore
from reward_data.errors import ConfigError, DataError
from reward_data.types import Int64, Progress, no_progress
from rl4seg.configs.rivals import TentConfig
from rl4seg.continued import finish
from rl4seg.data import batch_indices, batches_per_epoch
from rl4seg.losses import categorical_entropy
from rl4seg.networks import most_probable, norm_parameter_names, reestimate_statistics
from rl4seg.policies import Model
from rl4seg.runtime import Runtime, step_generator
from rl4seg.training import descend, run_steps

ORDER, NOISE = 41, 42  # branches of the seed tree
STATISTICS_BATCHES = 8


def minimise_entropy(
    policy: Model,
    store: CaseStore,
    indices: Int64,
    config: TentConfig,
    batch_size: int,
    total: int,
    seed: int,
    runtime: Runtime,
    out: Path,
    checkpoint: Path,
    progress: Progress = no_progress,
    checkpoint_seconds: float = 20.0,
) -> dict[str, float]:
    """Adapt ``policy`` to the images ``indices`` of ``store`` for ``total`` steps; writes it and ``history.csv``.

    Returns:
        Number of steps; over the last fifth of them the mean entropy per pixel (nats) and the foreground's share of
        the pixels, which falls to 0 where the policy collapses.

    Raises:
        ConfigError: the network has no normalisation layer with scale and shift.
        DataError: there is no image.
        Rl4SegError: the entropy became NaN or infinite.
    """
    if len(indices) == 0:
        raise DataError("the target has no training image; check target.path and its split column")
    network = policy.network.to(runtime.device).eval()
    free = _free_normalisation(network)
    optimiser = torch.optim.Adam(free, lr=config.learning_rate)

    def images(index: int) -> Tensor:
        return runtime.tensor(
            store.images(indices[batch_indices(len(indices), batch_size, index, seed, ORDER)])
        )

    def step(index: int) -> dict[str, float]:
        step_generator(seed, NOISE, index)
        with runtime.autocast():
            logits = network(images(index))
        entropy = categorical_entropy(logits).mean()
        descend(optimiser, entropy, free)
        return {"entropy": entropy.item(), "foreground": float((most_probable(logits) > 0).float().mean())}

    per_epoch = batches_per_epoch(len(indices), batch_size)
    reestimate_statistics(network, [images(i) for i in range(min(STATISTICS_BATCHES, per_epoch))])
    history = run_steps(
        step, total, {"network": network, "optimiser": optimiser}, checkpoint, progress, checkpoint_seconds,
        runtime.device, per_epoch,
    )  # fmt: skip
    return finish(policy, history, out)


def _free_normalisation(network: torch.nn.Module) -> list[Tensor]:
    """The scales and shifts of the normalisation layers; every other parameter gets no gradient."""
    names = norm_parameter_names(network)
    if not names:
        raise ConfigError(
            "TENT adapts the scale and shift of normalisation layers, and this policy has none; set rivals.tent=false"
        )
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in names)
    return [parameter for name, parameter in network.named_parameters() if name in names]
