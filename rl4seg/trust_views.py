"""Views of labelled images that get worse step by step: where masks are bad, and it is known that they are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from reward_data.case_store import CaseStore
from reward_data.types import Float64, Int64, Progress, UInt8, no_progress
from rl4seg.configs.augment import DegradeConfig
from rl4seg.configs.predict import PredictConfig
from rl4seg.configs.trust import TrustConfig
from rl4seg.degrade import degrade
from rl4seg.metrics import dice
from rl4seg.package import ModelPackage
from rl4seg.runtime import Runtime, derive_seed
from rl4seg.sight import look

VIEW = 44  # branch of the seed tree
JUST_BELOW = 0.99  # of a bound that is itself not allowed


class Scored(NamedTuple):
    """Trust and mean Dice over classes of some masks. Shape: (n,) each. ``strength`` of degradation, 0: clean."""

    strength: float
    trust: Float64
    dice: Float64


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


def scored_views(
    package: ModelPackage,
    store: CaseStore,
    indices: Int64,
    config: TrustConfig,
    seed: int,
    runtime: Runtime,
    progress: Progress = no_progress,
) -> Iterator[Scored]:
    """Trust and Dice on the network's grid of labelled cases: clean, then ``config.views`` views at every strength.

    What is not asked for is not computed. View v of a case is drawn from (seed, v, case) at all strengths: it does not
    depend on batches, and a stronger view is the same one with everything on it stronger.
    """
    total = len(indices) * (1 + config.views * len(config.strengths))
    done = 0

    def scored(strength: float, views: range) -> Scored:
        nonlocal done
        parts = []
        for view in views:
            for start in range(0, len(indices), runtime.batch_size):
                some = indices[start : start + runtime.batch_size]
                images = torch.from_numpy(store.images(some))
                if strength:
                    settings, numbers = at_strength(config.degrade, strength), some.tolist()
                    images = _degraded(images, settings, [(seed, view, number) for number in numbers])
                parts.append(_score(package, images, store.labels(some), runtime))
                done += len(some)
                progress(done, total)
        trust, overlap = (np.concatenate(values) for values in zip(*parts, strict=True))
        return Scored(strength, trust, overlap)

    yield scored(0.0, range(1))
    for strength in config.strengths if config.views else ():
        yield scored(strength, range(1, config.views + 1))


def at_strength(config: DegradeConfig, strength: float) -> DegradeConfig:
    """Every strength of a degradation times a factor, within what the setting allows; its share stays."""
    stronger = {}
    for name, field in DegradeConfig.model_fields.items():
        if name != "share":
            limits = [getattr(item, "le", math.inf) for item in field.metadata]
            limits += [getattr(item, "lt", math.inf) * JUST_BELOW for item in field.metadata]
            stronger[name] = min(getattr(config, name) * strength, *limits)
    return config.model_copy(update=stronger)


def _degraded(images: torch.Tensor, config: DegradeConfig, paths: list[tuple[int, ...]]) -> torch.Tensor:
    views = []
    for image, path in zip(images, paths, strict=True):
        generator = torch.Generator().manual_seed(derive_seed(VIEW, *path))
        views.append(degrade(config, image[None], generator))
    return torch.cat(views)


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
