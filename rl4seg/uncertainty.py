"""Compare ways to be sure: every method of a `Panel` on the same labelled held-out cases.

Calibration is measured per pixel where mask or truth is foreground (and, beside it, on all pixels), on the network's
grid; the image's Dice on the native grid, as `evaluate` does. Every map becomes an image score in the same way, by
`reward_data.trust.expected_dice`. Files: ``uncertainty.json``, ``cases.csv``, ``shown.h5``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reward_data.case_store import CaseStore
from reward_data.errors import DataError
from reward_data.types import Float64, Int64, Progress, no_progress
from rl4seg import confidence as names
from rl4seg.confidence import Panel
from rl4seg.metrics import risk_coverage
from rl4seg.runtime import derive_seed
from rl4seg.uncertainty_ledger import INFORMATION, Ledger, write_cases, write_shown
from rl4seg.uncertainty_statistics import (
    BETTER,
    Scored,
    Truth,
    best,
    calibration_figures,
    curve_of,
    difference,
    drawn_figures,
    figures,
    interval,
    ranking_figures,
    resamples,
)

BOOTSTRAP = 43  # branch of the seed tree
SCHEMA = 2


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
    if panel.temperature is None:
        how = "need labelled source validation images: give a source with source.validation_fraction=0.1 or a val split"
        found["softmax and entropy with temperature"] = how
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
            for a, b in pairs(values)
        ],
        "missing": [{"name": name, "how": how} for name, how in missing.items()],
    }


def pairs(values: Mapping[str, Mapping[str, float]]) -> Iterator[tuple[str, str]]:
    """Methods to compare, first less second; none without a reward net.

    The first pair is the question: is the calibrated reward net better than the better calibrated maximum softmax?
    Which of the two that is, is seen on the very cases that are judged: in favour of softmax, if of anyone.
    """
    if names.REWARD not in values:
        return
    rivals = [name for name in (names.SOFTMAX, names.SOFTMAX_T) if name in values]
    rivals.sort(key=lambda name: values[name]["ece"])
    for rival in rivals:
        yield names.REWARD, rival
    yield names.REWARD, names.REWARD_RAW
    yield names.PRODUCT, rivals[0]


def _rows(panel: Panel) -> list[tuple[str, str]]:
    """(name, note) of every row, the mutual information of a sampled method after it."""
    rows = []
    for name, note in panel.methods():
        rows.append((name, note))
        if name in (names.TTA, names.DROPOUT, names.ENSEMBLE):
            words = "1 - I / log K, I what the samples disagree about; no probability: ranks images only."
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
    other = ranking_figures(np.array(ledger.means[name]), truth.dice, truth.dice_below, truth.quartile)
    everywhere = np.sum(ledger.everywhere[name], 0) if name in ledger.everywhere else None
    curve = None if scored.bins is None else curve_of(scored.bins.sum(0)).to_json()
    return {
        "name": name,
        "note": note,
        "figures": {key: interval(value, drawn[key])._asdict() for key, value in values.items()},
        "all_pixels": None if everywhere is None else _known(calibration_figures(everywhere)),
        "score_mean_over_mask": _known(other),
        "curve": curve,
        "risk": risk_coverage(scored.score, 1 - truth.dice).tolist(),
    }


def _known(values: dict[str, float]) -> dict[str, float | None]:
    return {name: float(value) if np.isfinite(value) else None for name, value in values.items()}
