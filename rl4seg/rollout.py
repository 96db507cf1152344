"""Acting: sample masks from a per-pixel categorical policy and keep what an update needs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from rl4seg.networks import most_probable


class Rollout(NamedTuple):
    """What happened, detached from every graph. B images, M masks per image, A the action shape."""

    images: Tensor  # (B, C, *S)
    actions: Tensor  # (B, M, *A) int64
    log_prob: Tensor  # (B, M, *A) under the policy that acted
    log_prob_ref: Tensor  # (B, M, *A) under the frozen reference
    logits_ref: Tensor  # (B, K, *A) of the frozen reference
    reward: Tensor  # (B, M, *A)
    value: Tensor  # (B, M, *A); zeros without a critic
    acting: Tensor  # (B,) bool: whose advantage counts; the others have none


def action_log_prob(logits: Tensor, actions: Tensor) -> Tensor:
    """log pi(a | s) per pixel. Shape: logits (B, K, *S), actions (B, M, *S) -> (B, M, *S)."""
    return torch.stack(
        [-functional.cross_entropy(logits, mask, reduction="none") for mask in actions.unbind(1)], 1
    )


def smooth_normal(shape: tuple[int, ...], mix: float, sigma: float, generator: torch.Generator) -> Tensor:
    """Standard normal noise with spatial correlation; every pixel is exactly N(0, 1).

    (mix * smooth + (1 - mix) * white) / sqrt(mix^2 + (1 - mix)^2), where smooth is white noise blurred by a Gaussian
    of ``sigma`` pixels and rescaled to unit variance. The blur wraps around: the border is like the middle.
    Shape: (N, *S) drawn on the CPU from ``generator``.
    """
    white = torch.randn(shape, generator=generator)
    if mix == 0:
        return white
    axes, sizes = tuple(range(1, len(shape))), shape[1:]
    responses = [torch.exp(-2 * (torch.pi * sigma * torch.fft.fftfreq(size)) ** 2) for size in sizes]
    scale = torch.stack([response.square().mean() for response in responses]).prod().sqrt()
    spectrum = torch.fft.rfftn(torch.randn(shape, generator=generator), dim=axes) / scale
    for axis, response in zip(axes, responses, strict=True):
        half = response[: spectrum.shape[axis]]  # the last axis of a real transform has the first half alone
        spectrum = spectrum * half.reshape([-1 if d == axis else 1 for d in range(len(shape))])
    smooth = torch.fft.irfftn(spectrum, s=sizes, dim=axes)
    correlated: Tensor = (mix * smooth + (1 - mix) * white) / (mix**2 + (1 - mix) ** 2) ** 0.5
    return correlated


def gumbel_from_normal(normal: Tensor) -> Tensor:
    """Standard normal to standard Gumbel through the distribution functions: -log(-log Phi(z))."""
    uniform = torch.special.ndtr(normal.double()).clamp(1e-12, 1 - 1e-12)
    return -torch.log(-torch.log(uniform))


@torch.no_grad()
def sample_masks(
    logits: Tensor, samples: int, mix: float, sigma: float, generator: torch.Generator, first_argmax: bool
) -> Tensor:
    """M masks per image by the Gumbel-max trick with spatially correlated noise.

    Every pixel's class has exactly the policy's probability (the noise is Gumbel at each pixel), while whole
    regions change together, so that samples are plausible masks rather than salt and pepper.

    Shape: logits (B, K, *S) -> (B, M, *S) int64. With ``first_argmax`` the first mask is the argmax.
    """
    batch, classes, *shape = logits.shape
    masks = [most_probable(logits)] if first_argmax else []
    while len(masks) < samples:
        normal = smooth_normal((batch * classes, *shape), mix, sigma, generator)
        noise = gumbel_from_normal(normal).to(logits).reshape(logits.shape)
        masks.append(most_probable(logits + noise))
    return torch.stack(masks, 1)
