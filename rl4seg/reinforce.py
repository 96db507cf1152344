"""REINFORCE on sampled masks: the gradient of the expected reward of a whole mask (Williams 1992).

With class logits per pixel the policy is pi(a | x) = prod_p pi_p(a_p | x), so that

    grad E[R] = E[(R(a) - b) grad log pi(a | x)],    log pi(a | x) = sum_p log pi_p(a_p | x)

for every baseline b that does not depend on the mask a itself (Pinto et al. 2023, arXiv 2302.08242).
The four baselines here all keep to that, so the estimator has no bias with any of them; they differ in variance.

Notation: B images, M masks per image, K classes, S spatial shape.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from rl4seg.configs.reward_tuning import Baseline, ReinforceConfig
from rl4seg.rollout import sample_masks


def mask_log_prob(
    logits: Tensor, masks: Tensor, counted: Tensor | None = None, reduction: str = "sum"
) -> Tensor:
    """log pi(a | x) of whole masks. Shape: logits (B, K, *S), masks (B, M, *S) -> (B, M).

    Args:
        counted: pixels that the reward can see; others have no part in it, and leaving them out only takes noise away.
            Shape: (B, *S) bool.
        reduction: "sum" is log pi itself; "mean" divides it by the number of counted pixels, which scales the gradient
            of an image and turns it nowhere.

    Raises:
        ValueError: shapes that do not fit, or another reduction.
    """
    if masks.ndim != logits.ndim or masks[:, 0].shape != logits[:, 0].shape:
        raise ValueError(f"logits {tuple(logits.shape)} and masks {tuple(masks.shape)} do not fit")
    if reduction not in ("sum", "mean"):
        raise ValueError(f"reduction is 'sum' or 'mean', got {reduction!r}")
    seen = torch.ones_like(masks[:, 0]) if counted is None else counted
    seen = seen.to(logits).flatten(1)
    every = [-functional.cross_entropy(logits, mask, reduction="none") for mask in masks.unbind(1)]
    log_prob = torch.stack([(pixels.flatten(1) * seen).sum(1) for pixels in every], 1)
    return log_prob / seen.sum(1, keepdim=True).clamp(min=1) if reduction == "mean" else log_prob


def baseline_values(reward: Tensor, baseline: Baseline, greedy: Tensor | None = None) -> Tensor:
    """b of every sampled mask; none depends on the mask's own reward. Shape: (B, M) -> (B, M).

    leave_one_out: mean over the image's other masks (Kool et al. 2019; arXiv 2302.08242). greedy: the reward of the
    argmax mask, ``greedy`` (B,) (self-critical, Rennie et al. 2017, arXiv 1612.00563). batch_mean: mean over
    all other masks of the batch; with the mask itself in it, the gradient would be too small by the factor
    1 - 1 / (B M).

    Raises:
        ValueError: nothing to compare with: one mask per image, one in the batch, or no greedy reward.
    """
    if reward.ndim != 2:
        raise ValueError(f"reward has shape {tuple(reward.shape)}, wanted (B, M)")
    if baseline == "none":
        return torch.zeros_like(reward)
    if baseline == "greedy":
        if greedy is None or greedy.shape != reward.shape[:1]:
            raise ValueError("baseline greedy needs the rewards (B,) of the argmax masks")
        return greedy[:, None].expand_as(reward)
    over = (0, 1) if baseline == "batch_mean" else (1,)
    others = reward.numel() if baseline == "batch_mean" else reward.shape[1]
    if others < 2:
        raise ValueError(f"baseline {baseline} compares masks, but there is one only; sample two or more")
    return (reward.sum(over, keepdim=True) - reward) / (others - 1)


def reinforce_loss(log_prob: Tensor, reward: Tensor, baseline: Tensor) -> Tensor:
    """-mean_im (R_im - b_im) log pi(a_im | x_i); its gradient is an estimate of -grad E[R], mean over images.

    Williams 1992; arXiv 2302.08242. Rewards and baselines are detached here. Shape: (B, M) each.
    """
    shapes = {tuple(value.shape) for value in (log_prob, reward, baseline)}
    if len(shapes) > 1:
        raise ValueError(f"shapes differ: {sorted(shapes)}")
    return -((reward - baseline).detach() * log_prob).mean()


def sample(logits: Tensor, config: ReinforceConfig, generator: torch.Generator) -> Tensor:
    """M masks per image, each pixel's class with exactly its probability. Shape: (B, K, *S) -> (B, M, *S) int64.

    With ``noise_mix`` = 0 the pixels are drawn independently: masks from pi, the estimator unbiased. Above 0 whole
    regions change together (`rl4seg.rollout.sample_masks`): each pixel still has its probability, but a mask is not
    drawn from the product that `mask_log_prob` scores. A pixel is then rewarded for what its whole region did: biased,
    with a stronger signal, as a mask's pixels are mostly right or wrong together.
    """
    sigma = config.noise_length * max(logits.shape[2:])
    return sample_masks(logits.detach(), config.samples, config.noise_mix, sigma, generator, False)
