"""The files of a review's export: image, mask and error map of every case, a contact sheet, cases.csv, a README.

    images/CASE.nii.gz   masks/CASE.nii.gz   error_maps/CASE.nii.gz     native shape, spacing and affine
    labels.txt   contact_sheet.png   cases.csv   README.txt   export.json   predicted.h5

``predicted.h5`` holds the masks on the network grid: what is accepted is that mask, without a way there and back.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from flows.reporting.figures import INK
from flows.reporting.montage import error_colours
from flows.reporting.picture_sheet import DPI, Frame, Sheet, drawn
from reward_data.anatomy import RuleSet, violations
from reward_data.case_store import CaseStore
from reward_data.errors import DataError
from reward_data.expert import Expert
from reward_data.geometry import channels_to_native
from reward_data.readers import DatasetConfig
from reward_data.review import MASKS, README, SHEET, Export, ExportedCase, ReviewConfig, choose_cases
from reward_data.review_files import (
    Grid,
    file_names,
    label_description,
    labels_digest,
    native_images,
    read_grid,
    write_volume,
)
from reward_data.types import Float32, Float64, Int64, Progress, UInt8
from rl4seg.policies import Model
from rl4seg.reward_net import RewardModel
from rl4seg.runtime import Runtime, derive_seed
from rl4seg.trust import Inspection, inspect, mask_trust

IMAGES, ERRORS = "images", "error_maps"
CHOICE = 41  # branch of the seed tree
PER_ROW, MOST_SHOWN = 5, 25  # cases in the contact sheet: more would be too small to see
HEADLINE = 36  # px above the sheet

INTRODUCTION = """Review after iteration {iteration}: {count} target images, {chosen}

masks/       what the policy says; correct these files in place (or save corrected ones elsewhere by the same names)
images/      the images; error_maps/ the probability that a pixel of the mask is wrong
labels.txt   for ITK-SNAP: Segmentation > Import Label Descriptions
cases.csv    one line per image; contact_sheet.png shows them. predicted.h5 and export.json are for the program.

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
    predictions: Path,
    known: Expert,
    iteration: int,
    seed: int,
    out: Path,
    progress: Progress,
) -> Export:
    """Choose among the masks of a file of `rl4seg.predict.Predictions` and write the review's files into ``out``.

    Masks are read in batches, images one by one and only those of chosen cases.

    Args:
        known: what experts have said before; their cases are not asked about again, unless they were skipped.

    Raises:
        DataError: there is no case left to ask about.
    """
    with h5py.File(predictions, "r") as file:
        chosen, predicted, trust = _choose(exporter, config, file, known, iteration, seed, progress)
    cases = _write_cases(exporter, chosen, predicted, trust, out)
    export = Export(iteration=iteration, class_names=exporter.store.class_names, cases=cases)
    export.write(out)
    (out / "labels.txt").write_text(label_description(export.class_names))
    (out / README).write_text(_introduction(export, config))
    shown = inspect(exporter.model, exporter.reward, exporter.store, chosen[:MOST_SHOWN], exporter.runtime)
    (out / SHEET).write_bytes(_contact_sheet(exporter.store, chosen, predicted, shown.error, export, config))
    with h5py.File(out / "predicted.h5", "w") as file:
        file.create_dataset("masks", data=predicted, compression="gzip", compression_opts=1)
    return export


def _choose(
    exporter: Exporter,
    config: ReviewConfig,
    file: h5py.File,
    known: Expert,
    iteration: int,
    seed: int,
    progress: Progress,
) -> tuple[Int64, UInt8, Float64]:
    """Cases (n,), their masks (n, *S) and the trust in them (n,), the first to be asked about first."""
    store, indices, masks = exporter.store, file["indices"][:], file["masks"]
    said = {case for case, word in known.decisions.items() if word != "skip"}
    open_places = np.flatnonzero([store.ids[int(i)] not in said for i in indices])
    if len(open_places) == 0:
        raise DataError(
            f"review: all {len(indices)} target training images are reviewed, none is left to ask about; set "
            "review.enabled=false or review.every=null"
        )
    trust = mask_trust(
        exporter.model,
        exporter.reward,
        store,
        indices[open_places],
        lambda rows: masks[open_places[rows]],
        progress,
    )
    groups = [store.groups[int(i)] for i in indices[open_places]]
    rng = np.random.default_rng(derive_seed(seed, CHOICE, iteration))
    places = choose_cases(trust, groups, config, rng)
    predicted = np.stack([masks[int(place)] for place in open_places[places]])
    return indices[open_places[places]], predicted, trust[places]


