"""Networks by configuration, all from MONAI; 2D and 3D by the number of entries of the image shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.nets import BasicUNet, DynUNet, SegResNet, UNet
from torch import Tensor, nn
from torch.nn import functional

from rl4seg.configs.network import NetworkConfig
from rl4seg.runtime import seeded

NORM_LAYERS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def _norm(config: NetworkConfig) -> tuple[str, dict[str, Any]]:
    if config.norm == "group":
        return "group", {"num_groups": 8, "affine": True}
    return config.norm, {"affine": True}


def _inner(config: NetworkConfig, in_channels: int, out_channels: int, dims: int) -> nn.Module:
    levels = len(config.features)
    common: dict[str, Any] = {"spatial_dims": dims, "in_channels": in_channels, "out_channels": out_channels}
    common["norm_name" if config.name == "dynunet" else "norm"] = _norm(config)
    network: nn.Module
    if config.name == "basic_unet":
        network = BasicUNet(**common, features=config.features, dropout=config.dropout)
    elif config.name == "unet":
        network = UNet(
            **common,
            channels=config.features,
            strides=(2,) * (levels - 1),
            num_res_units=config.residual_units,
            dropout=config.dropout,
        )
    elif config.name == "dynunet":
        network = DynUNet(
            **common,
            kernel_size=[3] * levels,
            strides=[1] + [2] * (levels - 1),
            upsample_kernel_size=[2] * (levels - 1),
            filters=config.features,
            dropout=config.dropout or None,
        )
    else:
        network = SegResNet(**common, init_filters=config.features[0], dropout_prob=config.dropout or None)
    return network


def fold_pixels(images: torch.Tensor, factor: int) -> torch.Tensor:
    """Space to depth in any number of dimensions. Shape: (B, C, *S) -> (B, C * factor^n, *S / factor)."""
    batch, channels, *shape = images.shape
    split = [part for size in shape for part in (size // factor, factor)]
    dims = len(shape)
    order = [0, 1, *(3 + 2 * d for d in range(dims)), *(2 + 2 * d for d in range(dims))]
    folded = images.reshape(batch, channels, *split).permute(order)
    return folded.reshape(batch, channels * factor**dims, *(size // factor for size in shape))


def unfold_pixels(features: torch.Tensor, factor: int) -> torch.Tensor:
    """Depth to space, the inverse of `fold_pixels`. Shape: (B, C * factor^n, *S) -> (B, C, *S * factor)."""
    batch, channels, *shape = features.shape
    dims = len(shape)
    split = features.reshape(batch, channels // factor**dims, *(factor,) * dims, *shape)
    order = [0, 1, *(axis for d in range(dims) for axis in (2 + dims + d, 2 + d))]
    return split.permute(order).reshape(batch, channels // factor**dims, *(size * factor for size in shape))


class SegmentationNetwork(nn.Module):
    """Images to logits at the same size, whatever the size: pads to what the inner network can halve.

    Shape: (B, C, *S) -> (B, K, *S).
    """

    def __init__(self, config: NetworkConfig, in_channels: int, out_channels: int, dims: int) -> None:
        super().__init__()
        cells = config.fold**dims
        self.fold = config.fold
        halvings = (
            4
            if config.name == "basic_unet"
            else 3
            if config.name == "segresnet"
            else len(config.features) - 1
        )
        self.multiple = config.fold * 2**halvings
        self.dims = dims
        self.inner = _inner(config, in_channels * cells, out_channels * cells, dims)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits, in float32 whatever the autocast precision."""
        shape = images.shape[2:]
        grid = [-(-size // self.multiple) * self.multiple for size in shape]
        if all(size == self.multiple for size in grid):  # instance norm needs two pixels at the deepest level
            grid = [2 * size for size in grid]
        padding = [
            pad for size, wanted in zip(shape[::-1], grid[::-1], strict=True) for pad in (0, wanted - size)
        ]
        padded = functional.pad(images, padding) if any(padding) else images
        logits = unfold_pixels(self.inner(fold_pixels(padded, self.fold)), self.fold)
        crop = (slice(None), slice(None), *(slice(size) for size in shape))
        return logits[crop].float()


def build_network(
    config: NetworkConfig, in_channels: int, out_channels: int, dims: int, seed_path: Sequence[int] = (0,)
) -> SegmentationNetwork:
    """A freshly initialised network; equal seeds, equal weights."""
    with seeded(*seed_path):
        return SegmentationNetwork(config, in_channels, out_channels, dims)


def norm_parameter_names(network: nn.Module) -> frozenset[str]:
    """Names of the parameters that belong to normalisation layers."""
    return frozenset(
        f"{name}.{parameter}" if name else parameter
        for name, module in network.named_modules()
        if isinstance(module, NORM_LAYERS)
        for parameter, _ in module.named_parameters(recurse=False)
    )


@torch.no_grad()
def shrink_and_perturb(network: nn.Module, shrink: float, sigma: float, generator: torch.Generator) -> None:
    """w <- shrink * w + N(0, sigma), in place, on every weight that is not a normalisation layer's.

    Ash & Adams 2020, arXiv 1910.08475. Normalisation layers keep their scale and shift; running statistics,
    where a network has any, must be estimated anew afterwards (`reestimate_statistics`).
    """
    keep = norm_parameter_names(network)
    for name, weight in network.named_parameters():
        if name not in keep:
            noise = torch.randn(weight.shape, generator=generator).to(weight)
            weight.mul_(shrink).add_(sigma * noise)


@torch.no_grad()
def reestimate_statistics(network: nn.Module, batches: Sequence[torch.Tensor]) -> None:
    """Recompute running normalisation statistics as the plain mean over ``batches``; a no-op without any."""
    layers = [
        m
        for m in network.modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats
    ]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    training = network.training
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
    network.train()
    for images in batches:
        network(images)
    network.train(training)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


def most_probable(values: Tensor) -> Tensor:
    """The class of the highest value per pixel, of equals the first: ``argmax(1)``, which takes ten times as long here.

    Shape: logits or probabilities (B, K, *S) -> (B, *S) int64.
    """
    return values.max(1).indices
