"""The files of a review's export: image, mask and error map of every case, a contact sheet, cases.csv, a README.

    images/CASE.nii.gz   masks/CASE.nii.gz   error_maps/CASE.nii.gz     native shape, spacing and affine
    labels.txt   contact_sheet.png   cases.csv   README.txt   export.json   predicted.h5

``predicted.h5`` holds the masks on the network grid: what is accepted is that mask, without a way there and back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from flows.reporting.montage import error_colours
from flows.reporting.picture_sheet import Frame, Sheet
from reward_data.anatomy import RuleSet, violations
from reward_data.case_store import CaseStore
from reward_data.errors import DataError
from reward_data.expert import Expert
from reward_data.geometry import channels_to_native
from reward_data.readers import DatasetConfig, read_cases
from reward_data.review import MASKS, Export, ExportedCase, ReviewConfig, choose_cases
from reward_data.review_files import (
    Grid,
    file_names,
    label_description,
    labels_digest,
    read_grid,
    write_volume,
)
from reward_data.types import Case, Float32, Int64, Progress, UInt8
from rl4seg.policies import Model
from rl4seg.reward_net import RewardModel
from rl4seg.runtime import Runtime, derive_seed
from rl4seg.trust import Inspection, inspect, mask_trust

IMAGES, ERRORS, SHEET, README = "images", "error_maps", "contact_sheet.png", "README.txt"
CHOICE = 41  # branch of the seed tree
PER_ROW = 5

INTRODUCTION = """Review after iteration {iteration}: {count} target images, {chosen}

masks/       what the policy says; correct these files in place (or save corrected ones elsewhere by the same names)
images/      the images; error_maps/ the probability that a pixel of the mask is wrong
labels.txt   for ITK-SNAP: Segmentation > Import Label Descriptions
cases.csv    one line per image; contact_sheet.png shows them all. predicted.h5 and export.json are for the program.

1. Open images/CASE.nii.gz with masks/CASE.nii.gz as segmentation. Labels: {labels}.
2. Correct the mask where it is wrong and save it under its name as NIfTI (.nii.gz), on the grid of the image.
3. In cases.csv write a decision:  accept (the mask is right as it is)   correct (the corrected mask is right)
   reject (it must never be learned from)   skip (no opinion). A mask that was changed counts as correct without a word.
4. rl4seg review import {run}          (or: rl4seg review import {run} FOLDER, with corrected masks of your own)
   rl4seg resume {run}                 (or Resume in the dashboard, with its form)

