"""Monte-Carlo dropout of the smallest net: entropy of the mean over a few passes (Gal and Ghahramani 2016).

The masks of a pass are a function of (pass, layer, shape) and the same for every image: what an image is told does not
depend on the batch that it is in, and nothing is drawn while predicting. Dropout is off everywhere else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial

import torch
from torch import Tensor, nn

from rl4seg.runtime import derive_seed
from rl4seg.sampled_predictions import DROPOUT_LAYERS, WHOLE_CHANNELS

MASKS = 81  # branch of the seed tree


def dropout_layers(network: nn.Module) -> list[nn.Module]:
    """The dropout layers with a rate above 0, in order."""
    return [layer for layer in network.modules() if isinstance(layer, DROPOUT_LAYERS) and layer.p > 0]


@lru_cache(maxsize=256)
def _mask(number: int, layer: int, rate: float, shape: tuple[int, ...]) -> Tensor:
    """0 with probability ``rate``, else 1 / (1 - rate). Shape: (1, *shape)."""
    generator = torch.Generator().manual_seed(derive_seed(MASKS, number, layer))
    kept = torch.rand((1, *shape), generator=generator) >= rate
    return kept / (1 - rate)


def _drop(number: int, place: int, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """A forward hook: the output of a dropout layer in eval mode, which is its input, with the mask of this pass."""
    spatial = output.ndim - 2
    shape = (
        (output.shape[1], *[1] * spatial) if isinstance(layer, WHOLE_CHANNELS) else tuple(output.shape[1:])
    )
    return output * _mask(number, place, float(getattr(layer, "p", 0.0)), shape).to(output)


@contextmanager
def dropped(network: nn.Module, number: int) -> Iterator[None]:
    """The network with the dropout masks of pass ``number``; everything else stays in the mode that it is in."""

    hooks = [
        layer.register_forward_hook(partial(_drop, number, place))
        for place, layer in enumerate(dropout_layers(network))
    ]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


def entropy(probabilities: Tensor) -> Tensor:
    """-sum_k p_k log p_k / log K, in [0, 1]. Shape: (B, K, *S) -> (B, *S)."""
    nats: Tensor = torch.special.entr(probabilities).sum(1)
    return nats / math.log(probabilities.shape[1])


@torch.no_grad()
def uncertainty(network: nn.Module, images: Tensor, plain: Tensor, passes: int) -> Tensor:
    """Entropy of the mean of ``passes`` passes with dropout, of the plain pass where there are none.

    Shape: images (B, C, *S), plain probabilities (B, K, *S) -> (B, *S) in [0, 1].
    """
    if passes == 0:
        return entropy(plain)
    total = torch.zeros_like(plain)
    for number in range(passes):
        with dropped(network, number):
            total += network(images).float().softmax(1)
    return entropy(total / passes)
