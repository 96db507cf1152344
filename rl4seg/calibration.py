"""Temperature scaling (Guo et al. 2017, arXiv 1706.04599), of the reward net's pixels and of a policy's classes.

Fitted and applied by the same functions: `calibrated_probability`, and softmax(z / T).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from rl4seg.losses import correctness_loss

LOW, HIGH = 0.05, 20.0  # limits of a fitted temperature
MOST_PIXELS = 200_000  # a softmax temperature is one number: more pixels than this change nothing


def calibrated_probability(logits: Tensor, temperature: float) -> Tensor:
    """sigma(z / T): the reward net's probability that a pixel is right."""
    return (logits / temperature).sigmoid()


def fit_temperature(logits: Tensor, correct: Tensor, low: float = LOW, high: float = HIGH) -> float:
    """The T in [low, high] that minimises the binary cross-entropy of sigma(z / T). Shape: (n,) logits and (n,) bool.

    1 where there is no pixel.
    """
    if logits.numel() == 0:
        return 1.0
    return _of_least(lambda t: correctness_loss(logits / t, correct).item(), low, high)


def fit_softmax_temperature(logits: Tensor, labels: Tensor, low: float = LOW, high: float = HIGH) -> float:
    """The T in [low, high] of least cross-entropy of softmax(z / T) (Guo et al., eq. 9).

    Shape: (n, K) logits and (n,) int64 classes, evenly thinned out to about `MOST_PIXELS`. 1 where there is no pixel.
    """
    if labels.numel() == 0:
        return 1.0
    step = max(1, len(labels) // MOST_PIXELS)
    z, y = logits[::step].double(), labels[::step]
    return _of_least(lambda t: functional.cross_entropy(z / t, y).item(), low, high)


def _of_least(loss: Callable[[float], float], low: float, high: float) -> float:
    """Golden-section search on log T; cross-entropy is convex in 1 / T, hence unimodal in log T."""
    left, right = torch.tensor(low).log().item(), torch.tensor(high).log().item()
    shrink = (5**0.5 - 1) / 2

    def at(log_t: float) -> float:
        return loss(torch.tensor(log_t).exp().item())

    inner, outer = right - shrink * (right - left), left + shrink * (right - left)
    loss_inner, loss_outer = at(inner), at(outer)
    while right - left > 1e-4:
        if loss_inner < loss_outer:
            right, outer, loss_outer = outer, inner, loss_inner
            inner = right - shrink * (right - left)
            loss_inner = at(inner)
        else:
            left, inner, loss_inner = inner, outer, loss_outer
            outer = left + shrink * (right - left)
            loss_outer = at(outer)
    return float(torch.tensor((left + right) / 2).exp())