def _introduction(export: Export, config: ReviewConfig) -> str:
    chosen = "those whose masks are trusted least." if config.by == "trust" else "chosen at random."
    labels = ", ".join(f"{value} = {name}" for value, name in enumerate(export.class_names))
    return INTRODUCTION.format(
        iteration=export.iteration, count=len(export.cases), chosen=chosen, labels=labels, run="RUN"
    )


def _write_cases(
    exporter: Exporter, indices: Int64, masks: UInt8, trust: Float64, out: Path
) -> tuple[ExportedCase, ...]:
    """Write the volumes of every case, one case at a time."""
    store = exporter.store
    ids = [store.ids[int(i)] for i in indices]
    natives = native_images(exporter.dataset, ids)
    written = []
    for row, (case_id, name) in enumerate(zip(ids, file_names(ids), strict=True)):
        index = int(indices[row])
        shown = inspect(exporter.model, exporter.reward, store, indices[row : row + 1], exporter.runtime)
        grid, labels = _write_volumes(store, index, natives[case_id], shown, name, out)
        broken = tuple(item.rule for item in violations(masks[row], exporter.rules, store.spacing_mm(index)))
        written.append(
            ExportedCase(
                case=case_id, file=name, trust=float(trust[row]), violated=broken, grid=grid, labels=labels
            )
        )
    return tuple(written)


def _write_volumes(
    store: CaseStore, index: int, image: Float32, shown: Inspection, name: str, out: Path
) -> tuple[Grid, str]:
    """Write image (C, *S native), mask and error map of one case; returns their grid and the digest of the labels."""
    mask = store.restore_probabilities(index, shown.probabilities[0])
    error = channels_to_native(shown.error, store.geometry(index))[0].clip(0, 1)
    for folder in (IMAGES, MASKS, ERRORS):
        (out / folder).mkdir(exist_ok=True)
    for number, channel in enumerate(image):
        file = f"{name}.nii.gz" if len(image) == 1 else f"{name}_{number:04d}.nii.gz"
        write_volume(out / IMAGES / file, channel, mask.spacing_mm, mask.affine)
    write_volume(out / MASKS / f"{name}.nii.gz", mask.labels, mask.spacing_mm, mask.affine)
    write_volume(out / ERRORS / f"{name}.nii.gz", error.astype(np.float32), mask.spacing_mm, mask.affine)
    return read_grid(out / MASKS / f"{name}.nii.gz"), labels_digest(mask.labels)


# --- the contact sheet -----------------------------------------------------------------------------------------------


def _contact_sheet(
    store: CaseStore, indices: Int64, masks: UInt8, errors: Float32, export: Export, config: ReviewConfig
) -> bytes:
    """The first cases with their masks' outlines, and below each where its mask is expected to be wrong."""
    rows, names = [], []
    for start in range(0, len(errors), PER_ROW):
        above, below = [], []
        for row in range(start, min(start + PER_ROW, len(errors))):
            index, mask = int(indices[row]), _plane(masks[row])
            height, width = store.spacing_mm(index)[:2]
            grey: Float32 = _plane(store.images([index])[0, 0])
            above.append(Frame(grey, _about(export.cases[row]), mask, pixel_aspect=height / width))
            colours = error_colours(_plane(errors[row])).astype(np.float32) / np.float32(255)
            below.append(Frame(colours, "", mask, pixel_aspect=height / width))
        rows += [above, below]
        names += ["mask", "expected errors"]
    sheet = Sheet(rows, store.class_names[1:], names, ramp=("expected right", "expected wrong"), side=200)
    count, shown = len(export.cases), len(errors)
    order = "least trusted first" if config.by == "trust" else "chosen at random"
    images = f"{count} images" if shown == count else f"the first {shown} of {count} images"
    return titled(sheet.png(), f"Review after iteration {export.iteration}: {images}, {order}")


def _about(case: ExportedCase) -> str:
    broken = len(case.violated)
    rules = f" · breaks {broken} rule{'s' if broken > 1 else ''}" if broken else ""
    return f"{case.case}\ntrust {case.trust:.3f}{rules}"


def titled(png: bytes, title: str) -> bytes:
    """A picture with a headline above it."""
    picture = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    height, width = picture.shape[0] + HEADLINE, picture.shape[1]
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    figure.figimage(picture, 0, 0, origin="upper")
    style = {"ha": "center", "va": "center", "fontsize": 12, "fontweight": "bold", "color": INK}
    figure.text(0.5, 1 - HEADLINE / 2 / height, title, style)
    return drawn(figure)


def _plane(array: np.ndarray) -> np.ndarray:
    """The middle plane of a volume, a 2-D array as it is. Shape: (H, W[, D]) -> (H, W)."""
    return array if array.ndim == 2 else array[..., array.shape[-1] // 2]
