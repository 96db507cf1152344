"""The losses and advantages of every pipeline, as pure functions written like their equations.

Notation: B images, M masks sampled per image, K classes, S spatial shape, ``*A`` the action shape (for a
per-pixel policy A = S). Every function guards its shapes first.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def _same_shape(**tensors: Tensor) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"shapes differ: {shapes}")


def masked_mean(values: Tensor, weight: Tensor) -> Tensor:
    """sum(weight * values) / max(sum(weight), 1); zero where nothing is weighted."""
    _same_shape(values=values, weight=weight)
    return (values * weight).sum() / weight.sum().clamp(min=1.0)


def clipped_policy_loss(
    log_prob: Tensor, log_prob_old: Tensor, advantage: Tensor, clip: float, weight: Tensor | None = None
) -> Tensor:
    """-mean(min(r A, clip(r, 1 - eps, 1 + eps) A)), r = exp(log_prob - log_prob_old).

    PPO, Schulman et al. 2017, arXiv 1707.06347, eq. 7. Old log-probabilities and advantages are detached here, so
    no gradient reaches a critic or a reward net through them.

    Args:
        log_prob: of the taken action under the current policy. Shape: (B, M, *A)
        log_prob_old: under the policy that acted. Shape: (B, M, *A)
        advantage: Shape: (B, M, *A)
        clip: eps > 0.
        weight: which action elements count. Shape: (B, M, *A); default all.
    """
    weight = torch.ones_like(log_prob) if weight is None else weight
    _same_shape(log_prob=log_prob, log_prob_old=log_prob_old, advantage=advantage, weight=weight)
    ratio = (log_prob - log_prob_old.detach()).exp()
    gain = advantage.detach()
    surrogate = torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain)
    return -masked_mean(surrogate, weight)


def value_loss(value: Tensor, reward: Tensor) -> Tensor:
    """mean((V - R)^2): the per-pixel critic against the reward, RL4Seg (arXiv 2406.17902). Shape: (B, M, *A)."""
    _same_shape(value=value, reward=reward)
    return (value - reward.detach()).square().mean()


def categorical_entropy(logits: Tensor) -> Tensor:
    """H = -sum_k p_k log p_k per pixel, in nats. Shape: (B, K, *S) -> (B, *S)."""
    log_p = logits.log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)


def categorical_kl(logits: Tensor, logits_ref: Tensor) -> Tensor:
    """KL(pi || pi_ref) = sum_k p_k (log p_k - log q_k) per pixel, in nats. Shape: (B, K, *S) -> (B, *S)."""
    _same_shape(logits=logits, logits_ref=logits_ref)
    log_p, log_q = logits.log_softmax(1), logits_ref.detach().log_softmax(1)
    return (log_p.exp() * (log_p - log_q)).sum(1)


def approximate_kl(log_prob: Tensor, log_prob_old: Tensor) -> Tensor:
    """mean((r - 1) - log r) >= 0, the low-variance estimate of KL(old || new) (Schulman, approximating KL)."""
    _same_shape(log_prob=log_prob, log_prob_old=log_prob_old)
    log_ratio = log_prob - log_prob_old
    return (log_ratio.exp() - 1 - log_ratio).mean()


def clip_fraction(log_prob: Tensor, log_prob_old: Tensor, clip: float) -> Tensor:
    """Share of action elements whose ratio left [1 - eps, 1 + eps]."""
    return (((log_prob - log_prob_old).exp() - 1).abs() > clip).float().mean()


def explained_variance(value: Tensor, reward: Tensor) -> Tensor:
    """1 - Var(R - V) / Var(R): 1 is a perfect critic, 0 no better than a constant; 0 where R is constant."""
    variance = reward.var()
    return torch.where(
        variance > 0, 1 - (reward - value).var() / variance.clamp(min=1e-12), torch.zeros(()).to(value)
    )


def group_relative_advantage(score: Tensor, floor: float = 0.05) -> Tensor:
    """(s_m - mean_m s) / (std_m s + floor): how much better a mask is than its siblings of the same image.

    GRPO, Shao et al. 2024, arXiv 2402.03300, eq. 2 in sec. 4.1.2, with a floor that keeps near-ties small.
    Population standard deviation. Shape: (B, M, ...) -> (B, M, ...); M = 1 gives 0.
    """
    centred = score - score.mean(1, keepdim=True)
    return centred / (score.std(1, keepdim=True, correction=0) + floor)


def soft_dice_loss(logits: Tensor, target: Tensor, smooth: float = 1e-5) -> Tensor:
    """1 - mean over images and foreground classes of (2 sum p g + s) / (sum p + sum g + s).

    V-Net, Milletari et al. 2016, arXiv 1606.04797, with plain sums. Shape: logits (B, K, *S), target (B, *S) int64.
    """
    one_hot = functional.one_hot(target, logits.shape[1]).movedim(-1, 1).to(logits)
    probability = logits.softmax(1)
    axes = tuple(range(2, logits.ndim))
    overlap = (probability * one_hot).sum(axes)[:, 1:]
    size = (probability + one_hot).sum(axes)[:, 1:]
    return 1 - ((2 * overlap + smooth) / (size + smooth)).mean()


def dice_cross_entropy(
    logits: Tensor,
    target: Tensor,
    dice_weight: float = 1.0,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy (logits, never probabilities) + dice_weight * soft Dice.

    Shape: logits (B, K, *S), target (B, *S) int64 in 0..K-1.
    """
    loss = functional.cross_entropy(logits, target, weight=class_weights, label_smoothing=label_smoothing)
    return loss + dice_weight * soft_dice_loss(logits, target) if dice_weight else loss


def correctness_loss(logits: Tensor, correct: Tensor) -> Tensor:
    """Binary cross-entropy of "this pixel of the mask is right". Shape: (B, *S) logits, (B, *S) bool or float."""
    _same_shape(logits=logits, correct=correct)
    return functional.binary_cross_entropy_with_logits(logits, correct.to(logits))
