"""The patch grid: which pixels a patch owns, which it sees, cutting patches out and stitching answers together.

Any number of patches, in any number of dimensions, for images of any size of at least one pixel per patch. Patch i of G
along an axis of S pixels owns [i S // G, (i + 1) S // G): every pixel has exactly one owner. All patches see windows of
one size, ceil(S / G) and the margin on both sides, moved inside the image where they would leave it: no pixel is made
up, and no patch is empty, whether G divides S or not.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from reward_data.errors import ConfigError

Region = tuple[slice, ...]


@dataclass(frozen=True)
class PatchGrid:
    """``cells`` patches per axis over images of ``shape``; ``margin`` pixels of context on every side.

    Raises:
        ConfigError: another number of axes, or fewer pixels than patches along one.
    """

    shape: tuple[int, ...]
    cells: tuple[int, ...]
    margin: int = 0

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.cells):
            raise ConfigError(
                f"routing.grid={self.cells} is for {len(self.cells)} axes, images have {len(self.shape)}: "
                f"{self.shape}; give one number of patches per axis"
            )
        if any(size < count for size, count in zip(self.shape, self.cells)):
            raise ConfigError(
                f"images of {self.shape} pixels are smaller than routing.grid={self.cells}: a patch needs a pixel at "
                "least; take a coarser grid or a larger preprocess.shape"
            )

    @property
    def count(self) -> int:
        """P, the number of patches."""
        return math.prod(self.cells)

    @cached_property
    def window(self) -> tuple[int, ...]:
        """Pixels per axis that a net is given of a patch."""
        patch = [-(-size // count) for size, count in zip(self.shape, self.cells)]
        return tuple(min(size, own + 2 * self.margin) for size, own in zip(self.shape, patch))

    @cached_property
    def own(self) -> tuple[Region, ...]:
        """The pixels that each patch owns; the last axis runs quickest."""
        axes = [
            [slice(i * size // count, (i + 1) * size // count) for i in range(count)]
            for size, count in zip(self.shape, self.cells)
        ]
        return tuple(itertools.product(*axes))

    @cached_property
    def seen(self) -> tuple[Region, ...]:
        """The pixels that each patch sees, `window` of them."""
        sizes = list(zip(self.shape, self.window))
        starts = [
            [min(max(part.start - self.margin, 0), size - window) for part, (size, window) in zip(own, sizes)]
            for own in self.own
        ]
        return tuple(
            tuple(slice(start, start + window) for start, window in zip(place, self.window))
            for place in starts
        )

    @cached_property
    def inside(self) -> tuple[Region, ...]:
        """Where the own pixels of each patch are in what it sees."""
        return tuple(
            tuple(slice(o.start - s.start, o.stop - s.start) for o, s in zip(own, seen))
            for own, seen in zip(self.own, self.seen)
        )

    def cut(self, images: Tensor, chosen: Tensor) -> Tensor:
        """Windows of chosen patches. Shape: (B, C, *S), (n, 2) of (image, patch) -> (n, C, *window)."""
        places = chosen.tolist()
        if not places:
            return images.new_empty((0, images.shape[1], *self.window))
        return torch.stack([images[image][(slice(None), *self.seen[patch])] for image, patch in places])

    def lay(self, answers: Tensor, chosen: Tensor, onto: Tensor) -> None:
        """Write the own pixels of chosen patches, in place. Shape: (n, K, *window), (n, 2), (B, K, *S)."""
        for answer, (image, patch) in zip(answers, chosen.tolist(), strict=True):
            everything = slice(None)
            onto[image][(everything, *self.own[patch])] = answer[(everything, *self.inside[patch])]

    def every(self, images: int) -> Tensor:
        """All patches of so many images. Shape: (B * P, 2)."""
        return torch.cartesian_prod(torch.arange(images), torch.arange(self.count)).reshape(-1, 2)
