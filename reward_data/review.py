"""A review by an expert: which cases to ask about, what was exported, and what came back.

Everything that comes back is checked before any of it is used. What it means: `reward_data.expert`.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from reward_data.errors import ArtifactError, DataError
from reward_data.expert import DECISIONS, Decision
from reward_data.formats import NIFTI_ENDINGS
from reward_data.review_files import Grid, labels_digest, read_returned, write_volume
from reward_data.types import Config, Float64, Int64, UInt8

MASKS, CASES, EXPORT, README, SHEET = "masks", "cases.csv", "export.json", "README.txt", "contact_sheet.png"
COLUMNS = ("case", "file", "trust", "valid", "violated", "decision", "note")


class ReviewConfig(Config):
    """When an expert is asked, and about which target training images."""

    enabled: bool = Field(default=False, description="Wait for an expert; without it nothing waits.")
    cases: int = Field(default=10, ge=1, le=500, description="Images per review.")
    by: Literal["trust", "random"] = Field(
        default="trust",
        description="The images whose masks are trusted least, or any images (the control); one per patient first.",
    )
    after: int = Field(
        default=1, ge=1, description="Iteration after which the first review happens; another has to follow."
    )
    every: int | None = Field(
        default=None,
        ge=1,
        description="Ask again every so many iterations, about other images; null = once.",
    )

    def due(self, iteration: int, iterations: int) -> bool:
        """Whether a review follows on iteration 1, 2, ...; never on the last, after which nobody learns from it."""
        if not self.enabled or not self.after <= iteration < iterations:
            return False
        return iteration == self.after or (
            self.every is not None and (iteration - self.after) % self.every == 0
        )


# --- which cases -----------------------------------------------------------------------------------------------------


def choose_cases(
    trust: Float64, groups: Sequence[str], config: ReviewConfig, rng: np.random.Generator
) -> Int64:
    """Places of the cases to review, the first one first: by trust or at random, every patient's first case first.

    ``trust`` Shape: (n,). Of equal trust the earlier place comes first. Returns all where there are too few.
    """
    order = np.argsort(trust, kind="stable") if config.by == "trust" else rng.permutation(len(trust))
    seen: Counter[str] = Counter()
    turns = []
    for place in order.tolist():
        turns.append(seen[groups[place]])
        seen[groups[place]] += 1
    chosen: Int64 = order[np.argsort(turns, kind="stable")][: config.cases].astype(np.int64)
    return chosen


# --- what was exported -----------------------------------------------------------------------------------------------


class ExportedCase(Config):
    """One case of an export."""

    case: str = Field(description="Case id.")
    file: str = Field(description="Name of its files, without ending.")
    trust: float = Field(
        description="Trust in its mask, in [0, 1]: the Dice that its error map lets expect, see `reward_data.trust`."
    )
    violated: tuple[str, ...] = Field(default=(), description="Rules that its mask breaks.")
    grid: Grid = Field(description="Its native grid.")
    labels: str = Field(description="sha256 of the exported mask's values.")


class Export(Config):
    """What an export holds; ``export.json`` in its folder."""

    iteration: int = Field(ge=1, description="Iteration after which it was made.")
    class_names: tuple[str, ...] = Field(description="Classes in order of their value.")
    cases: tuple[ExportedCase, ...] = Field(min_length=1, description="Least trusted first.")

    @classmethod
    def read(cls, folder: Path) -> Export:
        """The export of a folder.

        Raises:
            ArtifactError: there is none that can be read.
        """
        try:
            return cls.model_validate_json((folder / EXPORT).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"{folder}: no readable {EXPORT} ({error}); give the folder of an export, e.g. "
                "runs/NAME/review/iteration-1, as the run wrote it"
            ) from error

    def write(self, folder: Path) -> None:
        """Write ``export.json`` and the empty ``cases.csv``."""
        (folder / EXPORT).write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
        rows = [
            (c.case, c.file, f"{c.trust:.4f}", int(not c.violated), ";".join(c.violated), "", "")
            for c in self.cases
        ]
        _write_csv(folder / CASES, COLUMNS, rows)


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([columns, *rows])


# --- what came back --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Returned:
    """The expert's word on one case. ``labels`` Shape: native; the corrected mask, None for all other decisions."""

    exported: ExportedCase
    decision: Decision
    note: str = ""
    labels: UInt8 | None = None


@dataclass(frozen=True)
class Answers:
    """Decisions given elsewhere than in cases.csv, e.g. in the dashboard's form; they win over the file's.

    ``accept_all``: accept every case that nobody has decided about and whose mask is as exported.
    """

    decisions: Mapping[str, Decision] = field(default_factory=dict)
    accept_all: bool = False


