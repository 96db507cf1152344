"""The mask of highest expected Dice, from class probabilities: a decision rule at prediction, without any training.

Taking pixels as independent, the Dice of a region I of size t against the unknown truth Y is, in the mean,

    E[2 |I n Y| / (t + |Y|)] = 2 sum_{j in I} p_j E[1 / (t + 1 + sum_{l != j} Y_l)]

The best region of size t holds the t most probable pixels, so that only t has to be chosen (RankDice, Dai & Li 2023,
JMLR 24(224), the Bayes rule of Dice; Lipton et al. 2014, arXiv 1402.1892, for the threshold at half the best score).
They approximate the expectation; here it is computed. With 1 / a = int_0^inf exp(-a s) ds and Y independent,

    E[Dice(t)] = 2 int_0^inf exp(-t s) G(s) sum_{j <= t} p_j e^-s / (1 - p_j + p_j e^-s) ds,
    G(s) = prod_l (1 - p_l + p_l e^-s)

which one set of nodes in log s gives for all t at once, in time O(n nodes) instead of O(n^2).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

STEP = 0.4
"""Distance of the nodes in log s: the trapezoidal rule on this integrand errs by about exp(-pi^2 / STEP), 2e-11."""


def expected_dice_by_size(probability: Tensor) -> Tensor:
    """E[Dice] of the t most probable pixels, t = 0..n, for pixels that belong to a structure independently.

    Two empty masks have Dice 1: at t = 0 it is the probability that there is no structure. Computed in float64.
    Shape: (n,) in [0, 1], falling -> (n + 1,).

    Raises:
        ValueError: not one axis, or not in falling order.
    """
    p = probability.double()
    if p.ndim != 1 or bool((p[1:] > p[:-1]).any()):
        raise ValueError(f"wanted probabilities (n,) in falling order, got shape {tuple(p.shape)}")
    count = len(p)
    sizes = torch.arange(1, count + 1, dtype=torch.float64, device=p.device)
    best = p.new_zeros(count + 1)
    best[0] = torch.log1p(-p).sum().exp()
    for y in torch.arange(math.log(1e-11 / (2 * count)), math.log(60.0), STEP, dtype=torch.float64).tolist():
        s = math.exp(y)
        hits = (p * math.exp(-s) / (1 - p + p * math.exp(-s))).cumsum(0)
        log_g = torch.log1p(p * math.expm1(-s)).sum()
        best[1:] += torch.exp(log_g - sizes * s) * hits * (2 * STEP * s)
    return best


def expected_dice_masks(probabilities: Tensor, background: bool = False) -> Tensor:
    """Per image the mask that maximises the expected Dice of every class by itself. Shape: (B, K, *S) -> (B, *S).

    For two classes and ``background`` = False it is the best mask there is. For more, the classes' best regions may
    meet or leave gaps. A pixel of several regions goes to the class to which it brings most, the derivative of
    2 sum p / (t + sum p_l), which is (2 p_j - Dice_k) / (t_k + sum p_k); a pixel of none is background, or, where the
    background is scored as a class like any other, goes to the class to which it does the least harm.
    """
    return torch.stack([_mask(image, background) for image in probabilities])


def _mask(probability: Tensor, background: bool) -> Tensor:
    """Shape: (K, *S) -> (*S)."""
    shape, flat = probability.shape[1:], probability.flatten(1).double()
    gain, claimed = torch.zeros_like(flat), torch.zeros_like(flat, dtype=torch.bool)
    for value in range(0 if background else 1, len(flat)):
        ordered, order = flat[value].sort(descending=True, stable=True)
        scores = expected_dice_by_size(ordered)
        size = int(scores.argmax())
        claimed[value, order[:size]] = True
        gain[value] = (2 * flat[value] - scores[size]) / (size + flat[value].sum()).clamp(min=1e-12)
    unclaimed = ~claimed.any(0)
    if background:
        claimed |= unclaimed
    else:
        claimed[0] = unclaimed
    return gain.masked_fill(~claimed, -math.inf).argmax(0).reshape(shape)
