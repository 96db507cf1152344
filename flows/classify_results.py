"""The folder of `rl4seg classify`: ``classes.csv``, a row per image; ``summary.json``; ``examples.png`` to look at."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reward_data.atomic import atomic_file
from reward_data.errors import ConfigError, DataError
from reward_data.image_rows import ImageRow

if TYPE_CHECKING:
    from rl4seg.patchdrop.inference import Answer, DropPredictor
    from rl4seg.patchdrop.models import DropSpec

TABLE, SUMMARY, EXAMPLES = "classes.csv", "summary.json", "examples.png"
COLUMNS = ("id", "path", "predicted", "probability", "patches", "keep", "label", "right", "error")
MOST, PER_ROW = 12, 4  # examples


@dataclass(frozen=True)
class Record:
    """One image: its label where it is known, and the answer, or why there is none."""

    row: ImageRow
    label: str
    answer: Answer | None
    resized: bool = False
    error: str = ""


@dataclass(frozen=True)
class Results:
    """All that was answered, and with what. ``learned_from``: the model has learned from some of the images."""

    model: Path
    digest: str
    source: Path
    spec: DropSpec
    records: Sequence[Record]
    seconds: float
    learned_from: bool
    runtime: Mapping[str, Any]
    versions: Mapping[str, str | None]

    @property
    def failures(self) -> int:
        """Images without an answer."""
        return sum(record.answer is None for record in self.records)

    def is_right(self, record: Record) -> bool | None:
        """Whether an answer is right; None where that is not known."""
        if record.answer is None or not record.label:
            return None
        return self.spec.class_names[record.answer.predicted] == record.label

    def figures(self) -> dict[str, Any]:
        """Numbers of the summary; accuracy is null without labels, patches are null without answers."""
        answers = [record.answer for record in self.records if record.answer is not None]
        rights = [right for right in map(self.is_right, self.records) if right is not None]
        return {
            "images": len(self.records),
            "failures": self.failures,
            "resized": sum(record.resized for record in self.records),
            "patches": self.spec.patches,
            "mean_patches": float(np.mean([answer.keep.sum() for answer in answers])) if answers else None,
            "keep_maps": len({answer.keep.tobytes() for answer in answers}),
            "labelled": len(rights),
            "accuracy": float(np.mean(rights)) if rights else None,
            "images_per_second": round(len(self.records) / max(self.seconds, 1e-6), 3),
        }


def check_output(folder: Path, source: Path, digest: str) -> None:
    """Make the folder, or find out that it cannot be used, before anything else is done.

    Args:
        source: the images; results of others are not written over.
        digest: of the model; just so.

    Raises:
        ConfigError: it is a file, holds the images or what this command has not made, or results of other images or of
            another model.
        DataError: it cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: is a file, wanted a folder for the results; give another name")
    output = folder.resolve()
    if output == source.resolve() or output in source.resolve().parents:
        raise ConfigError(f"{folder}: holds the images, too; give a folder of its own for the results")
    if folder.is_dir():
        _check_earlier(folder, source, digest)
    probe = folder / ".probe"
    with atomic_file(probe, durable=False) as temporary:
        temporary.write_text("")
    probe.unlink()


def _check_earlier(folder: Path, source: Path, digest: str) -> None:
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    strange = next((name for name in names if name not in (TABLE, SUMMARY, EXAMPLES)), None)
    if names and strange is None:
        try:
            summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
            earlier = (summary["model"]["digest"], summary["source"])
        except (OSError, ValueError, KeyError, TypeError):
            strange = names[0]
    if strange is not None:
        raise ConfigError(
            f"{folder}: holds {strange!r}, which rl4seg classify has not made; give a new or empty folder"
        )
    if names and earlier != (digest, str(source.absolute())):
        what = "another model" if earlier[0] != digest else f"other images ({earlier[1]})"
        raise ConfigError(f"{folder}: holds the answers to {what}; give another folder, or remove this one")


