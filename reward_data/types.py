"""The types that flow through all rooms.

Notation: B batch, C channels, K classes (0 is background), S the spatial shape ``(H, W)`` or ``(H, W, D)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from reward_data.errors import DataError

UInt8 = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]


class Config(BaseModel):
    """Base of every configuration: frozen, unknown keys refused, defaults checked too."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class LabelMap(Config):
    """Which classes exist and which native label value becomes which class."""

    names: tuple[str, ...] = Field(
        default=("background", "lv", "myo"),
        min_length=2,
        description="Class names in order of their value; the first is the background.",
    )
    merge: dict[int, int] = Field(
        default_factory=dict,
        description="Native label value -> class value, for values that are not already a class value. "
        "{3: 0} drops label 3 into the background. Values neither here nor a class value are refused.",
    )

    @model_validator(mode="after")
    def _targets_exist(self) -> LabelMap:
        bad = {value for value in self.merge.values() if not 0 <= value < len(self.names)}
        if bad:
            raise ValueError(
                f"merge maps to class {sorted(bad)}, but only classes 0..{len(self.names) - 1} are named"
            )
        return self

    @property
    def num_classes(self) -> int:
        """K, background included."""
        return len(self.names)

    def apply(self, labels: npt.NDArray[Any], where: str) -> UInt8:
        """Map native label values to class values; ``where`` names the file in the error."""
        found = np.unique(labels)
        table = {value: value for value in range(self.num_classes)} | self.merge
        unknown = [float(v) for v in found if float(v) not in table]
        if unknown:
            raise DataError(
                f"{where}: label values {unknown[:8]} are not in the label map "
                f"(known: {sorted(table)}); add them to labels.merge, e.g. labels.merge={{3: 0}}"
            )
        out = np.zeros(labels.shape, np.uint8)
        for value in found:
            out[labels == value] = table[int(value)]
        return out


@dataclass(frozen=True)
class Case:
    """One image as it came from disk, with its label where there is one.

    ``image`` Shape: (C, *S), native intensities. ``label`` Shape: (*S), class values (label map applied).
    ``spacing_mm`` has one entry per spatial axis; ``affine`` Shape: (4, 4), voxel index to world (RAS+, mm).
    """

    id: str
    group: str
    domain: str
    split: str | None
    image: Float32
    label: UInt8 | None
    spacing_mm: tuple[float, ...]
    affine: Float64
    spacing_known: bool = True


@dataclass(frozen=True)
class Mask:
    """A segmentation on a known grid. ``labels`` Shape: (*S)."""

    labels: UInt8
    spacing_mm: tuple[float, ...]
    affine: Float64


class Segmenter(Protocol):
    """What synthesis asks of a segmentation policy, so that the data room needs no torch."""

    @property
    def num_classes(self) -> int:
        """K, background included."""
        ...

    def probabilities(self, images: Float32) -> Float32:
        """Class probabilities. Shape: (B, C, *S) in [0, 1] -> (B, K, *S)."""
        ...

    def perturbed(self, sigma: float, seed: int) -> Segmenter:
        """A copy whose weights carry additive N(0, sigma) noise drawn from ``seed``; self is unchanged."""
        ...


class Progress(Protocol):
    """Called by every long computation after each unit of work."""

    def __call__(self, done: int, total: int, metrics: Mapping[str, float] | None = None) -> None:
        """``done`` of ``total`` units are finished; ``metrics`` are the latest values by name."""
        ...


def no_progress(done: int, total: int, metrics: Mapping[str, float] | None = None) -> None:
    """The Progress that tells nobody."""
