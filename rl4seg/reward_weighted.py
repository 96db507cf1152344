"""The reward-weighted cross-entropy of MMSegmentation's RewardOptimisation: images that score worse count more.

    d_i = 1 - R_i,    weight_i = d_i - c mean_{j != i} d_j,    loss = mean_i weight_i CE_i

with R_i the reward of image i's argmax mask (mIoU) and c = .1. It is no policy gradient: nothing is sampled, and the
reward, a constant in the loss, only chooses how much the labels of an image count. A good image among bad ones has a
small negative weight.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from reward_data.errors import DataError


def counted_pixels(truth: Tensor, ignore_index: int | None) -> Tensor:
    """Which pixels count. Shape: (B, *S) -> (B, *S) bool."""
    return torch.ones_like(truth, dtype=torch.bool) if ignore_index is None else truth != ignore_index


def check_counts(truth: Tensor, class_weights: Tensor | None, ignore_index: int | None) -> None:
    """Refuse a batch that says nothing: its pixels are all ignored, or of classes with weight 0.

    Raises:
        DataError: naming the classes that are there.
    """
    counted = truth[counted_pixels(truth, ignore_index)]
    if class_weights is not None and len(counted):
        counted = counted[class_weights[counted] > 0]
    if not len(counted):
        weights = None if class_weights is None else [round(w, 4) for w in class_weights.tolist()]
        raise DataError(
            f"a batch of {len(truth)} images has the classes {truth.unique().tolist()} only, with "
            f"ignore_index={ignore_index} and class weights {weights} none of its pixels counts; give the classes that "
            "occur a weight, or use larger batches"
        )


def image_cross_entropy(
    logits: Tensor,
    truth: Tensor,
    class_weights: Tensor | None = None,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    """CE_i = sum_p w[y_p] (-log pi_p(y_p)) / n_i over the n_i pixels that count; "sum" leaves the division out.

    Divided by the number of pixels, not by their weights, as MMSegmentation does: in an image with none but a light
    class the loss is small. 0 for an image in which no pixel counts. Shape: (B, K, *S), (B, *S) -> (B,).

    Raises:
        DataError: class weights and classes differ in number, or no pixel of the batch counts.
    """
    if class_weights is not None and len(class_weights) != logits.shape[1]:
        raise DataError(
            f"class_weights has {len(class_weights)} values, the network {logits.shape[1]} classes; give one weight "
            "per class, class 0 first"
        )
    check_counts(truth, class_weights, ignore_index)
    counted = counted_pixels(truth, ignore_index)
    safe = torch.where(counted, truth, 0)
    pixels = functional.cross_entropy(logits, safe, reduction="none")
    if class_weights is not None:
        pixels = pixels * class_weights.to(pixels)[safe]
    total = (pixels * counted).flatten(1).sum(1)
    return total / counted.flatten(1).sum(1).clamp(min=1) if reduction == "mean" else total


def deficit_weights(reward: Tensor, compare: float = 0.1, negative: bool = True) -> Tensor:
    """d_i - compare * mean_{j != i} d_j with d = 1 - R: the larger, the worse an image is. Shape: (B,) -> (B,).

    A batch of one has nothing to compare with: its weight is d (the published code divides by zero there). A reward
    that is NaN, an image in which nothing could be judged, counts as .5. ``negative`` = False raises weights below 0
    to 0.
    """
    if reward.ndim != 1:
        raise ValueError(f"reward has shape {tuple(reward.shape)}, wanted (B,)")
    deficit = 1 - torch.nan_to_num(reward.detach(), nan=0.5)
    others = (deficit.sum() - deficit) / max(len(deficit) - 1, 1)
    weight = deficit - compare * others
    return weight if negative else weight.clamp(min=0)


def weighted_cross_entropy(cross_entropy: Tensor, weight: Tensor) -> Tensor:
    """mean_i weight_i CE_i; the weights are detached here. Shape: (B,), (B,) -> ()."""
    if cross_entropy.shape != weight.shape:
        raise ValueError(f"shapes differ: {tuple(cross_entropy.shape)} and {tuple(weight.shape)}")
    return (weight.detach() * cross_entropy).mean()