def write_results(results: Results, predictor: DropPredictor, folder: Path) -> None:
    """Write table, summary and examples; all are complete before the first has its final name.

    Raises:
        DataError: a file cannot be written.
    """
    picture = examples(results, predictor)
    with ExitStack() as files:  # the last one gets its name first: a folder with a table has a summary, too
        table = files.enter_context(atomic_file(folder / TABLE))
        if picture is not None:
            files.enter_context(atomic_file(folder / EXAMPLES)).write_bytes(picture)
        summary = files.enter_context(atomic_file(folder / SUMMARY))
        _write_table(results, table)
        summary.write_text(json.dumps(summarised(results), indent=1) + "\n", encoding="utf-8")
    if picture is None:
        (folder / EXAMPLES).unlink(missing_ok=True)


def summarised(results: Results) -> dict[str, Any]:
    """What ``summary.json`` holds."""
    return {
        "format": 1,
        "model": {
            "path": str(results.model),
            "digest": results.digest,
            "classes": list(results.spec.class_names),
            "shape": list(results.spec.shape),
            "grid": list(results.spec.grid),
        },
        "source": str(results.source),
        "learned_from": results.learned_from,
        **results.figures(),
        "runtime": dict(results.runtime),
        "versions": dict(results.versions),
    }


def _write_table(results: Results, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(_table_row(results, record) for record in results.records)


def _table_row(results: Results, record: Record) -> dict[str, str]:
    from rl4seg.patchdrop.inference import keep_bits

    row = {
        "id": record.row.name or record.row.where,
        "path": str(record.row.file or results.source),
        "label": record.label,
        "error": record.error,
    }
    if record.answer is None:
        return row
    right = results.is_right(record)
    return row | {
        "predicted": results.spec.class_names[record.answer.predicted],
        "probability": f"{record.answer.probability:.6f}",
        "patches": str(int(record.answer.keep.sum())),
        "keep": keep_bits(record.answer.keep),
        "right": "" if right is None else str(right).lower(),
    }


# --- examples --------------------------------------------------------------------------------------------------------


def examples(results: Results, predictor: DropPredictor) -> bytes | None:
    """Images spread over all that were answered, dropped patches dark; None where there is nothing to be shown."""
    from flows.reporting.picture_sheet import Frame, Sheet

    good = [record for record in results.records if record.answer is not None]
    if not good or len(results.spec.grid) != 2:
        return None
    places = np.unique(np.linspace(0, len(good) - 1, min(MOST, len(good))).round().astype(int))
    frames = []
    for record in (good[place] for place in places):
        with suppress(DataError):  # a file that has gone meanwhile
            frames.append(Frame(_seen(record, predictor), _words(results, record)))
    rows = [frames[start : start + PER_ROW] for start in range(0, len(frames), PER_ROW)]
    return Sheet(rows, ()).png() if rows else None


def _seen(record: Record, predictor: DropPredictor) -> Any:
    """What the high-resolution classifier saw, in [0, 1]. Shape: (H, W) or (H, W, 3)."""
    from flows.reporting.patchdrop_pictures import dimmed

    assert record.answer is not None
    pixels = np.moveaxis(predictor.fitted(record.row.decode(), record.row.where), 0, -1)
    shown = dimmed(pixels, record.answer.keep, predictor.model.spec.grid).astype(np.float32) / 255
    return shown[..., 0] if shown.shape[-1] == 1 else shown


def _words(results: Results, record: Record) -> str:
    """Name, answer, and whether it is right."""
    answer, right = record.answer, results.is_right(record)
    assert answer is not None
    name, patches = results.spec.class_names[answer.predicted], results.spec.patches
    lines = [
        record.row.name,
        f"{name} {answer.probability:.2f}, {int(answer.keep.sum())} of {patches} kept",
    ]
    if right is not None:
        lines.append("right" if right else f"wrong: {record.label}")
    return "\n".join(lines)
