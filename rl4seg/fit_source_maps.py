"""Fit the maps of `source_maps` for one panel: pixels of both domains under the policy that is judged."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from reward_data.case_store import CaseStore
from reward_data.types import Bool, Float32, Float64, Int64
from rl4seg.confidence import Panel, SourceMaps, map_names, stacked
from rl4seg.source_maps import fit_logistic, fit_softmax_temperature, fit_to_target, log_odds, pooled_rate

MOST_IMAGES = 256  # of each domain


class _Pixels(NamedTuple):
    """Pixels where the mask is foreground: features (n,) by name, policy logits (n, K), labels and mask (n,)."""

    features: dict[str, Float64]
    logits: Float32
    labels: Int64
    masks: Int64


def fit_source_maps(panel: Panel, source: CaseStore, target: CaseStore) -> SourceMaps | None:
    """Temperature and maps; None where the source has no labelled validation image.

    The target's labels are not read: its training images, or all images where it has none, lend their confidences only.
    """
    chosen = _spread(source.indices("val", labelled=True))
    if not len(chosen):
        return None
    unlabelled = target.indices("train")
    unlabelled = _spread(unlabelled if len(unlabelled) else target.indices())
    here, there = _pixels(panel, source, chosen, True), _pixels(panel, target, unlabelled, False)
    correct: Bool = here.labels == here.masks
    single = [
        fit_to_target(here.features[name][:, None], correct, there.features[name][:, None])
        for name in sorted(here.features)
    ]
    pooled = pooled_rate([map_.rate for map_ in single])
    maps = {
        name: fit_logistic(stacked(name, here.features), correct).at_rate(pooled)
        for name in map_names(panel.reward is not None)
    }
    rate = fit_logistic(np.zeros((len(correct), 1)), correct).rate
    temperature = fit_softmax_temperature(here.logits, here.labels)
    return SourceMaps(temperature, maps, rate, len(chosen), len(unlabelled))


def _spread(indices: Int64) -> Int64:
    """At most `MOST_IMAGES` of them, evenly."""
    return indices[:: max(1, -(-len(indices) // MOST_IMAGES))]


@torch.no_grad()
def _pixels(panel: Panel, store: CaseStore, indices: Int64, labelled: bool) -> _Pixels:
    parts = []
    size = panel.runtime.batch_size
    for start in range(0, len(indices), size):
        chosen = indices[start : start + size]
        images = panel.runtime.tensor(store.images(chosen))
        logits = panel.logits(images)
        masks = logits.argmax(1)
        inside = (masks > 0).cpu().numpy()
        features = {"softmax": log_odds(logits.softmax(1).amax(1).cpu().numpy())[inside]}
        if panel.reward is not None:
            z = panel.reward.logits(images, masks[:, None])[:, 0]
            features["reward"] = z.double().cpu().numpy()[inside]
        labels = store.labels(chosen) if labelled else np.zeros(inside.shape)
        flat = logits.movedim(1, -1).cpu().numpy()[inside]
        parts.append(_Pixels(features, flat, labels[inside].astype(np.int64), masks.cpu().numpy()[inside]))
    return _Pixels(
        {name: np.concatenate([part.features[name] for part in parts]) for name in parts[0].features},
        np.concatenate([part.logits for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.masks for part in parts]),
    )
