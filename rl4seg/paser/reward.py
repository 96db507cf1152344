"""What a choice earns, from confusion matrices of patches: numbers add up, so that every routing is scored exactly.

Notation: I images, P patches, N nets, K classes. A confusion matrix counts pixels by (truth, answer).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from reward_data.types import Float64, Int64
from rl4seg.configs.paser import Gain


def confusion(answer: Tensor, truth: Tensor, classes: int) -> Int64:
    """Pixels by (truth, answer). Shape: (*S), (*S) -> (K, K)."""
    pairs = (truth.reshape(-1) * classes + answer.reshape(-1)).cpu()
    counts: Int64 = (
        np.bincount(pairs.numpy(), minlength=classes**2).reshape(classes, classes).astype(np.int64)
    )
    return counts


def mean_iou(counts: Int64, weights: Sequence[float] | None = None) -> Float64:
    """Mean over the classes of overlap / union; one that is in neither is left out, 1 where none is in either.

    Shape: (..., K, K) -> (...).
    """
    both = np.diagonal(counts, axis1=-2, axis2=-1).astype(np.float64)
    union = counts.sum(-1) + counts.sum(-2) - both
    weight = (np.ones(counts.shape[-1]) if weights is None else np.asarray(weights, np.float64)) * (union > 0)
    total = weight.sum(-1)
    mean = (weight * both / np.maximum(union, 1)).sum(-1) / np.where(total > 0, total, 1)
    result: Float64 = np.where(total > 0, mean, 1.0)
    return result


def routed(counts: Int64, actions: Int64) -> Int64:
    """Confusion of whole images whose patches are decided by the chosen nets. (I, P, N, K, K), (I, P) -> (I, K, K)."""
    chosen = np.take_along_axis(counts, actions[:, :, None, None, None], 2)[:, :, 0]
    total: Int64 = chosen.sum(1)
    return total


def gains(counts: Int64, gain: Gain, weights: Sequence[float] | None = None) -> Float64:
    """IoU of every net on every patch, less that of the smallest. Shape: (I, P, N, K, K) -> (I, P, N).

    patch_iou: inside the patch. image_iou: P times the change of the image's IoU when this patch alone is decided by
    the net and all others by the smallest.
    """
    if gain == "patch_iou":
        inside = mean_iou(counts, weights)
        return inside - inside[..., :1]
    base = counts[:, :, 0].sum(1)
    swapped = base[:, None, None] + counts - counts[:, :, :1]
    change: Float64 = counts.shape[1] * (mean_iou(swapped, weights) - mean_iou(base, weights)[:, None, None])
    return change


def rewards(gain: Float64, costs: Sequence[float], lambda_cost: float) -> Float64:
    """R = (1 - lambda) gain - lambda cost (arXiv 2402.11760, eq. of the reward). Shape: (..., N), (N,) -> (..., N)."""
    result: Float64 = (1 - lambda_cost) * gain - lambda_cost * np.asarray(costs, np.float64)
    return result
