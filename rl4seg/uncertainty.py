"""Compare ways to be sure: every method of a `Panel` on the same labelled held-out cases.

Calibration is measured per pixel where mask or truth is foreground (and, beside it, on all pixels), on the network's
grid; the image's Dice on the native grid, as `evaluate` does. Files: ``uncertainty.json``, ``cases.csv``, ``shown.h5``.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from reward_data.case_store import CaseStore
from reward_data.errors import DataError
from reward_data.types import Bool, Float32, Float64, Int64, Progress, UInt8, no_progress
from rl4seg import confidence as names
from rl4seg.confidence import Judged, Panel
from rl4seg.metrics import dice_per_class, risk_coverage
from rl4seg.runtime import derive_seed
from rl4seg.uncertainty_statistics import (
    BETTER,
    Scored,
    Truth,
    best,
    calibration_figures,
    case_bins,
    curve_of,
    difference,
    drawn_figures,
    figures,
    image_score,
    interval,
    ranking_figures,
    resamples,
)

BOOTSTRAP = 43  # branch of the seed tree
SCHEMA = 1
INFORMATION = "{}, mutual information"
SHOWN = (names.REWARD_MAP, names.REWARD, names.SOFTMAX_MAP, names.SOFTMAX, names.TTA)
PAIRS = (
    (names.REWARD_MAP, names.SOFTMAX_MAP), (names.REWARD_MAP, names.SOFTMAX), (names.REWARD, names.SOFTMAX),
    (names.REWARD, names.SOFTMAX_T), (names.REWARD_MAP, names.REWARD), (names.BOTH_MAP, names.SOFTMAX_MAP),
    (names.PRODUCT, names.SOFTMAX),
)  # fmt: skip


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
    """What is kept of every case: figures, never maps, but for the ``shown`` worst cases."""

    bins: int
    shown_cases: int
    ids: list[str] = field(default_factory=list)
    patients: list[str] = field(default_factory=list)
    dice: list[float] = field(default_factory=list)
    inside: dict[str, list[Float64]] = field(default_factory=dict)
    everywhere: dict[str, list[Float64]] = field(default_factory=dict)
    scores: dict[str, list[float]] = field(default_factory=dict)
    scores_everywhere: dict[str, list[float]] = field(default_factory=dict)
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
            self.scores.setdefault(name, []).append(image_score(values, mask > 0))
            self.scores_everywhere.setdefault(name, []).append(float(values.mean()))
        most = float(np.log(judged.probabilities.shape[1]))  # no mutual information is larger
        for name, information in judged.information.items():
            row = INFORMATION.format(name)
            self.scores.setdefault(row, []).append(image_score(-information[place], mask > 0, -most))
            self.scores_everywhere.setdefault(row, []).append(float(-information[place].mean()))
        errors = {name: 1 - judged.confidence[name][place] for name in SHOWN if name in judged.confidence}
        self.shown.append(Shown(self.ids[-1], self.dice[-1], store.images([index])[0], mask, truth, errors))
        self.shown = sorted(self.shown, key=lambda case: case.dice)[: self.shown_cases]

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


def measure(
    panel: Panel,
    store: CaseStore,
    indices: Int64,
    missing: dict[str, str],
    out: Path,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Judge the labelled cases among ``indices`` and write the files into ``out``; returns uncertainty.json's content.

    ``missing``: methods that could not be had -> how to get them.

    Raises:
        DataError: no case has a label.
    """
    labelled = indices[store.has_label[indices]]
    if not len(labelled):
        raise DataError(
            f"none of the {len(indices)} held-out target cases has a label, but whether a confidence is right can "
            "only be told with labels; add label files for some test cases, or give a run whose target has them"
        )
    ledger = Ledger(panel.config.bins, panel.config.shown_cases)
    for start in range(0, len(labelled), panel.runtime.batch_size):
        chosen = labelled[start : start + panel.runtime.batch_size]
        judged = panel.judge(store.images(chosen), chosen.tolist())
        for place, index in enumerate(chosen.tolist()):
            ledger.add(store, index, judged, place)
        progress(min(start + panel.runtime.batch_size, len(labelled)), len(labelled))
    content = assess(panel, ledger, missing)
    (out / "uncertainty.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    write_cases(ledger, out / "cases.csv")
    write_shown(ledger, out / "shown.h5")
    seconds = {row: panel.seconds.get(names.TIMED_BY.get(row, row), 0.0) for row in ledger.inside}
    seconds |= {"prediction": panel.seconds.get("prediction", 0.0)}
    per_image = {name: value / len(labelled) for name, value in seconds.items()}
    (out / "seconds.json").write_text(json.dumps(per_image, indent=1) + "\n")
    return content


def missing_methods(panel: Panel) -> dict[str, str]:
    """Methods that this panel lacks -> how to get them."""
    found: dict[str, str] = {}
    if panel.reward is None:
        found["reward net"] = "the run has trained none; run a config whose loop trains one"
    if panel.maps is None:
        how = "need labelled source validation images: give a source with source.validation_fraction=0.1 or a val split"
        found["temperature and source maps"] = how
    if not panel.config.augmentation_draws:
        found[names.TTA] = "switched off; augmentation_draws=8"
    if not panel.config.dropout_passes:
        found[names.DROPOUT] = "switched off; dropout_passes=10"
    return found


def assess(panel: Panel, ledger: Ledger, missing: dict[str, str]) -> dict[str, Any]:
    """All statistics as plain JSON values; NaN is null."""
    config, scored = panel.config, ledger.scored()
    truth = Truth(np.array(ledger.dice), tuple(ledger.patients), config.dice_below)
    generator = np.random.default_rng(derive_seed(panel.seed, BOOTSTRAP))
    samples = resamples(truth.patients, config.bootstrap_draws, generator)
    values = {name: figures(row, truth) for name, row in scored.items()}
    drawn = {name: drawn_figures(row, truth, samples) for name, row in scored.items()}
    leaders = {name: best(name, values, drawn) for name in BETTER}
    return {
        "schema_version": SCHEMA,
        "cases": len(ledger.ids),
        "patients": len(set(ledger.patients)),
        "dice_mean": float(truth.dice.mean()),
        "dice_below": config.dice_below,
        "bad_cases": int((truth.dice < config.dice_below).sum()),
        "dice_quartile": truth.quartile,
        "bins": config.bins,
        "bootstrap_draws": config.bootstrap_draws,
        "methods": [
            _method(ledger, name, note, scored[name], truth, values[name], drawn[name])
            for name, note in _rows(panel)
        ],
        "oracle_risk": risk_coverage(truth.dice, 1 - truth.dice).tolist(),
        "best": {name: None if found is None else found._asdict() for name, found in leaders.items()},
        "pairs": [
            {"a": a, "b": b}
            | {"figures": {name: difference(name, a, b, values, drawn)._asdict() for name in BETTER}}
            for a, b in PAIRS
            if a in values and b in values
        ],
        "missing": [{"name": name, "how": how} for name, how in missing.items()],
    }


def _rows(panel: Panel) -> list[tuple[str, str]]:
    """(name, note) of every row, the mutual information of a sampled method after it."""
    rows = []
    for name, note in panel.methods():
        rows.append((name, note))
        if name in (names.TTA, names.DROPOUT, names.ENSEMBLE):
            words = "What the samples disagree about, negated; a score, no probability: ranks images only."
            rows.append((INFORMATION.format(name), words))
    return rows


def _method(
    ledger: Ledger,
    name: str,
    note: str,
    scored: Scored,
    truth: Truth,
    values: dict[str, float],
    drawn: dict[str, Float64],
) -> dict[str, Any]:
    """One method's part of the file."""
    around = np.array(ledger.scores_everywhere[name])
    other = ranking_figures(around, truth.dice, truth.dice_below, truth.quartile)
    everywhere = np.sum(ledger.everywhere[name], 0) if name in ledger.everywhere else None
    curve = None if scored.bins is None else curve_of(scored.bins.sum(0)).to_json()
    return {
        "name": name,
        "note": note,
        "figures": {key: interval(value, drawn[key])._asdict() for key, value in values.items()},
        "all_pixels": None if everywhere is None else _known(calibration_figures(everywhere)),
        "score_over_all_pixels": _known(other),
        "curve": curve,
        "risk": risk_coverage(scored.score, 1 - truth.dice).tolist(),
    }


def _known(values: dict[str, float]) -> dict[str, float | None]:
    return {name: float(value) if np.isfinite(value) else None for name, value in values.items()}


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
                    name: value[:].astype(np.float32) / np.float32(255)
                    for name, value in group["error"].items()
                },
            )
            for _, group in sorted(file.items())
        ]
