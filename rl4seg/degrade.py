"""Degradation of a batch: good images made to look badly acquired, whatever the modality.

What is easy on a good image is hard on a degraded one, and its truth is still known. So degraded images serve twice:
the policy learns to segment them, and the reward net learns from the mistakes that the policy makes on them - the
kind of mistake that it makes on hard images, of which no truth is known.

Drawn first into a frozen record, applied second, as in `rl4seg.augment`. Pixels of exactly 0 (outside the field of
view) stay 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rl4seg.configs.augment import DegradeConfig
from rl4seg.rollout import smooth_normal

FIELD, PATCH, GRAIN = 0.12, 0.06, 0.0125  # correlation lengths, share of the longest side
GRAIN_MIX = 0.7  # amplitude of the correlated part of the grain
EDGE = 6.0  # steepness of the border of a dark patch


@dataclass(frozen=True)
class Degradation:
    """One drawn degradation per image. ``gain``, ``grain``, ``haze`` Shape: (B, 1, *S); the others (B,)."""

    gain: Tensor
    blur: Tensor
    grain: Tensor
    haze: Tensor
    gamma: Tensor
    factor: Tensor
    veil: Tensor
    chosen: Tensor


def draw_degradation(config: DegradeConfig, images: Tensor, generator: torch.Generator) -> Degradation:
    """Draw one degradation per image of the batch, on the CPU. Shape: images (B, C, *S)."""
    batch, shape = images.shape[0], tuple(images.shape[2:])
    side = float(max(shape))
    column = [-1, *[1] * len(shape)]

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(batch, generator=generator)

    def field(length: float, mix: float = 1.0) -> Tensor:
        return smooth_normal((batch, *shape), mix, length * side, generator)

    smooth = field(FIELD)
    highest = smooth.abs().flatten(1).amax(1).clamp(min=1e-6).reshape(column)
    loss = uniform(0, config.attenuation).reshape(column) * (0.5 + 0.5 * smooth / highest)
    dark = torch.sigmoid((field(PATCH) - uniform(0.8, 2.0).reshape(column)) * EDGE)
    gain = torch.exp(-loss) * (1 - uniform(0, config.occlusion).reshape(column) * dark)
    return Degradation(
        gain=gain[:, None],
        blur=uniform(0, config.blur) * side,
        grain=(1 + uniform(0, config.speckle).reshape(column) * field(GRAIN, GRAIN_MIX))[:, None],
        haze=(uniform(0, config.haze).reshape(column) * field(GRAIN, GRAIN_MIX).abs())[:, None],
        gamma=uniform(-config.gamma, config.gamma).exp(),
        factor=uniform(1 - config.dimming, 1 + config.dimming / 2),
        veil=uniform(0, config.veil),
        chosen=torch.rand(batch, generator=generator) < config.share,
    )


def apply_degradation(record: Degradation, images: Tensor) -> Tensor:
    """Loss, blur, grain, haze, gamma, factor and veil, in this order, clipped to [0, 1]. Shape: (B, C, *S)."""
    column = [-1, *[1] * (images.ndim - 1)]
    worse = gaussian_blur(images * record.gain.to(images), record.blur.to(images))
    worse = worse * record.grain.to(images) + record.haze.to(images)
    worse = worse.clamp(0, 1) ** record.gamma.to(images).reshape(column)
    worse = worse * record.factor.to(images).reshape(column) + record.veil.to(images).reshape(column)
    kept = ~record.chosen.to(images.device).reshape(column) | (images == 0)
    return torch.where(kept, images, worse.clamp(0, 1))


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur every image with a Gaussian of its own, edges mirrored. Shape: (B, C, *S), sigma (B,) in pixels."""
    axes = tuple(range(2, images.ndim))
    mirrored = images
    for axis in axes:
        mirrored = torch.cat([mirrored, mirrored.flip(axis)], axis)  # periodic without a jump at the edge
    spectrum = torch.fft.rfftn(mirrored, dim=axes)
    for axis in axes:
        frequency = torch.fft.fftfreq(mirrored.shape[axis], device=images.device)[: spectrum.shape[axis]]
        response = torch.exp(-2 * (torch.pi * sigma[:, None] * frequency) ** 2)
        shape = [size if d in (0, axis) else 1 for d, size in enumerate(spectrum.shape)]
        spectrum = spectrum * response.reshape(shape)
    blurred: Tensor = torch.fft.irfftn(spectrum, s=mirrored.shape[2:], dim=axes)
    return blurred[(slice(None), slice(None), *[slice(0, size) for size in images.shape[2:]])]


def degrade(config: DegradeConfig | None, images: Tensor, generator: torch.Generator) -> Tensor:
    """Draw and apply; None changes nothing. Shape: (B, C, *S) in [0, 1]."""
    if config is None:
        return images
    return apply_degradation(draw_degradation(config, images, generator), images)
