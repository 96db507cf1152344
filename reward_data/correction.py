"""From a mask that is not acceptable to the nearest plausible one, in few recorded steps that can be replayed.

Steps: the largest piece of each class, holes filled, gaps between classes closed, projection on the shape prior. They
are tried in several orders, the gentlest first; the first mask that is acceptable is the correction.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field
from scipy import ndimage

from reward_data.anatomy import RuleSet, is_valid
from reward_data.errors import DataError
from reward_data.shape_prior import ShapePrior
from reward_data.types import Bool, Config, Float64, UInt8

Step = Literal["largest_pieces", "fill_holes", "close_gaps", "shape_prior"]
ROUTES: tuple[tuple[Step, ...], ...] = (
    ("largest_pieces",),
    ("largest_pieces", "fill_holes"),
    ("largest_pieces", "fill_holes", "close_gaps"),
    ("close_gaps", "largest_pieces", "fill_holes"),  # a wall cut in two is mended before a part of it is lost
    ("close_gaps", "largest_pieces", "fill_holes", "shape_prior"),
    ("largest_pieces", "fill_holes", "close_gaps", "shape_prior"),
)


class CorrectionConfig(Config):
    """How masks are corrected, and when a correction counts."""

    closing_radius: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Gaps up to twice this wide are closed; share of the foreground's size (root of its area).",
    )
    min_overlap: float = Field(
        default=0.7,
        ge=0,
        le=1,
        description="Least Dice between the foreground of a mask and of its correction; below, there is none.",
    )


class Correction(Config):
    """The steps that changed a proposed mask into its correction, in order."""

    kind: Literal["correction"] = "correction"
    steps: tuple[Step, ...] = Field(description="Names of the steps, in order.")
    closing_radius: float = Field(ge=0, description="Share of the foreground's size, for close_gaps.")


def agreement(a: UInt8, b: UInt8, num_classes: int) -> Float64:
    """Dice of every foreground class; 1 where both masks lack it. Shape: (*S), (*S) -> (K - 1,)."""
    return np.array([_dice(a == value, b == value) for value in range(1, num_classes)])


def agrees(mask: UInt8, prior: ShapePrior | None, least: float) -> bool:
    """Whether every class has more than ``least`` Dice with the prior's reconstruction; yes without prior or for 0."""
    if prior is None or least == 0:
        return True
    return bool(agreement(mask, prior.reconstruct(mask), prior.num_classes).min() > least)


def correct(
    mask: UInt8,
    prior: ShapePrior | None,
    rules: RuleSet,
    spacing_mm: tuple[float, ...],
    config: CorrectionConfig,
    least_agreement: float = 0.0,
) -> tuple[UInt8, Correction] | None:
    """The first mask on the routes that is valid, and agrees with the prior or comes from it.

    Args:
        mask: the mask to correct. Shape: (*S)
        prior: None leaves the last step out.
        least_agreement: as in `agrees`; 0 asks for the rules alone.

    Returns:
        The corrected mask and its record; None when no route leads to an acceptable mask, or only to one that overlaps
        too little with ``mask``.
    """
    seen: set[bytes] = set()
    for route in ROUTES:
        if prior is None and "shape_prior" in route:
            continue
        current, record = _walk(mask, route, prior, config.closing_radius)
        if current.tobytes() in seen:
            continue  # judged already
        seen.add(current.tobytes())
        plausible = "shape_prior" in route or agrees(current, prior, least_agreement)
        if plausible and is_valid(current, rules, spacing_mm):
            return (current, record) if _dice(mask > 0, current > 0) >= config.min_overlap else None
    return None


def _walk(
    mask: UInt8, route: tuple[Step, ...], prior: ShapePrior | None, closing_radius: float
) -> tuple[UInt8, Correction]:
    """The mask at the end of a route, and the record of the steps that changed it."""
    record, taken = Correction(steps=(), closing_radius=closing_radius), []
    for step in route:
        after = apply_correction(record.model_copy(update={"steps": (step,)}), mask, prior)
        if (after != mask).any():
            taken.append(step)
        mask = after
    return mask, record.model_copy(update={"steps": tuple(taken)})


def apply_correction(record: Correction, mask: UInt8, prior: ShapePrior | None) -> UInt8:
    """Replay a record on the mask that it corrected. Shape: (*S) -> (*S).

    Raises:
        DataError: the record needs a shape prior and there is none.
    """
    for step in record.steps:
        if step == "largest_pieces":
            mask = _largest_pieces(mask)
        elif step == "fill_holes":
            mask = _with_nearest_class(mask, ndimage.binary_fill_holes(mask > 0) & (mask == 0))
        elif step == "close_gaps":
            mask = _close_gaps(mask, record.closing_radius)
        elif prior is None:
            raise DataError(
                "a correction by the shape prior cannot be replayed without one; load the prior that made it"
            )
        else:
            mask = prior.reconstruct(mask)
    return mask


def _dice(a: Bool, b: Bool) -> float:
    both = int(np.count_nonzero(a)) + int(np.count_nonzero(b))
    return 2 * int(np.count_nonzero(a & b)) / both if both else 1.0


def _largest_pieces(mask: UInt8) -> UInt8:
    """Every class reduced to its largest piece (diagonal neighbours touch), the rest made background."""
    out = np.zeros_like(mask)
    diagonal = np.ones((3,) * mask.ndim)
    for value in np.unique(mask[mask > 0]):
        pieces, _ = ndimage.label(mask == value, diagonal)
        out[pieces == np.bincount(pieces.ravel())[1:].argmax() + 1] = value
    return out


def _close_gaps(mask: UInt8, radius: float) -> UInt8:
    """What a ball of ``radius`` cannot reach from outside the foreground goes to the nearest class."""
    pixels = radius * float(np.count_nonzero(mask)) ** (1 / mask.ndim)
    margin = int(np.ceil(pixels)) + 1
    foreground = np.pad(mask > 0, margin)
    if pixels == 0 or not foreground.any():
        return mask
    grown = ndimage.distance_transform_edt(~foreground) <= pixels
    closed = ndimage.distance_transform_edt(grown) > pixels
    inner = (slice(margin, -margin),) * mask.ndim
    return _with_nearest_class(mask, closed[inner] & (mask == 0))


def _with_nearest_class(mask: UInt8, where: Bool) -> UInt8:
    """The pixels ``where`` take the class of the nearest foreground pixel."""
    out = mask.copy()
    if where.any():
        nearest = ndimage.distance_transform_edt(mask == 0, return_distances=False, return_indices=True)
        out[where] = mask[tuple(axis[where] for axis in nearest)]
    return out
