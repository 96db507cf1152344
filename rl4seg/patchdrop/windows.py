"""The segmentation twin: a policy keeps or drops the high-resolution windows of a sliding-window inference.

A coarse network sees the whole image at low resolution. The policy sees that image, the coarse class probabilities and
their entropy, and keeps some cells of a grid. A fine network sees each kept cell with a margin around it at full
resolution; its answer stands in the cell, the coarse one in all others. So keeping every cell is the full sliding
window, keeping none is the coarse network alone, and what is dropped costs nothing.

The policy, its loss and its loop are those of classification (`rl4seg.patchdrop.learning`); the quality of a keep map
is the mIoU of the stitched mask. Both networks are frozen, so the confusion of every cell by either is counted once
and a keep map's mIoU is a sum over cells.

Notation: N images, P cells, K classes, G the pixels of the image, S those of the coarse image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rl4seg.networks import most_probable
from rl4seg.patchdrop.grid import patch_count, patch_shape, split_patches
from rl4seg.runtime import Runtime

Network = Callable[[Tensor], Tensor]


class CoarseView(NamedTuple):
    """What is known of images before any window is looked at."""

    probabilities: Tensor  # (B, K, *S) of the coarse network
    policy_input: Tensor  # (B, C + K + 1, *S): image, probabilities, entropy as a share of its maximum


@dataclass(frozen=True)
class WindowSegmenter:
    """A coarse and a fine network over a grid of cells.

    Args:
        coarse_shape: pixels of the low-resolution image.
        grid: cells per axis.
        margin: pixels around a cell that the fine network sees as well.
    """

    coarse: Network
    fine: Network
    coarse_shape: tuple[int, ...]
    grid: tuple[int, ...]
    margin: int
    runtime: Runtime

    @torch.no_grad()
    def look(self, images: Tensor) -> CoarseView:
        """The coarse view. Shape: (B, C, *G) in [0, 1]."""
        low = functional.interpolate(images, size=self.coarse_shape, mode="area")
        with self.runtime.autocast():
            probabilities = self.coarse(low).float().softmax(1)
        return CoarseView(
            probabilities, torch.cat([low, probabilities, entropy_share(probabilities)[:, None]], 1)
        )

    @torch.no_grad()
    def coarse_answer(self, view: CoarseView, shape: tuple[int, ...]) -> Tensor:
        """The coarse probabilities interpolated to full resolution. Shape: (B, K, *G)."""
        mode = ("linear", "bilinear", "trilinear")[len(shape) - 1]
        return functional.interpolate(view.probabilities, size=shape, mode=mode, align_corners=False)

    @torch.no_grad()
    def fine_answer(self, image: Tensor, keep: Tensor) -> Tensor:
        """Probabilities of the fine network in the kept cells of one image, in order.

        Shape: (C, *G), keep (P) with one cell at least -> (k, K, *cell).
        """
        cell = patch_shape(tuple(image.shape[1:]), self.grid)
        windows = cut_windows(image, self.grid, self.margin, keep.nonzero()[:, 0].tolist())
        everything = slice(None)
        inner = (everything, everything, *[slice(self.margin, self.margin + size) for size in cell])
        parts: list[Tensor] = []
        for some in windows.split(self.runtime.batch_size):
            with self.runtime.autocast():
                logits = self.fine(some)
            parts.append(logits.float()[inner].softmax(1))
        return torch.cat(parts)

    def answer(self, image: Tensor, view: CoarseView, keep: Tensor) -> Tensor:
        """The stitched probabilities of one image. Shape: (C, *G), keep (P) bool -> (K, *G)."""
        return self._filled(self.coarse_answer(view, tuple(image.shape[1:]))[0], image, keep)

    def segment(self, image: Tensor, view: CoarseView, keep: Tensor) -> Tensor:
        """The stitched mask of one image. Shape: (C, *G), keep (P) bool -> (*G) int64."""
        return most_probable(self.answer(image, view, keep)[None])[0]

    def segment_coarsely(self, view: CoarseView, shape: tuple[int, ...]) -> Tensor:
        """The masks without any window. Shape: -> (B, *G) int64."""
        return most_probable(self.coarse_answer(view, shape))

    def segment_fully(self, image: Tensor, classes: int) -> Tensor:
        """The mask of one image with every window; the coarse network is not asked. Shape: (C, *G) -> (*G) int64."""
        every = torch.ones(patch_count(self.grid), dtype=torch.bool, device=image.device)
        empty = image.new_empty(classes, *image.shape[1:])
        return most_probable(self._filled(empty, image, every)[None])[0]

    def _filled(self, answer: Tensor, image: Tensor, keep: Tensor) -> Tensor:
        """Put the fine answer into the kept cells of probabilities (K, *G), in place."""
        if keep.any():
            places = cell_slices(tuple(image.shape[1:]), self.grid, keep)
            for cell, place in zip(self.fine_answer(image, keep), places, strict=True):
                answer[(slice(None), *place)] = cell
        return answer


def entropy_share(probabilities: Tensor) -> Tensor:
    """Entropy of the class probabilities as a share of log K. Shape: (B, K, *S) -> (B, *S) in [0, 1]."""
    logs = probabilities.clamp(min=1e-9).log()
    return -(probabilities * logs).sum(1) / float(np.log(probabilities.shape[1]))


def cell_entropy(view: CoarseView, grid: tuple[int, ...]) -> Tensor:
    """Mean entropy of every cell. Shape: -> (B, P)."""
    return functional.interpolate(view.policy_input[:, -1:], size=grid, mode="area").flatten(1)


def cell_slices(shape: tuple[int, ...], grid: tuple[int, ...], keep: Tensor) -> list[tuple[slice, ...]]:
    """Where the kept cells lie in the image, in order. Shape: keep (P)."""
    cell = patch_shape(shape, grid)
    places = [np.unravel_index(p, grid) for p in keep.nonzero()[:, 0].tolist()]
    return [
        tuple(slice(int(i) * size, (int(i) + 1) * size) for i, size in zip(place, cell)) for place in places
    ]


def cut_windows(image: Tensor, grid: tuple[int, ...], margin: int, cells: list[int]) -> Tensor:
    """Cells with a margin around them, the image mirrored at its border. Shape: (C, *G) -> (k, C, *cell + 2 margin)."""
    shape = tuple(image.shape[1:])
    cell = patch_shape(shape, grid)
    padded = functional.pad(image[None], [margin] * (2 * len(grid)), mode="reflect")[0]
    windows = []
    for p in cells:
        place = np.unravel_index(p, grid)
        starts = [int(i) * size for i, size in zip(place, cell)]
        index = tuple(
            slice(start, start + size + 2 * margin) for start, size in zip(starts, cell, strict=True)
        )
        windows.append(padded[(slice(None), *index)])
    return torch.stack(windows) if windows else padded.new_zeros(0, len(image))


def cell_confusion(mask: Tensor, truth: Tensor, grid: tuple[int, ...], classes: int) -> Tensor:
    """Pixels of every cell by true and by predicted class. Shape: (B, *G) both -> (B, P, K, K) float64."""
    pairs = split_patches((truth * classes + mask)[:, None].double(), grid).flatten(2).long()
    batch, cells = len(mask), patch_count(grid)
    offset = torch.arange(batch * cells, device=mask.device).reshape(batch, cells, 1) * classes**2
    counts = torch.bincount((pairs + offset).flatten(), minlength=batch * cells * classes**2)
    return counts.reshape(batch, cells, classes, classes).double()


def miou_of(counts: Tensor) -> Tensor:
    """mIoU over the classes that are in either mask. Shape: (..., K, K) -> (...)."""
    both = counts.diagonal(dim1=-2, dim2=-1)
    union = counts.sum(-1) + counts.sum(-2) - both
    there = union > 0
    return (both / union.clamp(min=1) * there).sum(-1) / there.sum(-1).clamp(min=1)


@dataclass(frozen=True)
class WindowTable:
    """Everything that the policy's training needs of a set of images, computed once.

    ``policy_input`` (N, C + K + 1, *S); ``coarse``, ``fine`` (N, P, K, K): confusion of every cell by either network.
    """

    policy_input: Tensor
    coarse: Tensor
    fine: Tensor

    def __len__(self) -> int:
        return len(self.coarse)

    def miou(self, indices: Tensor, keep: Tensor) -> Tensor:
        """mIoU of the stitched masks of some images. Shape: (B), keep (B, M, P) bool -> (B, M) float32."""
        coarse, fine = self.coarse[indices], self.fine[indices]
        gain = torch.einsum("bmp,bpij->bmij", keep.to(coarse), fine - coarse)
        return miou_of(coarse.sum(1)[:, None] + gain).float()


@torch.no_grad()
def tabulate(segmenter: WindowSegmenter, image: Tensor, truth: Tensor, classes: int) -> WindowTable:
    """The table of one image, seen by both networks in full. Shape: (C, *G), truth (*G) int64."""
    view, shape = segmenter.look(image[None]), tuple(image.shape[1:])
    coarse = segmenter.segment_coarsely(view, shape)
    fine = segmenter.segment_fully(image, classes)[None]
    return WindowTable(
        view.policy_input,
        cell_confusion(coarse, truth[None], segmenter.grid, classes),
        cell_confusion(fine, truth[None], segmenter.grid, classes),
    )


def joined(tables: list[WindowTable]) -> WindowTable:
    """One table of several."""
    return WindowTable(
        *(
            torch.cat([getattr(table, name) for table in tables])
            for name in ("policy_input", "coarse", "fine")
        )
    )
