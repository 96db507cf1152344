"""One image file: read it, lay its frames on the network's grid, and write what was found."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from flows.predict.pictures import Look, plane_of, save_moving, save_overlay
from flows.predict.records import FrameRecord, Record, signature
from reward_data.anatomy import Measurement
from reward_data.frames import Frames, mask_ending, read_frames, write_frames_map, write_frames_mask
from reward_data.inputs import InputFile
from rl4seg.predictor import CaseResult, Predictor, Prepared
from rl4seg.sight import Sight

BYTES_PER_PIXEL = 14  # native: image, error and their copies of 4 bytes, mask and its copy
MASKS, ERRORS, OVERLAYS = "masks", "errors", "overlays"


@dataclass
class Job:
    """A file under way. ``left``: frames that are not finished; ``size``: bytes that it takes in memory, about."""

    file: InputFile
    stamp: tuple[int, int]
    frames: Frames
    seconds: float
    size: int = 0
    results: dict[int, CaseResult] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, found: dict[int, CaseResult], seconds: float) -> bool:
        """Note finished frames; True where these were the last."""
        with self.lock:
            self.results |= found
            self.seconds += seconds
            return len(self.results) == len(self.frames)


def open_job(file: InputFile, predictor: Predictor) -> Job:
    """Read a file.

    Raises:
        DataError: nothing can be predicted for it.
    """
    began = time.perf_counter()
    stamp = signature(file.path)
    channels = predictor.package.model.spec.in_channels
    grid = predictor.spec.preprocess.shape
    frames = read_frames(file.path, len(grid), channels)
    classes = predictor.package.model.num_classes
    size = frames.values.size * BYTES_PER_PIXEL + len(frames) * int(np.prod(grid)) * 4 * (
        channels + classes + 2
    )
    return Job(file, stamp, frames, time.perf_counter() - began, size)


def prepared_frame(job: Job, index: int, predictor: Predictor) -> Prepared:
    """One frame on the network's grid.

    Raises:
        DataError: nothing can be predicted for it.
    """
    frames = job.frames
    name = str(job.file.path) if len(frames) == 1 else f"{job.file.path}, frame {index + 1} of {len(frames)}"
    spacing = frames.spacing_mm if frames.spacing_known else None
    return predictor.prepare(frames.values[index], spacing, frames.affine, name)


def finished_frames(
    items: Sequence[tuple[int, Prepared, Sight]], predictor: Predictor
) -> dict[int, CaseResult]:
    """Index of a frame -> its result, on the native grid."""
    return {index: predictor.finish(prepared, sight) for index, prepared, sight in items}


def write_outputs(job: Job, folder: Path, kinds: Sequence[str], names: Sequence[str]) -> Record:
    """Write masks and what else is wanted of a file whose frames are all finished.

    Raises:
        DataError: a file cannot be written.
    """
    began = time.perf_counter()
    results = [job.results[index] for index in range(len(job.frames))]
    name = f"{job.file.id}{mask_ending(job.file.path)}"
    outputs = {MASKS: f"masks/{name}"}
    write_frames_mask(folder / outputs[MASKS], np.stack([r.mask for r in results]), job.frames, job.file.path)
    if ERRORS in kinds:
        outputs[ERRORS] = f"errors/{name}"
        errors = np.stack([result.error for result in results])
        write_frames_map(folder / outputs[ERRORS], errors, job.frames, job.file.path)
    if OVERLAYS in kinds:
        outputs |= _pictures(job, results, folder, names)
    known = job.frames.spacing_known
    return Record(
        id=job.file.id,
        file=str(job.file.path),
        size=job.stamp[0],
        changed_ns=job.stamp[1],
        frames=tuple(frame_record(result) for result in results),
        spacing_mm=job.frames.spacing_mm if known else None,
        outputs=outputs,
        seconds=round(job.seconds + time.perf_counter() - began, 4),
    )


def frame_record(result: CaseResult) -> FrameRecord:
    """The figures of a frame."""
    return FrameRecord(
        trust=result.trust,
        violated=tuple(violation(item) for item in result.violated),
        flagged=result.flagged,
        areas=result.areas,
        rounds=result.rounds,
    )


def violation(measured: Measurement) -> str:
    """``area(lv)=0.42 (0.01..0.3)``; a bound that there is not is left out."""
    low, high = ("" if limit is None else f"{limit:.4g}" for limit in (measured.low, measured.high))
    return f"{measured.rule}={measured.value:.4g} ({low}..{high})"


def _pictures(job: Job, results: Sequence[CaseResult], folder: Path, names: Sequence[str]) -> dict[str, str]:
    """The overlay of the frame trusted least, its thumbnail, and of a sequence all frames as GIF."""
    least = min(range(len(results)), key=lambda index: results[index].trust)
    look = _look(job, least, results[least])
    outputs = {"overlays": f"overlays/{job.file.id}.png", "thumbnails": f"thumbnails/{job.file.id}.jpg"}
    save_overlay(folder / outputs["overlays"], folder / outputs["thumbnails"], look, names)
    if len(results) > 1:
        outputs["moving"] = f"overlays/{job.file.id}.gif"
        looks = [_look(job, index, result) for index, result in enumerate(results)]
        save_moving(folder / outputs["moving"], looks, names, job.frames.frame_ms)
    return outputs


def _look(job: Job, index: int, result: CaseResult) -> Look:
    image, mask, error = plane_of(job.frames.values[index], result.mask, result.error)
    several = f"  frame {index + 1} of {len(job.frames)}" if len(job.frames) > 1 else ""
    words = [f"trust {result.trust:.2f}", *(["flagged"] if result.flagged else [])]
    if result.violated:
        rules = ", ".join(item.rule.replace("_", " ").replace("(", " (") for item in result.violated)
        words.append(
            f"breaks {len(result.violated)} rules: {rules}" if len(result.violated) > 1 else f"breaks {rules}"
        )
    return Look(
        image,
        mask,
        error,
        job.frames.spacing_mm[0] / job.frames.spacing_mm[1],
        (f"{job.file.id}{several}", "  ·  ".join(words)),
        bool(result.flagged),
    )
