"""Which patches are kept: by a policy, all, none, or as many as a policy keeps but without looking at the image."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from reward_data.types import Int64
from rl4seg.configs.patchdrop import Chooser
from rl4seg.patchdrop.grid import first_of, from_centre


def blind_keep(chooser: Chooser, counts: Int64, order: Tensor, rng: np.random.Generator) -> Tensor:
    """Keep maps of given numbers of patches: at random, or the first of ``order``. Shape: counts (B) -> (B, P) bool."""
    wanted = torch.from_numpy(np.asarray(counts, np.int64))
    if chooser == "random":
        drawn = rng.permuted(np.tile(np.arange(len(order)), (len(counts), 1)), axis=1)
        return first_of(torch.from_numpy(drawn), wanted)
    return first_of(order, wanted)


def fixed_order(chooser: Chooser, grid: tuple[int, ...], keep: Tensor) -> Tensor:
    """The order in which a fixed pattern takes patches: from the centre, or by how often a policy keeps them.

    Shape: keep (N, P) bool, of a policy on training images -> (P) int64.
    """
    if chooser == "frequent":
        often = keep.double().mean(0)
        return torch.tensor(sorted(range(len(often)), key=lambda p: (-float(often[p]), p)))
    return from_centre(grid)
