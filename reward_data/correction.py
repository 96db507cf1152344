"""From an invalid mask to the nearest plausible one, in steps that are recorded and can be replayed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from pydantic import Field
from scipy import ndimage

from reward_data.anatomy import RuleSet, is_valid
from reward_data.errors import DataError
from reward_data.shape_prior import ShapePrior
from reward_data.types import Bool, Config, Float64, UInt8

SHAPE_PRIOR = "shape_prior"


class CorrectionConfig(Config):
    """When a correction counts."""

    min_overlap: float = Field(
        default=0.5, ge=0, le=1, description="Least mean Dice between a mask and its correction; below, there is none."
    )


class Correction(Config):
    """The steps that turned a proposed mask into its correction, in order."""

    kind: Literal["correction"] = "correction"
    steps: tuple[str, ...]


def agreement(a: UInt8, b: UInt8, num_classes: int) -> Float64:
    """Dice of each foreground class; 1 where both lack it. Shape: (*S), (*S) -> (K - 1,)."""
    scores = []
    for value in range(1, num_classes):
        x, y = a == value, b == value
        size = int(x.sum()) + int(y.sum())
        scores.append(2 * int((x & y).sum()) / size if size else 1.0)
    return np.array(scores)


def agrees(mask: UInt8, prior: ShapePrior, num_classes: int, threshold: float) -> bool:
    """Whether every class of ``mask`` has more than ``threshold`` Dice with its reconstruction by the prior."""
    return bool((agreement(mask, prior.reconstruct(mask), num_classes) > threshold).all())


def apply_steps(mask: UInt8, steps: tuple[str, ...], prior: ShapePrior | None) -> UInt8:
    """Replay a `Correction`.

    Raises:
        DataError: a step is unknown, or needs the shape prior that is not given.
    """
    for step in steps:
        if step == SHAPE_PRIOR and prior is not None:
            mask = prior.reconstruct(mask)
        elif step in _STEPS:
            mask = _STEPS[step](mask)
        else:
            raise DataError(f"correction step {step!r} is unknown or needs a shape prior; known: {[*_STEPS, SHAPE_PRIOR]}")
    return mask


def correct(
    mask: UInt8,
    prior: ShapePrior | None,
    rules: RuleSet,
    spacing_mm: tuple[float, ...],
    config: CorrectionConfig,
) -> tuple[UInt8, Correction] | None:
    """The first valid mask on the way largest pieces -> holes filled -> gaps closed -> shape prior, or None."""
    steps: tuple[str, ...] = ()
    current = mask
    for step in [*_STEPS, *([SHAPE_PRIOR] if prior is not None else [])]:
        current, steps = apply_steps(current, (step,), prior), (*steps, step)
        if is_valid(current, rules, spacing_mm):
            overlap = agreement(mask, current, len(rules.classes)).mean()
            return (current, Correction(steps=steps)) if overlap >= config.min_overlap else None
    return None


def _largest(region: Bool) -> Bool:
    pieces, count = ndimage.label(region, ndimage.generate_binary_structure(region.ndim, region.ndim))
    if count < 2:
        return region
    sizes = np.bincount(pieces.ravel())[1:]
    return np.asarray(pieces == int(sizes.argmax()) + 1)


def _largest_pieces(mask: UInt8) -> UInt8:
    out = np.zeros_like(mask)
    for value in np.unique(mask[mask > 0]):
        out[_largest(mask == value)] = value
    return out


def _fill_holes(mask: UInt8) -> UInt8:
    out = mask.copy()
    for value in np.unique(mask[mask > 0]):
        region = mask == value
        out[ndimage.binary_fill_holes(region) & ~region] = value
    holes = ndimage.binary_fill_holes(out > 0) & (out == 0)
    return _nearest_class(out, holes)


def _close_gaps(mask: UInt8) -> UInt8:
    foreground = mask > 0
    if not foreground.any():
        return mask.copy()
    radius = max(1, round(0.03 * float(foreground.sum()) ** (1 / mask.ndim)))
    padded = np.pad(foreground, radius + 1)
    closed = ndimage.binary_closing(padded, iterations=radius)
    inner = tuple(slice(radius + 1, -radius - 1) for _ in mask.shape)
    return _nearest_class(mask.copy(), closed[inner] & ~foreground)


def _nearest_class(mask: UInt8, where: Bool) -> UInt8:
    if where.any() and mask.any():
        nearest = ndimage.distance_transform_edt(mask == 0, return_distances=False, return_indices=True)
        mask[where] = mask[tuple(axis[where] for axis in nearest)]
    return mask


_STEPS: dict[str, Callable[[UInt8], UInt8]] = {
    "largest_pieces": _largest_pieces,
    "fill_holes": _fill_holes,
    "close_gaps": _close_gaps,
}
