"""Task rewards: how good a whole mask is, in [0, 1], as pure functions of masks and truth.

    (masks (B, M, *S) int64, truth (B, *S) int64, context) -> (B, M) float in [0, 1]

One's own is such a function, found by `rl4seg.reward_registry`. Conventions of those here: pixels of the truth that
are ``ignore_index`` count nowhere; a class that is in neither mask is left out of the mean (it was free to get right);
an image in which nothing can be judged earns .5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from reward_data.anatomy import RuleSet
from reward_data.errors import ConfigError
from rl4seg.metrics import surface_distances
from rl4seg.rewards import verdicts


@dataclass(frozen=True)
class RewardContext:
    """What a reward may know beside the masks.

    ``spacing_mm`` has one entry per image; ``background``: whether class 0 counts; ``boundary_tolerance`` and
    ``hausdorff_range`` are shares of the image diagonal.
    """

    class_names: tuple[str, ...]
    spacing_mm: Sequence[tuple[float, ...]]
    ignore_index: int | None = None
    rules: RuleSet | None = None
    background: bool = True
    boundary_tolerance: float = 0.0075
    hausdorff_range: float = 0.25

    @property
    def num_classes(self) -> int:
        """K, class 0 included."""
        return len(self.class_names)

    @property
    def scored(self) -> list[int]:
        """The classes that count."""
        return [k for k in range(0 if self.background else 1, self.num_classes) if k != self.ignore_index]

    @property
    def structures(self) -> list[int]:
        """The classes that have a border of their own: all but class 0."""
        return [k for k in self.scored if k]


TaskReward = Callable[[Tensor, Tensor, RewardContext], Tensor]
NOTHING_TO_JUDGE = 0.5


def confusion(masks: Tensor, truth: Tensor, context: RewardContext) -> Tensor:
    """Pixels by true and by predicted class, those ignored left out. Shape: (B, M, *S) -> (B, M, K, K) float."""
    batch, samples, classes = *masks.shape[:2], context.num_classes
    true = truth[:, None].expand(masks.shape)
    counted = torch.ones_like(true, dtype=torch.bool)
    if context.ignore_index is not None:
        counted = true != context.ignore_index
    row = torch.arange(batch * samples, device=masks.device).reshape(batch, samples, *[1] * (masks.ndim - 2))
    cell = (row * classes + true.clamp(0, classes - 1)) * classes + masks
    counts = torch.bincount(cell[counted], minlength=batch * samples * classes**2)
    return counts.reshape(batch, samples, classes, classes).double()


def _overlap(masks: Tensor, truth: Tensor, context: RewardContext) -> tuple[Tensor, Tensor]:
    """Pixels that agree, and the sum of both sizes, of every scored class. Shape: (B, M, k) both."""
    counts = confusion(masks, truth, context)
    size = counts.sum(-1) + counts.sum(-2)
    return counts.diagonal(dim1=-2, dim2=-1)[..., context.scored], size[..., context.scored]


def _mean_present(score: Tensor, present: Tensor) -> Tensor:
    """Mean over the last axis where ``present``, else .5. Shape: (B, M, k) -> (B, M)."""
    number = present.sum(-1)
    mean = torch.where(present, score, 0).sum(-1) / number.clamp(min=1)
    return torch.where(number > 0, mean, NOTHING_TO_JUDGE).float()


def miou(masks: Tensor, truth: Tensor, context: RewardContext) -> Tensor:
    """Mean over classes of |A n B| / |A u B|, per image."""
    both, size = _overlap(masks, truth, context)
    return _mean_present(both / (size - both).clamp(min=1), size > 0)


def dice(masks: Tensor, truth: Tensor, context: RewardContext) -> Tensor:
    """Mean over classes of 2 |A n B| / (|A| + |B|), per image."""
    both, size = _overlap(masks, truth, context)
    return _mean_present(2 * both / size.clamp(min=1), size > 0)


def accuracy(masks: Tensor, truth: Tensor, context: RewardContext) -> Tensor:
    """Share of the counted pixels that have the right class."""
    counts = confusion(masks, truth, context)
    total = counts.sum((-2, -1))
    right = counts.diagonal(dim1=-2, dim2=-1).sum(-1)
    return torch.where(total > 0, right / total.clamp(min=1), NOTHING_TO_JUDGE).float()


def boundary(masks: Tensor, truth: Tensor, context: RewardContext) -> Tensor:
    """Boundary F1 (Csurka et al. 2013, BMVC), mean over the structures.

    2 P R / (P + R), P the share of the mask's border pixels with a border pixel of the truth near them, R the other
    way round. Near: within a square of ``boundary_tolerance`` of the diagonal, at least one pixel, on either side. A
    border pixel has one of another class among its neighbours, diagonal ones included; the image edge is no border.
    """
    ours, true = _without_ignored(masks, truth, context)
    radius = max(1, round(context.boundary_tolerance * float(np.linalg.norm(truth.shape[1:]))))
    scores, present = [], []
    for value in context.structures:
        a, b = _border(ours == value), _border(true == value).expand(masks.shape)
        near_a, near_b = _grown(a, radius), _grown(b, radius)
        hits, size = _pixels(a & near_b), _pixels(a)
        found, wanted = _pixels(b & near_a), _pixels(b)
        precision, recall = hits / size.clamp(min=1), found / wanted.clamp(min=1)
        scores.append(2 * precision * recall / (precision + recall).clamp(min=1e-9))
        present.append(size + wanted > 0)
    if not scores:
        return torch.full(masks.shape[:2], NOTHING_TO_JUDGE, device=masks.device)
    return _mean_present(torch.stack(scores, -1), torch.stack(present, -1))


def hausdorff(masks: Tensor, truth: Tensor, context: RewardContext) -> Tensor:
    """1 - HD95 / (``hausdorff_range`` x image diagonal), at least 0, mean over the structures. In mm of each image."""
    ours, true = (part.cpu().numpy() for part in _without_ignored(masks, truth, context))
    out = np.full(masks.shape[:2], NOTHING_TO_JUDGE, np.float32)
    for i, spacing in enumerate(context.spacing_mm):
        reach = context.hausdorff_range * float(np.linalg.norm(np.array(truth.shape[1:]) * np.array(spacing)))
        for m, mask in enumerate(ours[i]):
            pairs = [(mask == value, true[i, 0] == value) for value in context.structures]
            distances = [surface_distances(a, b, spacing).hd95 for a, b in pairs if a.any() or b.any()]
            if distances:
                out[i, m] = np.mean([max(0.0, 1 - distance / reach) for distance in distances])
    return torch.from_numpy(out).to(masks.device)


def validity(masks: Tensor, truth: Tensor, context: RewardContext) -> Tensor:
    """1 for an anatomically valid mask, else 0. The truth has no part in it.

    Raises:
        ConfigError: there is no rule set.
    """
    if context.rules is None:
        raise ConfigError(
            "the reward validity needs anatomical rules; give rules=lv_myo or a file of your own"
        )
    return verdicts(masks, context.rules, list(context.spacing_mm)).to(masks.device)


REWARDS: dict[str, TaskReward] = {
    "miou": miou,
    "dice": dice,
    "accuracy": accuracy,
    "boundary": boundary,
    "hausdorff": hausdorff,
    "validity": validity,
}
"""The rewards that come with the project."""


def _without_ignored(masks: Tensor, truth: Tensor, context: RewardContext) -> tuple[Tensor, Tensor]:
    """Masks and truth (B, 1, *S) with the ignored pixels alike in both."""
    true = truth[:, None]
    if context.ignore_index is None:
        return masks, true
    return torch.where(true == context.ignore_index, true, masks), true


def _grown(region: Tensor, radius: int) -> Tensor:
    """Dilation by a cube of 2 radius + 1 pixels. Shape: (B, M, *S) bool, one to three spatial axes."""
    pool = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[region.ndim - 3]
    grown: Tensor = pool(region.float(), 2 * radius + 1, stride=1, padding=radius)
    return grown > 0


def _border(region: Tensor) -> Tensor:
    """Pixels of a region with a pixel outside it among their neighbours. Shape: (B, M, *S) bool."""
    return region & _grown(~region, 1)


def _pixels(region: Tensor) -> Tensor:
    return region.flatten(2).sum(-1).double()
