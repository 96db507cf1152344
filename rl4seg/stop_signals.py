"""What a policy says about itself on images without labels, iteration by iteration: the signals of the stop rule.

Measured on held-back target images against the policy that the loop was given. Both are read from their evaluations
(`rl4seg.evaluate`), scored by one and the same reward net; Dice and distances in there are not looked at.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from reward_data.correction import agreement
from reward_data.errors import ArtifactError
from reward_data.shape_prior import ShapePrior
from reward_data.types import Bool, Float64, UInt8
from rl4seg.stop_rule import Signals

SMALLEST_AREA = 1e-4  # share of the image that stands for an empty class in a logarithm


class Observation(NamedTuple):
    """One evaluation without its labels. ``valid`` Shape: (N,); ``areas`` class -> (N,); ``masks`` (N, *S)."""

    valid: Bool
    reward: Float64 | None
    kl: Float64
    entropy: Float64
    areas: dict[str, Float64]
    masks: UInt8


def read_observation(folder: Path, classes: tuple[str, ...]) -> Observation:
    """The label-free part of an evaluation's folder; ``classes`` are the foreground classes.

    Raises:
        ArtifactError: the folder holds no evaluation of these classes.
    """
    try:
        with (folder / "cases.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        with h5py.File(folder / "maps.h5", "r") as stored:
            masks = stored["masks"][:]
        columns = {
            name: np.array([float(row[name]) for row in rows])
            for name in ("valid", "kl", "entropy", *(f"areas_{name}" for name in classes))
        }
        known = all(row.get("mean_reward") for row in rows)
        reward = np.array([float(row["mean_reward"]) for row in rows]) if known else None
    except (OSError, KeyError, ValueError) as error:
        raise ArtifactError(
            f"{folder}: no evaluation of {classes} ({error}); wanted cases.csv and maps.h5: evaluate again"
        ) from error
    areas = {name: columns[f"areas_{name}"] for name in classes}
    return Observation(columns["valid"] > 0, reward, columns["kl"], columns["entropy"], areas, masks)


def measure(
    iteration: int,
    now: Observation,
    first: Observation,
    label_areas: Mapping[str, float] | None = None,
    prior: ShapePrior | None = None,
) -> Signals:
    """The signals of a policy (``now``) against the policy given (``first``), on the same images in the same order.

    Where the policy given has no valid mask, all of its masks are compared with.

    Args:
        label_areas: class -> mean area of the source's labels, as a share of the image.
        prior: shape prior of the source's labels.
    """
    chosen = first.valid if first.valid.any() else np.ones_like(first.valid)
    classes = len(now.areas) + 1
    pairs = zip(now.masks[chosen], first.masks[chosen], strict=True)
    return Signals(
        iteration=iteration,
        cases=len(now.valid),
        validity=float(now.valid.mean()),
        mean_reward=None if now.reward is None else float(now.reward.mean()),
        kl=float(now.kl.mean()),
        entropy=float(now.entropy.mean()),
        area_drift={
            name: float(np.mean(_log(area[chosen]) - _log(first.areas[name][chosen])))
            for name, area in now.areas.items()
        },
        area_to_source={
            name: float(_log(area.mean()) - _log(np.float64(label_areas[name])))
            for name, area in now.areas.items()
        }
        if label_areas
        else {},
        agreement=float(np.mean([agreement(a, b, classes).mean() for a, b in pairs])),
        shape_agreement=None
        if prior is None
        else float(np.mean([agreement(mask, prior.reconstruct(mask), classes).mean() for mask in now.masks])),
    )


def mean_areas(labels: UInt8, classes: tuple[str, ...]) -> dict[str, float]:
    """Foreground class -> its mean area as a share of the image. Shape: (N, *S) -> one number per class."""
    return {name: float((labels == value).mean()) for value, name in enumerate(classes, start=1)}


def _log(area: Float64 | np.float64) -> Float64:
    """Natural logarithm of areas, an empty class standing at `SMALLEST_AREA`."""
    log: Float64 = np.log(np.maximum(area, SMALLEST_AREA))
    return log
