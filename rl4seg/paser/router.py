"""Routing that truly skips: the smallest net on the whole image, the others on the patches that are given to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rl4seg.configs.paser import RoutingConfig
from rl4seg.paser.grid import PatchGrid
from rl4seg.paser.nets import Nets
from rl4seg.paser.policy import RoutingPolicy, choices, features, per_patch
from rl4seg.paser.uncertainty import uncertainty

BATCH = 64  # patches at a time, so that memory does not grow with the image


class Look(NamedTuple):
    """What the smallest net says of images: logits (B, K, *S), uncertainty (B, *S); what it reads (B, F, ...)."""

    logits: Tensor
    uncertain: Tensor
    read: Tensor


@dataclass(frozen=True)
class Router:
    """Nets, policy and grid; the cost of each net moves the policy along its curve.

    ``costs`` are the shares of the reward, ``threshold`` the place on the curve, 0 = as trained.
    """

    nets: Nets
    policy: RoutingPolicy
    config: RoutingConfig
    costs: tuple[float, ...]
    threshold: float = 0.0
    batch: int = BATCH

    def grid(self, shape: tuple[int, ...]) -> PatchGrid:
        """The patches of images of this shape."""
        return PatchGrid(shape, self.config.grid, self.config.margin)

    @torch.no_grad()
    def look(self, images: Tensor) -> Look:
        """The smallest net with its uncertainty, and what the policy reads of it. Shape: (B, C, *S)."""
        logits = self.nets.whole(images)
        plain = logits.softmax(1)
        uncertain = uncertainty(self.nets.models[0].network, images, plain, self.config.passes)
        return Look(logits, uncertain, features(self.config, images, plain, uncertain))

    @torch.no_grad()
    def logits(self, look: Look) -> Tensor:
        """The policy's logits. Shape: (B, P, N)."""
        return per_patch(self.policy(look.read))

    def choose(self, look: Look) -> Tensor:
        """The greedy choice of every patch at the router's threshold. Shape: (B, P) int64."""
        return choices(self.logits(look), torch.tensor(self.costs), self.threshold)

    @torch.no_grad()
    def decided(self, images: Tensor, small: Tensor, actions: Tensor) -> Tensor:
        """Log-probabilities, every patch by its net; a net runs once per batch, on its own patches.

        Shape: images (B, C, *S), the smallest net's logits (B, K, *S), actions (B, P) -> (B, K, *S). The smallest net's
        patches are its answer for the whole image.
        """
        grid = self.grid(tuple(images.shape[2:]))
        out = small.log_softmax(1)
        where = actions.cpu()
        for net in range(1, len(self.nets)):
            chosen = (where == net).nonzero()
            if len(chosen):
                answers = self.nets.on_patches(net, images, grid, chosen, self.batch)
                grid.lay(answers.log_softmax(1), chosen, out)
        return out

    @torch.no_grad()
    def alone(self, images: Tensor, net: int) -> Tensor:
        """Log-probabilities of one net on every patch by itself; the smallest on whole images, as the policy has it."""
        if net == 0:
            return self.nets.whole(images).log_softmax(1)
        grid = self.grid(tuple(images.shape[2:]))
        chosen = grid.every(len(images))
        answers = self.nets.on_patches(net, images, grid, chosen, self.batch).log_softmax(1)
        out = answers.new_empty((len(images), answers.shape[1], *grid.shape))
        grid.lay(answers, chosen, out)
        return out

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities (B, K, *S) and the net of every patch (B, P)."""
        look = self.look(images)
        actions = self.choose(look)
        return self.decided(images, look.logits, actions), actions
