"""The folder of one review in a run folder: the export as the expert works on it, and what was taken in from it.

RUN/review/iteration-1/                     the export; the expert changes masks and cases.csv
RUN/review/iteration-1/.exported.json       sha256 of every exported file: who has changed one keeps his folder
RUN/review/iteration-1/.returned-<sha256>/  what came back, checked and in its plainest form
RUN/review/iteration-1/returned.json        which of these counts
RUN/review/iteration-1/refused.json         how often what came back was refused, and why the last time
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reward_data.atomic import atomic_file
from reward_data.errors import ArtifactError, ConfigError
from reward_data.expert import DECISIONS
from reward_data.review import README, Answers, Export, Returned, read_review, write_review

REVIEW, EXPORTED, RETURNED, REFUSED = "review", ".exported.json", "returned.json", "refused.json"
OURS = ("manifest.json", "figures.json")  # of the artifact, nothing for the expert


@dataclass(frozen=True)
class ReviewFolder:
    """The review of one iteration of a run. ``run``: the run folder."""

    run: Path
    iteration: int

    @property
    def path(self) -> Path:
        """Where the expert works."""
        return self.run / REVIEW / f"iteration-{self.iteration}"

    @property
    def export(self) -> Export:
        """What was exported.

        Raises:
            ArtifactError: nothing was.
        """
        return Export.read(self.path)

    @property
    def returned(self) -> Path | None:
        """The folder of what was taken in; None while the review is open."""
        found = _read(self.path / RETURNED).get("folder")
        return self.path / found if found and (self.path / found).is_dir() else None

    @property
    def refusals(self) -> int:
        """How often an answer in the dashboard was refused."""
        return int(_read(self.path / REFUSED).get("times", 0))

    @property
    def refusal(self) -> str:
        """Why the last answer was refused; empty where none was."""
        return str(_read(self.path / REFUSED).get("message", ""))

    @property
    def pause_key(self) -> str:
        """What the key of a suspended run begins with; `review_of` reads it."""
        return f"{REVIEW}-{self.iteration}"

    @property
    def next_steps(self) -> str:
        """What an open review waits for, where its files are, and which commands go on."""
        refused = f" The last answer was refused: {self.refusal}." if self.refusal else ""
        return (
            f"waiting for review: an expert's answer about the cases in {self.path}.{refused} Correct masks or decide "
            f"in cases.csv ({README} there says how), then: rl4seg review import {self.run}, and: rl4seg resume "
            f"{self.run} (or Resume in the dashboard, with its form)"
        )

    def publish(self, artifact: Path) -> None:
        """Let the files of an export appear, all in one rename; a folder of the same export stays as it is.

        Raises:
            ConfigError: another export is there, and somebody has changed its files.
        """
        if self.path.exists():
            if _same_questions(self.path, artifact):
                return
            touched = self._touched()
            if touched:
                raise ConfigError(
                    f"{self.path}: another export is to be written here, but {touched} was changed, wanted an "
                    "untouched folder, as an expert's work is never overwritten; move the folder away, then run the "
                    "same command again"
                )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{self.path.name}.", dir=self.path.parent))
        try:
            new = scratch / "new"
            shutil.copytree(artifact, new, ignore=shutil.ignore_patterns(*OURS))
            readme = new / README
            readme.write_text(readme.read_text().replace(" RUN ", f" {self.run} "))
            files = {name: _sha256(new / name) for name in _names(new)}
            (new / EXPORTED).write_text(json.dumps(files, indent=1) + "\n")
            if self.path.exists():
                self.path.rename(scratch / "old")
            new.rename(self.path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def take(self, folder: Path, answers: Answers | None = None) -> tuple[Returned, ...]:
        """Check what came back in ``folder`` and make it what counts; everything or, with an error, nothing.

        Raises:
            DataError: a file, case id or decision that cannot be used; see `reward_data.review.read_review`.
        """
        returned = read_review(self.export, folder, answers)
        scratch = Path(tempfile.mkdtemp(prefix=".taking.", dir=self.path))
        try:
            digest = write_review(returned, scratch / "new")
            kept = self.path / f".returned-{digest[:16]}"
            if not kept.exists():
                (scratch / "new").rename(kept)
            _write(self.path / RETURNED, {"folder": kept.name, "sha256": digest, **counts(returned)})
            (self.path / REFUSED).unlink(missing_ok=True)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return returned

    def refuse(self, message: str) -> None:
        """Remember that an answer was refused, and why."""
        _write(self.path / REFUSED, {"times": self.refusals + 1, "message": message})

    def _touched(self) -> str:
        """The name of a file that is not as it was exported, or that came in addition; empty where there is none."""
        exported = _read(self.path / EXPORTED)
        for name in sorted({*_names(self.path), *exported} - {EXPORTED, REFUSED}):
            if not (self.path / name).is_file() or _sha256(self.path / name) != exported.get(name):
                return name
        return ""


def reviews_of(run: Path) -> list[ReviewFolder]:
    """All reviews of a run, the first one first.

    Raises:
        ArtifactError: there is none.
    """
    found = [
        int(path.name.rpartition("-")[2]) for path in (run / REVIEW).glob("iteration-*") if path.is_dir()
    ]
    if not found:
        raise ArtifactError(
            f"{run}: no {REVIEW} here; give the folder of a run with review.enabled=true that has come to its review"
        )
    return [ReviewFolder(run, iteration) for iteration in sorted(found)]


def review_of(run: Path, pause_key: str) -> ReviewFolder | None:
    """The review that a run, suspended under a key, waits for; None where it waits for something else."""
    found = re.match(rf"{REVIEW}-(\d+)-", pause_key)
    return ReviewFolder(run, int(found[1])) if found else None


def counts(returned: tuple[Returned, ...]) -> dict[str, int]:
    """How often each decision was taken."""
    words = [item.decision for item in returned]
    return {word: words.count(word) for word in DECISIONS}


def in_words(returned: tuple[Returned, ...]) -> str:
    """The counts as people read them, e.g. "3 accept, 0 correct, 1 reject, 2 skip"."""
    return ", ".join(f"{number} {word}" for word, number in counts(returned).items())


def _same_questions(folder: Path, artifact: Path) -> bool:
    """Whether two exports ask about the same masks of the same cases, whatever their pictures look like."""
    try:
        return Export.read(folder) == Export.read(artifact)
    except ArtifactError:
        return False


def _names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content


def _write(path: Path, content: dict[str, Any]) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
