"""What is kept of every judged case: sums, scores and a few pictures, as ``cases.csv`` and ``shown.h5``."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from reward_data.case_store import CaseStore
from reward_data.trust import expected_dice
from reward_data.types import Bool, Float32, Float64, UInt8
from rl4seg import confidence as names
from rl4seg.confidence import Judged
from rl4seg.metrics import dice_per_class
from rl4seg.uncertainty_statistics import Scored, case_bins, mean_over_mask

INFORMATION = "{}, mutual information"
SHOWN = (names.REWARD, names.PRODUCT, names.SOFTMAX, names.SOFTMAX_T, names.TTA)


@dataclass(frozen=True)
class Shown:
    """One case for the page: image (C, *S), mask and truth (*S), error maps (*S) in [0, 1] by method."""

    case: str
    dice: float
    image: Float32
    mask: UInt8
    truth: UInt8
    errors: dict[str, Float32]


@dataclass
class Ledger:
    """What is kept of every case: figures, never maps, but for the ``shown`` worst cases.

    ``scores``: the Dice that a method's map lets expect, by one function for all of them, so that they differ in their
    maps alone. ``means``: the map's mean over the mask, beside it. Mutual information I counts as a map 1 - I / log K.
    """

    bins: int
    shown_cases: int
    ids: list[str] = field(default_factory=list)
    patients: list[str] = field(default_factory=list)
    dice: list[float] = field(default_factory=list)
    inside: dict[str, list[Float64]] = field(default_factory=dict)
    everywhere: dict[str, list[Float64]] = field(default_factory=dict)
    scores: dict[str, list[float]] = field(default_factory=dict)
    means: dict[str, list[float]] = field(default_factory=dict)
    shown: list[Shown] = field(default_factory=list)

    def add(self, store: CaseStore, index: int, judged: Judged, place: int) -> None:
        """Note case ``index`` of the store, which is ``place`` in the judged batch."""
        mask, truth = judged.masks[place], store.labels([index])[0]
        right: Bool = np.equal(mask, truth)
        region: Bool = (mask > 0) | (truth > 0)
        self.ids.append(store.ids[index])
        self.patients.append(store.groups[index])
        self.dice.append(native_dice(store, index, judged.probabilities[place]))
        for name, maps in judged.confidence.items():
            values = maps[place]
            self._note(self.inside, name, case_bins(values[region], right[region], self.bins))
            self._note(self.everywhere, name, case_bins(values, right, self.bins))
            self._score(name, values, mask)
        most = float(np.log(judged.probabilities.shape[1]))  # no mutual information is larger
        for name, information in judged.information.items():
            agreed = (1 - information[place] / most).astype(np.float32)
            self._score(INFORMATION.format(name), agreed, mask)
        errors = {name: 1 - judged.confidence[name][place] for name in SHOWN if name in judged.confidence}
        self.shown.append(Shown(self.ids[-1], self.dice[-1], store.images([index])[0], mask, truth, errors))
        self.shown = sorted(self.shown, key=lambda case: case.dice)[: self.shown_cases]

    def _score(self, name: str, values: Float32, mask: UInt8) -> None:
        self.scores.setdefault(name, []).append(expected_dice(np.float32(1) - values, mask))
        self.means.setdefault(name, []).append(mean_over_mask(values, mask > 0))

    @staticmethod
    def _note(into: dict[str, list[Float64]], name: str, sums: Float64) -> None:
        into.setdefault(name, []).append(sums)

    def scored(self) -> dict[str, Scored]:
        """Method -> its bins and scores, those that are a score only included."""
        return {
            name: Scored(np.stack(self.inside[name]) if name in self.inside else None, np.array(score))
            for name, score in self.scores.items()
        }


def native_dice(store: CaseStore, index: int, probabilities: Float32) -> float:
    """Mean Dice over the foreground classes on the native grid. Shape: (K, *S)."""
    mask = store.restore_probabilities(index, probabilities).labels
    return float(dice_per_class(mask, store.native_label(index), store.num_classes).mean())


def write_cases(ledger: Ledger, path: Path) -> None:
    """One row per case, worst Dice first: patient, Dice, and every method's image score."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["case", "patient", "dice_mean", *(f"score {name}" for name in ledger.scores)])
        for place in np.argsort(ledger.dice, kind="stable"):
            scores = [f"{column[place]:.6g}" for column in ledger.scores.values()]
            writer.writerow([ledger.ids[place], ledger.patients[place], f"{ledger.dice[place]:.6g}", *scores])


def write_shown(ledger: Ledger, path: Path) -> None:
    """Image, mask, truth and error maps (uint8, 255 = certainly wrong) of the worst cases, one group each."""
    with h5py.File(path, "w") as file:
        for number, case in enumerate(ledger.shown):
            group = file.create_group(f"{number:03d}")
            group.attrs["case"], group.attrs["dice"] = case.case, case.dice
            for key in ("image", "mask", "truth"):
                group.create_dataset(key, data=getattr(case, key), compression="gzip", compression_opts=1)
            for name, error in case.errors.items():
                level = np.rint(np.clip(error, 0, 1) * 255).astype(np.uint8)
                group.create_dataset(f"error/{name}", data=level, compression="gzip", compression_opts=1)


def read_shown(path: Path) -> list[Shown]:
    """Read what `write_shown` wrote."""
    with h5py.File(path, "r") as file:
        return [
            Shown(
                str(group.attrs["case"]),
                float(group.attrs["dice"]),
                group["image"][:],
                group["mask"][:],
                group["truth"][:],
                {
                    name: group["error"][name][:].astype(np.float32) / np.float32(255)
                    for name in SHOWN
                    if name in group.get("error", ())
                },
            )
            for _, group in sorted(file.items())
        ]
