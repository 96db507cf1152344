"""What the networks cost: parameters, multiply-adds, or measured time, on the patches that they are really given."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rl4seg.paser.figures import Costs
from rl4seg.paser.grid import PatchGrid
from rl4seg.paser.nets import Nets

WARM_UP = 2


def macs(network: nn.Module, inputs: Tensor) -> int:
    """Multiply-adds of one forward pass (convolutions and matrix products)."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(inputs)
    return int(counter.get_total_flops()) // 2


def median_ms(work: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Median wall time of ``work``, ms, after two calls that do not count."""
    times = []
    for number in range(repeats + WARM_UP):
        started = _now(device)
        work()
        if number >= WARM_UP:
            times.append(_now(device) - started)
    return 1e3 * float(np.median(times))


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@torch.no_grad()
def measure_costs(
    nets: Nets, policy: nn.Module, read_shape: tuple[int, ...], channels: int, grid: PatchGrid, device: torch.device,
    timed: bool, repeats: int = 9,
) -> Costs:  # fmt: skip
    """Count, and where ``timed`` measure, what everything costs on inputs as they will be.

    ``read_shape``: of what the policy reads of one image, (F, *cells).
    """
    patch = torch.zeros((1, channels, *grid.window), device=device)
    whole = torch.zeros((1, channels, *grid.shape), device=device)
    every = torch.rand((grid.count, channels, *grid.window), device=device)
    networks = [model.network.eval() for model in nets.models]
    times = None
    if timed:
        times = tuple(
            median_ms(partial(network, every), repeats, device) / grid.count for network in networks
        )
    return Costs(
        parameters=nets.parameters,
        patch_macs=tuple(macs(network, patch) for network in networks),
        whole_macs=tuple(macs(network, whole) for network in networks),
        policy_macs=macs(policy, torch.zeros((1, *read_shape), device=device)),
        patch_ms=times,
    )
