"""The routing policy: which network decides each patch, from the smallest net's answer and its uncertainty.

Notation: B images, N nets, G the patch grid (P patches), F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rl4seg.configs.paser import PolicyInput, RoutingConfig
from rl4seg.networks import most_probable
from rl4seg.runtime import seeded

CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
EVERYTHING, NOTHING = -1e6, 1e6
"""Thresholds at which every patch goes to the dearest, or to the cheapest net."""
CONTRAST = 4.0  # brings the spread of grey values in [0, 1] to the size of the other features


def pooled(values: Tensor, size: Sequence[int]) -> Tensor:
    """Means over so many cells per axis, in one to three dimensions. Shape: (B, C, *S) -> (B, C, *size)."""
    pool: Any = (
        functional.adaptive_avg_pool1d,
        functional.adaptive_avg_pool2d,
        functional.adaptive_avg_pool3d,
    )
    means: Tensor = pool[values.ndim - 3](values, tuple(size))
    return means


def feature_count(inputs: Sequence[PolicyInput], classes: int, channels: int) -> int:
    """F."""
    return sum({"answer": classes, "entropy": 2, "image": 2 * channels}[name] for name in inputs)


def features(config: RoutingConfig, images: Tensor, probabilities: Tensor, uncertain: Tensor) -> Tensor:
    """What the policy reads, as means over ``resolution`` cells per patch and axis.

    answer: share of each class in the smallest net's mask; entropy: its mean and root mean square; image: mean and
    spread of the grey values. Shape: (B, C, *S), (B, K, *S), (B, *S) -> (B, F, *(G * resolution)).
    """
    size = [count * config.resolution for count in config.grid]

    def mean(values: Tensor) -> Tensor:
        return pooled(values, size)

    parts: list[Tensor] = []
    for name in config.inputs:
        if name == "answer":
            winners = most_probable(probabilities)
            parts.append(mean(torch.stack([winners == k for k in range(probabilities.shape[1])], 1).float()))
        elif name == "entropy":
            both = mean(torch.stack([uncertain, uncertain.square()], 1))
            parts.append(torch.cat([both[:, :1], both[:, 1:].sqrt()], 1))
        else:
            centre = mean(images)
            spread = (mean(images.square()) - centre.square()).clamp(min=0).sqrt()
            parts += [centre, CONTRAST * spread]
    return torch.cat(parts, 1)


class RoutingPolicy(nn.Module):
    """Features to one logit per net and patch. Shape: (B, F, *(G * resolution)) -> (B, N, *G)."""

    def __init__(self, config: RoutingConfig, classes: int, channels: int, nets: int) -> None:
        super().__init__()
        dims, width = len(config.grid), config.width
        conv = CONV[dims - 1]
        self.grid = config.grid
        self.inside = nn.Sequential(
            conv(feature_count(config.inputs, classes, channels), width, 3, padding=1),
            nn.ReLU(),
            conv(width, width, 3, padding=1),
            nn.ReLU(),
        )
        self.between = nn.Sequential(conv(width, width, 3, padding=1), nn.ReLU())
        self.choice = conv(2 * width, nets, 1)
        nn.init.zeros_(self.choice.weight)  # every net is as likely as the others before anything is learned
        assert self.choice.bias is not None
        nn.init.zeros_(self.choice.bias)

    def forward(self, read: Tensor) -> Tensor:
        """Logits."""
        own = pooled(self.inside(read), self.grid)
        logits: Tensor = self.choice(torch.cat([own, self.between(own)], 1))
        return logits.float()


def new_policy(
    config: RoutingConfig, classes: int, channels: int, nets: int, *seed_path: int
) -> RoutingPolicy:
    """A fresh policy; equal seeds, equal weights."""
    with seeded(*seed_path):
        return RoutingPolicy(config, classes, channels, nets)


def per_patch(logits: Tensor) -> Tensor:
    """Shape: (B, N, *G) -> (B, P, N)."""
    return logits.flatten(2).transpose(1, 2)


def choices(logits: Tensor, costs: Tensor, threshold: float = 0.0) -> Tensor:
    """The greedy choice argmax_a log pi(a) - threshold cost_a; of equals the cheaper.

    An entropy-regularised policy has log pi(a) = ((1 - lambda) gain_a - lambda cost_a) / tau, so the threshold moves
    lambda: above 0 the policy spends less than it was trained to, below 0 more, down to `EVERYTHING` and up to
    `NOTHING`. Shape: (..., N), (N,) -> (...) int64.
    """
    scores = logits.log_softmax(-1) - threshold * costs.to(logits)
    order = costs.argsort(stable=True).to(logits.device)
    return order[scores[..., order].argmax(-1)]
