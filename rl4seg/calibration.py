"""Temperature scaling: fitted and applied by the same function, `calibrated_probability`."""

from __future__ import annotations

import torch
from torch import Tensor

from rl4seg.losses import correctness_loss


def calibrated_probability(logits: Tensor, temperature: float) -> Tensor:
    """sigma(z / T): the reward net's probability that a pixel is right (Guo et al. 2017, arXiv 1706.04599)."""
    return (logits / temperature).sigmoid()


def fit_temperature(logits: Tensor, correct: Tensor, low: float = 0.05, high: float = 20.0) -> float:
    """The T in [low, high] that minimises the binary cross-entropy of sigma(z / T); golden-section search on log T.

    The loss is convex in 1 / T, hence unimodal in log T. Shape: (n,) logits and (n,) bool.
    """
    if logits.numel() == 0:
        return 1.0
    left, right = torch.tensor(low).log().item(), torch.tensor(high).log().item()
    shrink = (5**0.5 - 1) / 2

    def loss(log_t: float) -> float:
        return correctness_loss(logits / torch.tensor(log_t).exp().item(), correct).item()

    inner, outer = right - shrink * (right - left), left + shrink * (right - left)
    loss_inner, loss_outer = loss(inner), loss(outer)
    while right - left > 1e-4:
        if loss_inner < loss_outer:
            right, outer, loss_outer = outer, inner, loss_inner
            inner = right - shrink * (right - left)
            loss_inner = loss(inner)
        else:
            left, inner, loss_inner = inner, outer, loss_outer
            outer = left + shrink * (right - left)
            loss_outer = loss(outer)
    return float(torch.tensor((left + right) / 2).exp())
