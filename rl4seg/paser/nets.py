"""The networks of an ensemble in order of their size; the first sees whole images, the others patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from rl4seg.paser.grid import PatchGrid
from rl4seg.policies import Model, load_model, save_model
from rl4seg.runtime import Runtime


@dataclass(frozen=True)
class Nets:
    """N trained networks with one set of classes, the smallest first; all in eval mode."""

    names: tuple[str, ...]
    models: tuple[Model, ...]

    def __len__(self) -> int:
        return len(self.models)

    @cached_property
    def parameters(self) -> tuple[int, ...]:
        """Weights of each."""
        return tuple(sum(w.numel() for w in model.network.parameters()) for model in self.models)

    def whole(self, images: Tensor, net: int = 0) -> Tensor:
        """A net's logits for whole images, by default the smallest's. Shape: (B, C, *S) -> (B, K, *S)."""
        logits: Tensor = self.models[net].network(images)
        return logits.float()

    def logits(self, net: int, inputs: Tensor) -> Tensor:
        """Logits of a net, the same for an input in whatever batch it comes. Shape: (n, C, *W) -> (n, K, *W).

        An input alone goes through as two: for one, torch takes CPU kernels that round otherwise than for many.
        """
        alone = len(inputs) == 1 and inputs.device.type == "cpu"
        given = inputs.repeat(2, *[1] * (inputs.ndim - 1)) if alone else inputs
        logits: Tensor = self.models[net].network(given)
        return logits[: len(inputs)].float()

    def on_patches(self, net: int, images: Tensor, grid: PatchGrid, chosen: Tensor, batch: int) -> Tensor:
        """Logits of a net for chosen patches alone, ``batch`` at a time. Shape: (n, 2) -> (n, K, *window)."""
        parts = [self.logits(net, grid.cut(images, part)) for part in chosen.split(batch)]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def eval(self) -> Nets:
        """The same, every network in eval mode."""
        for model in self.models:
            model.network.eval()
        return self


def save_nets(nets: Nets, folder: Path) -> None:
    """Write every network into a folder of its own, by its place."""
    for place, model in enumerate(nets.models):
        save_model(model, folder / str(place))


def load_nets(names: Sequence[str], folders: Sequence[Path], runtime: Runtime) -> Nets:
    """Read the networks, the smallest first.

    Raises:
        ArtifactError: one of them cannot be read.
    """
    return Nets(tuple(names), tuple(load_model(folder, runtime) for folder in folders)).eval()
