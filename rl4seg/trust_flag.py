"""The trust flag: which threshold on the trust of a mask finds the bad ones, and what it costs."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from reward_data.case_store import CaseStore
from reward_data.errors import DataError
from reward_data.types import Bool, Float64, Int64, Progress, UInt8, no_progress
from rl4seg.configs.predict import PredictConfig
from rl4seg.configs.trust import TrustConfig
from rl4seg.degrade import degrade
from rl4seg.metrics import dice
from rl4seg.package import ModelPackage, TrustFlag
from rl4seg.runtime import Runtime, derive_seed
from rl4seg.sight import look

VIEW = 44  # branch of the seed tree
SHARE_OF_CLEAN = 0.75  # of the mean Dice on clean images: the limit below which a mask is bad


class Scored(NamedTuple):
    """Trust and mean Dice over classes of some masks, and which of them are of clean images. Shape: (n,) each."""

    trust: Float64
    dice: Float64
    clean: Bool


class CurvePoint(NamedTuple):
    """What a threshold does: share of all images flagged, and share of the bad ones among them found."""

    threshold: float
    flagged: float
    found: float


def choose_flag(
    trust: Float64, dice: Float64, dice_below: float, sensitivity: float, basis: str
) -> TrustFlag:
    """The threshold that flags the fewest images and finds at least the share ``sensitivity`` of the bad ones.

    A mask is bad if its Dice is below ``dice_below`` and flagged if its trust is below the threshold, which lies
    halfway between the last trust that has to be flagged and the next one above. Without a bad mask it is the smallest
    trust seen: flagged is what is trusted less than all of these. ``trust``, ``dice`` Shape: (n,) in [0, 1].

    Raises:
        DataError: there is no image.
    """
    if len(trust) == 0 or len(trust) != len(dice):
        raise DataError(
            f"a trust flag of {len(trust)} trusts and {len(dice)} Dice values; wanted as many of both, and one at least"
        )
    bad = dice < dice_below
    threshold = float(trust.min()) if not bad.any() else _threshold(trust, trust[bad], sensitivity)
    flagged = trust < threshold
    return TrustFlag(
        threshold=threshold,
        dice_below=dice_below,
        sensitivity=sensitivity,
        images=len(trust),
        bad=int(bad.sum()),
        found=float(flagged[bad].mean()) if bad.any() else None,
        flagged=float(flagged.mean()),
        basis=basis,
    )


def _threshold(trust: Float64, of_bad: Float64, sensitivity: float) -> float:
    wanted = math.ceil(sensitivity * len(of_bad) - 1e-9)
    last = float(np.sort(of_bad)[wanted - 1])
    above = trust[trust > last]
    return (last + float(above.min() if len(above) else 1.0)) / 2


def true_curve(trust: Float64, dice: Float64, dice_below: float) -> list[CurvePoint]:
    """What every threshold would do on labelled images, from flagging none to flagging all. Shape: (n,) both.

    One point per distinct trust; ``found`` is 0 throughout where no image is bad.
    """
    bad = dice < dice_below
    total = max(int(bad.sum()), 1)
    thresholds = [*np.unique(trust).tolist(), math.nextafter(float(trust.max()), 2.0)]
    points = []
    for threshold in thresholds:
        flagged = trust < threshold
        points.append(CurvePoint(threshold, float(flagged.mean()), float((flagged & bad).sum() / total)))
    return points


def found_at(curve: list[CurvePoint], flagged: float) -> float:
    """Largest share of the bad images that can be found with no more than the share ``flagged`` of all flagged."""
    return max(point.found for point in curve if point.flagged <= flagged + 1e-12)


def judging_cases(store: CaseStore) -> tuple[Int64, str]:
    """Labelled cases of a source to choose a flag on, and what they are: its validation split, else its training."""
    for split, words in (
        ("val", "validation images of the source"),
        ("train", "training images of the source, which has no validation images"),
    ):
        chosen = store.indices(split, labelled=True)
        if len(chosen):
            return chosen, f"{len(chosen)} {words}"
    return np.zeros(0, np.int64), "no labelled image"


def score_views(
    package: ModelPackage,
    store: CaseStore,
    indices: Int64,
    config: TrustConfig,
    seed: int,
    runtime: Runtime,
    progress: Progress = no_progress,
) -> Scored:
    """Trust and Dice on the network's grid of labelled cases, clean and in ``config.views`` degraded views each.

    View v of a case is drawn from (seed, v, case): it does not depend on batches.
    """
    parts: list[tuple[Float64, Float64]] = []
    for view in range(config.views + 1):
        for start in range(0, len(indices), runtime.batch_size):
            some = indices[start : start + runtime.batch_size]
            images = torch.from_numpy(store.images(some))
            if view:
                images = torch.cat(
                    [_degraded(images[i], config, (seed, view, int(n))) for i, n in enumerate(some)]
                )
            parts.append(_score(package, images, store.labels(some), runtime))
            progress(len(parts), (config.views + 1) * math.ceil(len(indices) / runtime.batch_size))
    trust, overlap = (np.concatenate(values) for values in zip(*parts, strict=True))
    return Scored(trust, overlap, np.arange(len(trust)) < len(indices))


def _degraded(image: torch.Tensor, config: TrustConfig, path: tuple[int, ...]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(derive_seed(VIEW, *path))
    return degrade(config.degrade, image[None], generator)


def _score(
    package: ModelPackage, images: torch.Tensor, labels: UInt8, runtime: Runtime
) -> tuple[Float64, Float64]:
    seen = look(package, images.to(runtime.device), PredictConfig(), False, runtime)
    overlap = [
        mean_dice(sight.mask, label, package.model.num_classes)
        for sight, label in zip(seen, labels, strict=True)
    ]
    return np.array([sight.trust for sight in seen]), np.array(overlap)


def mean_dice(mask: UInt8, label: UInt8, classes: int) -> float:
    """Mean Dice over the foreground classes. Shape: (*S) both."""
    return float(np.mean([dice(mask == value, label == value) for value in range(1, classes)]))


def flag_of(scored: Scored, config: TrustConfig, basis: str) -> TrustFlag:
    """The flag of scored masks; the limit is the config's, else a share of the mean Dice on clean images."""
    limit = config.dice_below
    if limit is None:
        limit = round(SHARE_OF_CLEAN * float(scored.dice[scored.clean].mean()), 3)
    return choose_flag(scored.trust, scored.dice, limit, config.sensitivity, basis)


def chosen_flag(
    package: ModelPackage,
    source: CaseStore,
    config: TrustConfig,
    seed: int,
    runtime: Runtime,
    progress: Progress = no_progress,
) -> TrustFlag | None:
    """The flag of a package, chosen on labelled source cases; None where there is none."""
    indices, basis = judging_cases(source)
    if len(indices) == 0:
        return None
    scored = score_views(package, source, indices, config, seed, runtime, progress)
    return flag_of(scored, config, f"{basis}, each clean and in {config.views} degraded views")
