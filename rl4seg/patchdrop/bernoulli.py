"""The Bernoulli policy over patches and its reward (Uzkent & Ermon, CVPR 2020, arXiv 2003.00425).

    p = sigmoid(logit),  p~ = alpha p + (1 - alpha)(1 - p)                       (their eq. 8)
    R(a) = 1 - (|a| / P)^2  if the answer is right, else the penalty             (their eq. 9)
    A(a) = R(a) - R(1[p >= 1/2])                                                  (self-critical)

A Bernoulli variable is a categorical one of two classes, drop and keep; so sampling, log-probability, baseline and loss
are those of `rl4seg.reinforce` with K = 2 and the patches in the place of the pixels.

Notation: B images, M keep maps per image, P patches.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def keep_logits(logits: Tensor, alpha: float) -> Tensor:
    """Logits of (drop, keep) with the smoothed probabilities p~. Shape: (B, P) -> (B, 2, P).

    log p~ = logaddexp(log alpha + log p, log(1 - alpha) + log(1 - p)), which needs no clamping.

    Raises:
        ValueError: alpha outside (1/2, 1].
    """
    if not 0.5 < alpha <= 1:
        raise ValueError(f"alpha is {alpha}, wanted a number above 1/2 and at most 1")
    keep, drop = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    if alpha == 1:
        return torch.stack([drop, keep], 1)
    same, other = torch.tensor([alpha, 1 - alpha], dtype=logits.dtype, device=logits.device).log()
    return torch.stack(
        [torch.logaddexp(same + drop, other + keep), torch.logaddexp(same + keep, other + drop)], 1
    )


def greedy_keep(logits: Tensor) -> Tensor:
    """The thresholded policy, p >= 1/2. Shape: (B, P) -> (B, P) bool."""
    return logits >= 0


def keep_reward(quality: Tensor, keep: Tensor, penalty: float) -> Tensor:
    """R = q (1 - (k / P)^2) + (1 - q) penalty. Shape: quality (B, M), keep (B, M, P) -> (B, M).

    With q = 1 for a right answer and 0 for a wrong one it is the published reward; a quality between them (the mIoU
    of a stitched mask) earns the mean of both, weighted by it.

    Raises:
        ValueError: shapes that do not fit.
    """
    if keep.shape[:-1] != quality.shape:
        raise ValueError(f"quality {tuple(quality.shape)} and keep maps {tuple(keep.shape)} do not fit")
    used = keep.to(quality.dtype).mean(-1)
    return quality * (1 - used.square()) + (1 - quality) * penalty


def unique_policies(keep: Tensor) -> int:
    """How many different keep maps there are. Shape: (N, P)."""
    return len(torch.unique(keep.to(torch.uint8), dim=0))
