"""Augmentation of a batch: draw a frozen record first, apply it to images and masks alike.

The drawing uses a CPU generator, so equal seeds give equal batches on every device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from rl4seg.configs.augment import AugmentConfig
from rl4seg.degrade import degrade


@dataclass(frozen=True)
class BatchAugmentation:
    """One drawn augmentation per image: affine matrices (B, n, n + 1), intensity (B, 3), noise like the images."""

    theta: Tensor
    brightness: Tensor
    contrast: Tensor
    gamma: Tensor
    noise: Tensor


def _uniform(count: int, half_width: float, generator: torch.Generator) -> Tensor:
    return (torch.rand(count, generator=generator) * 2 - 1) * half_width


def draw(config: AugmentConfig, images: Tensor, generator: torch.Generator) -> BatchAugmentation:
    """Draw one augmentation per image of the batch. Shape: images (B, C, *S)."""
    batch, dims = images.shape[0], images.ndim - 2
    angle = _uniform(batch, math.radians(config.rotation_degrees), generator)
    zoom = 1 + _uniform(batch, config.scale, generator)
    theta = torch.zeros(batch, dims, dims + 1)
    theta[:, range(dims), range(dims)] = zoom[:, None]
    theta[:, 0, 0], theta[:, 0, 1] = angle.cos() * zoom, -angle.sin() * zoom
    theta[:, 1, 0], theta[:, 1, 1] = angle.sin() * zoom, angle.cos() * zoom
    for axis in range(dims):
        theta[:, axis, dims] = 2 * _uniform(batch, config.shift, generator)
    sigma = torch.rand(batch, generator=generator) * config.noise
    noise = torch.randn(images.shape, generator=generator) * sigma.reshape(-1, *[1] * (images.ndim - 1))
    return BatchAugmentation(
        theta,
        brightness=_uniform(batch, config.brightness, generator),
        contrast=1 + _uniform(batch, config.contrast, generator),
        gamma=_uniform(batch, config.gamma, generator).exp(),
        noise=noise,
    )


def apply_to_images(record: BatchAugmentation, images: Tensor) -> Tensor:
    """Affine, then gamma, contrast about the mean, brightness and noise, clipped to [0, 1]. Shape: (B, C, *S)."""
    column = [-1, *[1] * (images.ndim - 1)]
    grid = functional.affine_grid(record.theta.to(images), list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    moved = moved.clamp(0, 1) ** record.gamma.to(images).reshape(column)
    mean = moved.mean(tuple(range(1, images.ndim)), keepdim=True)
    moved = (moved - mean) * record.contrast.to(images).reshape(column) + mean
    moved = moved + record.brightness.to(images).reshape(column) + record.noise.to(images)
    return moved.clamp(0, 1)


def apply_to_masks(record: BatchAugmentation, masks: Tensor) -> Tensor:
    """The same affine on label masks, nearest neighbour, background outside. Shape: (B, *S) int64."""
    values = masks[:, None].float()
    grid = functional.affine_grid(record.theta.to(values), list(values.shape), align_corners=False)
    moved = functional.grid_sample(values, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return moved[:, 0].round().long()


def augment(
    config: AugmentConfig | None, images: Tensor, masks: tuple[Tensor, ...], generator: torch.Generator
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Draw and apply; images and every mask of the tuple move together. ``config`` None changes nothing."""
    if config is None:
        return images, masks
    record = draw(config, images, generator)
    moved = degrade(config.degrade, apply_to_images(record, images), generator)
    return moved, tuple(apply_to_masks(record, mask) for mask in masks)