Accepted and corrected masks are ground truth from then on. Everything is checked before any of it is used.
"""


class Exporter(NamedTuple):
    """What an export is made from. ``dataset`` has its path: images are read again, in native intensities."""

    store: CaseStore
    model: Model
    reward: RewardModel
    rules: RuleSet
    dataset: DatasetConfig
    runtime: Runtime


def write_export(
    exporter: Exporter,
    config: ReviewConfig,
    indices: Int64,
    masks: UInt8,
    known: Expert,
    iteration: int,
    seed: int,
    out: Path,
    progress: Progress,
) -> Export:
    """Choose among the predictions ``masks`` (n, *S) of the cases ``indices`` (n,) and write the files into ``out``.

    Args:
        known: what experts have said before; their cases are not asked about again, unless they were skipped.

    Raises:
        DataError: there is no case left to ask about.
    """
    store = exporter.store
    said = {case for case, word in known.decisions.items() if word != "skip"}
    open_places = np.flatnonzero([store.ids[int(i)] not in said for i in indices])
    if len(open_places) == 0:
        raise DataError(
            f"review: all {len(indices)} target training images are reviewed, none is left to ask about; set "
            "review.enabled=false or review.every=null"
        )
    trust = mask_trust(exporter.reward, store, indices[open_places], masks[open_places], progress)
    groups = [store.groups[int(i)] for i in indices[open_places]]
    rng = np.random.default_rng(derive_seed(seed, CHOICE, iteration))
    places = choose_cases(trust, groups, config, rng)
    chosen = indices[open_places[places]]
    predicted = masks[open_places[places]]
    export = Export(
        iteration=iteration,
        class_names=store.class_names,
        cases=tuple(_write_cases(exporter, chosen, predicted, trust[places], out)),
    )
    export.write(out)
    (out / "labels.txt").write_text(label_description(store.class_names))
    (out / README).write_text(_introduction(export, config))
    with h5py.File(out / "predicted.h5", "w") as file:
        file.create_dataset("masks", data=predicted, compression="gzip", compression_opts=1)
    return export


def _introduction(export: Export, config: ReviewConfig) -> str:
    chosen = "those whose masks are trusted least." if config.by == "trust" else "chosen at random."
    labels = ", ".join(f"{value} = {name}" for value, name in enumerate(export.class_names))
    return INTRODUCTION.format(
        iteration=export.iteration, count=len(export.cases), chosen=chosen, labels=labels, run="RUN"
    )


def _write_cases(
    exporter: Exporter, indices: Int64, masks: UInt8, trust: Sequence[float] | np.ndarray, out: Path
) -> list[ExportedCase]:
    store, shown = (
        exporter.store,
        inspect(exporter.model, exporter.reward, exporter.store, indices, exporter.runtime),
    )
    ids = [store.ids[int(i)] for i in indices]
    natives = _native_cases(exporter.dataset, ids)
    written = []
    for row, (case_id, name) in enumerate(zip(ids, file_names(ids), strict=True)):
        spacing = store.spacing_mm(int(indices[row]))
        broken = tuple(item.rule for item in violations(masks[row], exporter.rules, spacing))
        written.append(
            _write_case(
                store, int(indices[row]), natives[case_id], shown, row, name, broken, float(trust[row]), out
            )
        )
    (out / SHEET).write_bytes(_contact_sheet(store, indices, masks, shown, trust))
    return written


def _native_cases(dataset: DatasetConfig, ids: Sequence[str]) -> Mapping[str, Case]:
    """The chosen cases as they lie on disk."""
    return {case.id: case for case in read_cases(dataset) if case.id in set(ids)}


def _write_case(
    store: CaseStore,
    index: int,
    native: Case,
    shown: Inspection,
    row: int,
    name: str,
    violated: tuple[str, ...],
    trust: float,
    out: Path,
) -> ExportedCase:
    mask = store.restore_probabilities(index, shown.probabilities[row])
    error = channels_to_native(shown.error[row][None], store.geometry(index))[0].clip(0, 1)
    for folder in (IMAGES, MASKS, ERRORS):
        (out / folder).mkdir(exist_ok=True)
    channels = len(native.image)
    for number, channel in enumerate(native.image):
        file = f"{name}.nii.gz" if channels == 1 else f"{name}_{number:04d}.nii.gz"
        write_volume(out / IMAGES / file, channel, mask.spacing_mm, mask.affine)
    write_volume(out / MASKS / f"{name}.nii.gz", mask.labels, mask.spacing_mm, mask.affine)
    write_volume(out / ERRORS / f"{name}.nii.gz", error.astype(np.float32), mask.spacing_mm, mask.affine)
    grid: Grid = read_grid(out / MASKS / f"{name}.nii.gz")
    return ExportedCase(
        case=native.id,
        file=name,
        trust=trust,
        violated=violated,
        grid=grid,
        labels=labels_digest(mask.labels),
    )


def _contact_sheet(
    store: CaseStore, indices: Int64, masks: UInt8, shown: Inspection, trust: Sequence[float] | np.ndarray
) -> bytes:
    """Every case with its mask's outline, and below it where the mask is expected to be wrong."""
    rows, names = [], []
    for start in range(0, len(indices), PER_ROW):
        above, below = [], []
        for row in range(start, min(start + PER_ROW, len(indices))):
            index, mask = int(indices[row]), _plane(masks[row])
            height, width = store.spacing_mm(index)[:2]
            title = f"{store.ids[index]}\ntrust {trust[row]:.3f}"
            grey: Float32 = _plane(store.images([index])[0, 0])
            above.append(Frame(grey, title, mask, pixel_aspect=height / width))
            colours = error_colours(_plane(shown.error[row])).astype(np.float32) / np.float32(255)
            below.append(Frame(colours, "", mask, pixel_aspect=height / width))
        rows += [above, below]
        names += ["mask", "expected errors"]
    return Sheet(
        rows, store.class_names[1:], names, ramp=("expected right", "expected wrong"), side=200
    ).png()


def _plane(array: np.ndarray) -> np.ndarray:
    """The middle plane of a volume, a 2-D array as it is. Shape: (H, W[, D]) -> (H, W)."""
    return array if array.ndim == 2 else array[..., array.shape[-1] // 2]
