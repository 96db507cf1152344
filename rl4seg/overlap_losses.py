"""Differentiable surrogates of overlap: what a user would try before a reward, at equal steps.

Soft Dice is `rl4seg.losses.soft_dice_loss` with pixels left out; the Lovasz-softmax is written from its paper, as
MONAI has none (1.6) and the packages that have one bring their own networks along.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from rl4seg.reward_weighted import counted_pixels


def dice_loss(
    logits: Tensor,
    truth: Tensor,
    ignore_index: int | None = None,
    background: bool = True,
    smooth: float = 1e-5,
) -> Tensor:
    """1 - mean over images and classes of (2 sum p g + s) / (sum p + sum g + s), over the counted pixels.

    V-Net, Milletari et al. 2016, arXiv 1606.04797, with plain sums. Shape: (B, K, *S), (B, *S) -> ().
    """
    counted = counted_pixels(truth, ignore_index)
    one_hot = functional.one_hot(torch.where(counted, truth, 0), logits.shape[1]).movedim(-1, 1).to(logits)
    probability, one_hot = (part * counted[:, None] for part in (logits.softmax(1), one_hot))
    overlap, size = (part.flatten(2).sum(-1) for part in (probability * one_hot, probability + one_hot))
    score = (2 * overlap + smooth) / (size + smooth)
    chosen = [k for k in range(0 if background else 1, logits.shape[1]) if k != ignore_index]
    return 1 - score[:, chosen].mean()


def lovasz_gradient(sorted_truth: Tensor) -> Tensor:
    """The Lovasz extension's weight of each error, errors in falling order: how much the Jaccard loss grows with it.

    Berman et al. 2018, arXiv 1705.08790, algorithm 1. Shape: (n,) of 0 and 1 -> (n,).
    """
    total = sorted_truth.sum()
    intersection = total - sorted_truth.cumsum(0)
    union = total + (1 - sorted_truth).cumsum(0)
    jaccard_loss = 1 - intersection / union
    return torch.diff(jaccard_loss, prepend=jaccard_loss.new_zeros(1))


def lovasz_softmax(
    logits: Tensor, truth: Tensor, ignore_index: int | None = None, background: bool = True
) -> Tensor:
    """Lovasz-softmax, Berman et al. 2018, arXiv 1705.08790, section 3: per image, mean over the classes in its truth.

    For probabilities of 0 and 1 it is 1 - IoU. An image with no class to count has no part in it; where no image has
    one, the loss is 0. Shape: (B, K, *S), (B, *S) -> ().
    """
    counted = counted_pixels(truth, ignore_index)
    chosen = [k for k in range(0 if background else 1, logits.shape[1]) if k != ignore_index]
    images = []
    for probability, labels, seen in zip(logits.softmax(1), truth, counted):
        losses = []
        for value in chosen:
            foreground = (labels[seen] == value).to(logits)
            if foreground.sum() == 0:
                continue
            errors = (foreground - probability[value][seen]).abs()
            ordered, order = errors.sort(descending=True)
            losses.append(ordered @ lovasz_gradient(foreground[order]))
        if losses:
            images.append(torch.stack(losses).mean())
    return torch.stack(images).mean() if images else logits.sum() * 0
