"""What is remembered of every file, one line of JSON each: what a run that was stopped goes on from."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import TracebackType

from pydantic import Field, ValidationError

from reward_data.inputs import InputFile
from reward_data.types import Config

RECORDS = "records.jsonl"


class FrameRecord(Config):
    """One input of the network. ``violated`` e.g. "area(lv)=0.42 (0.01..0.3)"; ``areas`` in mm2 (mm3), or None."""

    trust: float
    violated: tuple[str, ...]
    flagged: bool | None
    areas: dict[str, float | None]
    rounds: int = 0


class Record(Config):
    """One file: when it was read, what was found, and the files made of it, relative to the folder."""

    id: str
    file: str
    size: int = -1
    changed_ns: int = -1
    error: str | None = None
    frames: tuple[FrameRecord, ...] = ()
    spacing_mm: tuple[float, ...] | None = Field(default=None, description="None: the file has none.")
    outputs: dict[str, str] = Field(default_factory=dict, description="masks, errors, overlays, ... -> file.")
    seconds: float = 0.0

    @property
    def trust(self) -> float:
        """Of the frame trusted least."""
        return min(frame.trust for frame in self.frames)

    @property
    def trust_mean(self) -> float:
        """Over the frames."""
        return sum(frame.trust for frame in self.frames) / len(self.frames)

    @property
    def valid(self) -> bool:
        """Whether every frame obeys every rule."""
        return not any(frame.violated for frame in self.frames)

    @property
    def flagged(self) -> bool | None:
        """Whether any frame is; None where the model has no flag."""
        flags = [frame.flagged for frame in self.frames]
        return None if None in flags else any(flags)

    @property
    def violated(self) -> tuple[str, ...]:
        """All violations, in a sequence with the number of the frame, from 1."""
        several = len(self.frames) > 1
        return tuple(
            f"frame {number}: {text}" if several else text
            for number, frame in enumerate(self.frames, start=1)
            for text in frame.violated
        )

    def area(self, name: str) -> float | None:
        """Of a structure, mean over the frames; None where the pixel size is unknown."""
        areas = [frame.areas.get(name) for frame in self.frames]
        known = [area for area in areas if area is not None]
        return sum(known) / len(known) if known else None


def signature(path: Path) -> tuple[int, int]:
    """Size and time of the last change; what tells that a file is another one now."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def is_done(record: Record | None, file: InputFile, wanted: tuple[str, ...], folder: Path) -> bool:
    """Whether a file has been predicted as it is now, and all that is wanted is there.

    A file that could not be used is tried again: what was missing may have been installed.
    """
    if record is None or record.error is not None or record.file != str(file.path):
        return False
    try:
        unchanged = signature(file.path) == (record.size, record.changed_ns)
        whole = all((folder / name).stat().st_size > 0 for name in record.outputs.values())
    except OSError:
        return False
    return unchanged and whole and all(kind in record.outputs for kind in wanted)


class Journal:
    """The records of a folder: those that are there, and a file that new ones are added to at once.

    A line that a kill has cut short is passed over. Of two records of one id the later one counts.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / RECORDS
        self._lock = threading.Lock()
        self.records = _read(self._path)
        self._file: int | None = None

    def __enter__(self) -> Journal:
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        size = self._path.stat().st_size
        if size and self._path.read_bytes()[-1:] != b"\n":
            os.write(self._file, b"\n")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        os.close(self._file)

    def add(self, record: Record) -> None:
        """Keep a record; any thread may."""
        line = record.model_dump_json().encode() + b"\n"
        with self._lock:
            assert self._file is not None
            os.write(self._file, line)
            self.records[record.id] = record


def _read(path: Path) -> dict[str, Record]:
    found: dict[str, Record] = {}
    if not path.is_file():
        return found
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = Record.model_validate_json(line)
        except ValidationError:
            continue
        found[record.id] = record
    return found
