"""``cases.csv``, a row per image file, and ``frames.csv``, a row per frame of sequences."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from flows.predict.records import FrameRecord, Record
from rl4seg.package import PackageSpec


def cases_csv(records: Iterable[Record], spec: PackageSpec) -> str:
    """One row per file, by id. Areas and trust_mean are means over frames, trust is of the frame trusted least."""
    return _csv([_case_row(record, spec) for record in records])


def frames_csv(records: Iterable[Record], spec: PackageSpec) -> str:
    """One row per frame of every file that has more than one; frames count from 1."""
    rows = [
        _frame_row(record, number, frame, spec)
        for record in records
        if len(record.frames) > 1
        for number, frame in enumerate(record.frames, start=1)
    ]
    return _csv(rows) if rows else ""


def area_unit(spec: PackageSpec) -> str:
    """mm2, of volumes mm3."""
    return f"mm{len(spec.preprocess.shape)}"


def _case_row(record: Record, spec: PackageSpec) -> dict[str, object]:
    found = bool(record.frames)
    row: dict[str, object] = {
        "case": record.id,
        "file": record.file,
        "status": "error" if record.error is not None else "ok",
        "error": record.error or "",
        "trust": _number(record.trust) if found else "",
        "trust_mean": _number(record.trust_mean) if found else "",
        "valid": int(record.valid) if found else "",
        "flagged": _yes(record.flagged) if found else "",
        "violated": "; ".join(record.violated),
    }
    row |= {
        f"area_{name}_{area_unit(spec)}": _number(record.area(name)) if found else ""
        for name in spec.labels.names[1:]
    }
    spacing = "" if record.spacing_mm is None else " x ".join(f"{size:.6g}" for size in record.spacing_mm)
    return row | {
        "frames": len(record.frames) or "",
        "spacing_mm": spacing,
        "model_iteration": spec.iteration,
        "optimised_rounds": sum(frame.rounds for frame in record.frames) if found else "",
        "seconds": f"{record.seconds:.3f}" if found else "",
    }


def _frame_row(record: Record, number: int, frame: FrameRecord, spec: PackageSpec) -> dict[str, object]:
    row: dict[str, object] = {
        "case": record.id,
        "frame": number,
        "trust": _number(frame.trust),
        "valid": int(not frame.violated),
        "flagged": _yes(frame.flagged),
        "violated": "; ".join(frame.violated),
    }
    return row | {
        f"area_{name}_{area_unit(spec)}": _number(frame.areas.get(name)) for name in spec.labels.names[1:]
    }


def _csv(rows: Sequence[dict[str, object]]) -> str:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _yes(flag: bool | None) -> object:
    return "" if flag is None else int(flag)