def read_review(export: Export, folder: Path, answers: Answers | None = None) -> tuple[Returned, ...]:
    """Everything that came back in a folder, checked: cases.csv where there is one, masks by name.

    Masks lie in ``folder/masks`` where there is such a folder, else in ``folder``. A mask whose values have changed
    counts as a correction where no decision is written; an unchanged one without a decision is skipped.

    Raises:
        DataError: a file, a case id or a decision that cannot be used, the first of them named; nothing decided at all.
    """
    answers = answers or Answers()
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give the folder of the corrected masks and cases.csv")
    given = _read_cases(folder / CASES, export) if (folder / CASES).is_file() else {}
    unknown = sorted(set(answers.decisions) - {case.case for case in export.cases})
    if unknown:
        raise DataError(f"case {unknown[0]!r}: it was not exported; wanted one of {_named(export)}")
    files = _mask_files(folder, export)
    returned = []
    for case in export.cases:
        written, note = given.get(case.case, (None, ""))
        decision = answers.decisions.get(case.case, written)
        path = files.get(case.file)
        returned.append(_decided(export, case, decision, note, path, answers.accept_all))
    if not given.keys() | answers.decisions.keys() and all(item.decision == "skip" for item in returned):
        raise DataError(
            f"{folder}: nothing is decided: {CASES} has no decision and no mask differs from the exported one; write "
            "accept, correct, reject or skip into its column `decision`, or correct a mask"
        )
    return tuple(returned)


def _decided(
    export: Export, case: ExportedCase, decision: Decision | None, note: str, path: Path | None, accept: bool
) -> Returned:
    """What a decision and a mask file together mean for a case."""
    labels = None
    if path is not None and decision not in ("reject", "skip"):
        labels = read_returned(path, case.grid, export.class_names)
        labels = None if labels_digest(labels) == case.labels else labels
    if decision is None:
        decision = "correct" if labels is not None else "accept" if accept else "skip"
    if decision == "accept" and labels is not None:
        raise DataError(
            f"{path}: case {case.case!r} is to be accepted as exported, but this mask was changed; write correct as "
            "its decision, or put the exported mask back"
        )
    if decision == "correct" and labels is None:
        got = f"{path} is as exported" if path else "there is no mask of it"
        raise DataError(
            f"case {case.case!r}: its decision is correct, but {got}; correct {case.file}.nii.gz, or write accept"
        )
    return Returned(case, decision, note, labels if decision == "correct" else None)


def _named(export: Export) -> str:
    names = [case.case for case in export.cases]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _mask_files(folder: Path, export: Export) -> dict[str, Path]:
    """Mask files by the name that they were exported under; every NIfTI file has to be one of them."""
    place = folder / MASKS if (folder / MASKS).is_dir() else folder
    known, found = {case.file for case in export.cases}, dict[str, Path]()
    for path in sorted(place.iterdir()):
        suffix = next((end for end in NIFTI_ENDINGS if path.name.lower().endswith(end)), None)
        if suffix is None or path.name.startswith("."):
            continue
        name = path.name[: -len(suffix)]
        if name not in known:
            raise DataError(
                f"{path}: got a mask of {name!r}, which was not exported, wanted the names of {_named(export)}; rename "
                "the file or take it out of the folder"
            )
        if name in found:
            raise DataError(f"{path}: a second mask beside {found[name].name}; remove one of them")
        found[name] = path
    return found


def _read_cases(path: Path, export: Export) -> dict[str, tuple[Decision, str]]:
    """Decisions and notes by case id, as far as they are written."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a CSV file ({error}); save it as UTF-8 text") from error
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)  # what spreadsheets write depends on the country
    rows = csv.DictReader(text.splitlines(), delimiter=delimiter)
    if not {"case", "decision"} <= set(rows.fieldnames or ()):
        raise DataError(
            f"{path}: got the columns {list(rows.fieldnames or ())}, wanted at least case and decision; keep the first "
            "line as it was exported"
        )
    known, given = {case.case for case in export.cases}, dict[str, tuple[Decision, str]]()
    seen: set[str] = set()
    for row in rows:
        where, case_id = f"{path} line {rows.line_num}", (row["case"] or "").strip()
        word = (row["decision"] or "").strip().lower()
        if case_id not in known:
            raise DataError(
                f"{where}: got the case {case_id!r}, which was not exported, wanted one of {_named(export)}; remove "
                "the line or correct the id"
            )
        if case_id in seen:
            raise DataError(
                f"{where}: the case {case_id!r} is named a second time, wanted one line; remove one of them"
            )
        seen.add(case_id)
        decision = next((known_word for known_word in DECISIONS if known_word == word), None)
        if word and decision is None:
            raise DataError(
                f"{where}: got the decision {row['decision']!r} for case {case_id!r}, wanted accept, correct, reject, "
                "skip or nothing; correct the word"
            )
        if decision is not None:
            given[case_id] = (decision, (row.get("note") or "").strip())
    return given


def write_review(returned: Sequence[Returned], folder: Path) -> str:
    """Write what came back in its plainest form, which `read_review` reads again; returns the sha256 of its meaning."""
    (folder / MASKS).mkdir(parents=True)
    digest = hashlib.sha256()
    for item in returned:
        case = item.exported
        digest.update(repr((case.case, item.decision, item.note)).encode())
        if item.labels is not None:
            affine = np.array(case.grid.affine)
            write_volume(folder / MASKS / f"{case.file}.nii.gz", item.labels, case.grid.spacing_mm, affine)
            digest.update(labels_digest(item.labels).encode())
    rows = [(item.exported.case, item.decision, item.note) for item in returned]
    _write_csv(folder / CASES, ("case", "decision", "note"), rows)
    return digest.hexdigest()
