"""A model package on labelled or unlabelled cases: what each mask is worth, and what the model says of it itself.

Masks, error maps and trust are those that `rl4seg.predictor` gives to anybody who uses the model. Dice and distances
are measured on the native grid, the calibration of maps on the network's, where they are made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from reward_data.case_store import CaseStore
from reward_data.errors import ConfigError
from reward_data.types import Float64, Int64, Progress, UInt8, no_progress
from rl4seg.metrics import dice, surface_distances
from rl4seg.predictor import CaseResult, Predictor, Prepared
from rl4seg.sight import Sight
from rl4seg.uncertainty_statistics import calibration_figures, case_bins

BINS = 20
SOFTMAX, ERROR_MAP = "softmax", "error map"


@dataclass(frozen=True)
class ScoredCase:
    """The figures of one case. Without a label ``dice``, ``hd``, ``hd95`` and ``bins`` are empty.

    ``areas`` in mm2 (mm3), None where the pixel size is unknown; ``bins``: confidence -> sums of `case_bins`, Shape:
    (3, BINS), over the pixels where mask or label is foreground.
    """

    case: str
    group: str
    trust: float
    flagged: bool | None
    violated: tuple[str, ...]
    areas: dict[str, float | None]
    dice: dict[str, float] = field(default_factory=dict)
    hd: dict[str, float] = field(default_factory=dict)
    hd95: dict[str, float] = field(default_factory=dict)
    bins: dict[str, Float64] = field(default_factory=dict)

    @property
    def labelled(self) -> bool:
        """Whether there is a label."""
        return bool(self.dice)

    def row(self, classes: Sequence[str]) -> dict[str, object]:
        """Flat, for a CSV; means are over ``classes``, unions left out."""
        flat: dict[str, object] = {
            "case": self.case,
            "group": self.group,
            "trust": self.trust,
            "flagged": "" if self.flagged is None else int(self.flagged),
            "valid": int(not self.violated),
            "violated": ";".join(self.violated),
        }
        for name in ("dice", "hd", "hd95") if self.labelled else ():
            values: dict[str, float] = getattr(self, name)
            flat[f"{name}_mean"] = float(np.mean([values[key] for key in classes]))
            flat |= {f"{name}_{structure}": value for structure, value in values.items()}
        for name, sums in self.bins.items():
            flat[f"ece_{name.replace(' ', '_')}"] = calibration_figures(sums)["ece"]
        flat |= {f"area_{structure}": "" if area is None else area for structure, area in self.areas.items()}
        return {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in flat.items()}


def structures(names: Sequence[str], unions: Mapping[str, Sequence[str]]) -> dict[str, tuple[int, ...]]:
    """Every class and every union of classes by name -> class values.

    Raises:
        ConfigError: a union of a class that does not exist.
    """
    found: dict[str, tuple[int, ...]] = {name: (value,) for value, name in enumerate(names) if value}
    for union, members in unions.items():
        unknown = [member for member in members if member not in names]
        if unknown:
            raise ConfigError(
                f"evaluation.unions.{union}: no class {unknown[0]!r}; the classes are {list(names)}"
            )
        found[union] = tuple(names.index(member) for member in members)
    return found


def score_cases(
    predictor: Predictor,
    store: CaseStore,
    indices: Int64,
    unions: Mapping[str, Sequence[str]],
    progress: Progress = no_progress,
) -> list[ScoredCase]:
    """Predict and score the cases ``indices`` of a store that is laid out for this model.

    Raises:
        ConfigError: a union of a class that does not exist.
    """
    regions = structures(store.class_names, unions)
    size = predictor.runtime.batch_size
    scored: list[ScoredCase] = []
    for start in range(0, len(indices), size):
        some = [int(index) for index in indices[start : start + size]]
        prepared = [
            Prepared(image, store.geometry(index), store.spacing_known)
            for image, index in zip(store.images(some), some, strict=True)
        ]
        for index, ready, sight in zip(some, prepared, predictor.infer(prepared), strict=True):
            scored.append(_score(store, index, predictor.finish(ready, sight), sight, regions))
        progress(len(scored), len(indices))
    return scored


def _score(
    store: CaseStore,
    index: int,
    result: CaseResult,
    sight: Sight,
    regions: Mapping[str, tuple[int, ...]],
) -> ScoredCase:
    scored = ScoredCase(
        store.ids[index],
        store.groups[index],
        result.trust,
        result.flagged,
        tuple(item.rule for item in result.violated),
        result.areas,
    )
    if store.has_label[index]:
        truth = store.native_label(index)
        for name, values in regions.items():
            a, b = np.isin(result.mask, values), np.isin(truth, values)
            scored.dice[name] = dice(a, b)
            scored.hd[name], scored.hd95[name] = surface_distances(a, b, result.spacing_mm)
        scored.bins.update(_bins(sight, store.labels([index])[0]))
    return scored


def _bins(sight: Sight, truth: UInt8) -> dict[str, Float64]:
    """What softmax and error map say about the pixels of mask and truth. Shape: (*S)."""
    region = (sight.mask > 0) | (truth > 0)
    right = (sight.mask == truth)[region]
    own = np.take_along_axis(sight.probabilities, sight.mask[None].astype(np.int64), 0)[0]
    return {
        SOFTMAX: case_bins(own[region], right, BINS),
        ERROR_MAP: case_bins(1 - sight.error[region], right, BINS),
    }
