"""Content-addressed artifacts: typed references, commit in one rename, verified hits, one build at a time.

Layout of a store: ``<key>/`` holds the files of one artifact and its manifest.json; ``_building`` the artifacts being
written, ``_checkpoints`` what unfinished stages keep between tries, ``_locks`` one lock file per key, ``_memo.sqlite``
the sha256 of files already read. An artifact's digest covers the names and contents of its files and nothing else.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from flows.file_digests import FileDigests, digest_path, readable, tree_digest
from reward_data.errors import ArtifactError

__all__ = [
    "ArtifactRef", "ArtifactStore", "CaseSet", "Evaluation", "Policy", "Predictions", "Report", "RewardNet",
    "RewardSet", "ShapePriorRef", "digest_path",
]  # fmt: skip
log = logging.getLogger(__name__)
MANIFEST = "manifest.json"
Builder = Callable[[Path, Path], None]


# --- references ------------------------------------------------------------------------------------------------------


class ArtifactRef(BaseModel):
    """What stages exchange: which artifact, never its contents.

    ``digest`` is the sha256 of its files' names and contents, ``size`` their bytes, ``made_from`` the digests of the
    artifacts that went in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str = ""
    key: str
    digest: str
    size: int
    made_from: tuple[str, ...] = ()


class CaseSet(ArtifactRef):
    """Preprocessed cases: a case store."""

    kind: Literal["CaseSet"] = "CaseSet"


class ShapePriorRef(ArtifactRef):
    """A shape prior fitted on masks."""

    kind: Literal["ShapePriorRef"] = "ShapePriorRef"


class Policy(ArtifactRef):
    """A segmentation policy: architecture and weights."""

    kind: Literal["Policy"] = "Policy"


class Predictions(ArtifactRef):
    """Masks that a policy predicted for a case set."""

    kind: Literal["Predictions"] = "Predictions"


class RewardSet(ArtifactRef):
    """A reward dataset."""

    kind: Literal["RewardSet"] = "RewardSet"


class RewardNet(ArtifactRef):
    """A calibrated reward net."""

    kind: Literal["RewardNet"] = "RewardNet"


class Evaluation(ArtifactRef):
    """The measured quality of a policy."""

    kind: Literal["Evaluation"] = "Evaluation"


class Report(ArtifactRef):
    """The report of a run."""

    kind: Literal["Report"] = "Report"


RefT = TypeVar("RefT", bound=ArtifactRef)


# --- the store -------------------------------------------------------------------------------------------------------


class ArtifactStore:
    """A folder of artifacts, safe to share by several processes of one machine.

    Args:
        root: the folder; created where absent. What dead processes left half-written in it is removed.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).absolute()
        self._building, self._checkpoints, self._locks = (
            self.root / name for name in ("_building", "_checkpoints", "_locks")
        )
        try:
            for folder in (self._building, self._checkpoints, self._locks):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArtifactError(
                f"{root}: no artifact store can be made here ({error.strerror}); choose a writable folder by store=PATH"
            ) from error
        self._digests = FileDigests(self.root / "_memo.sqlite")
        self._clean()

    def lookup(self, key: str, type_: type[RefT], since: float | None = None) -> RefT | None:
        """The artifact of ``key``, every byte verified; None where it is missing or broken, or older than ``since``.

        A broken one stays where it is until the next `build` of that key replaces it under its lock.

        Raises:
            ArtifactError: the artifact is of another kind than ``type_``.
        """
        return None if self._older(key, since) else self._verified(key, type_)[0]

    def build(
        self,
        key: str,
        type_: type[RefT],
        made_from: tuple[str, ...],
        builder: Builder,
        label: str = "artifact",
        since: float | None = None,
    ) -> RefT:
        """The artifact of ``key``; ``builder(out, checkpoint)`` writes it unless another process has done so meanwhile.

        With ``since`` (seconds since the epoch) an older artifact is built again and replaced when the new one stands.
        ``out`` is empty. ``checkpoint`` keeps its files between tries of the same key until the artifact stands.

        Raises:
            ArtifactError: the disk is full, or the builder wrote nothing. Nothing half-written stays.
        """
        with self._lock(key, label):
            ref, problem = self._verified(key, type_)
            if ref is None or self._older(key, since):
                if problem:
                    log.warning(
                        "%s: the stored artifact %s (%s): building it again", label, problem, key[:12]
                    )
                ref = self._build(key, type_, made_from, builder, label)
            shutil.rmtree(self._checkpoints / key, ignore_errors=True)
            return ref

    def path(self, ref: ArtifactRef) -> Path:
        """The folder of an artifact, every byte verified.

        Raises:
            ArtifactError: it is missing, broken, of another kind, or no longer the one that ``ref`` means.
        """
        found, problem = self._verified(ref.key, type(ref))
        if found is not None and found.digest != ref.digest:
            problem = "has been replaced by another"
        if found is None or problem:
            raise ArtifactError(
                f"{ref.kind} {ref.key[:12]} in {self.root} {problem or 'is missing'}; "
                "run the same command again: what is missing is built again"
            )
        return self.root / ref.key

    def digest_inputs(self, root: Path | str, files: Iterable[Path | str] | None = None) -> str:
        """sha256 over names and contents of what a user's dataset is made of, each file read once in its life.

        Counted: ``files``, with what lies directly in ``root`` (dataset.json, a CSV of splits) or ``root`` itself where
        it is a file; or, without ``files``, all below ``root``. Names are relative to ``root``.

        Raises:
            DataError: a file does not exist or cannot be read.
        """
        root = Path(root)
        with readable(root):
            if files is None and root.is_dir():
                return tree_digest(self._digests.of_tree(root))
            beside = [path for path in root.iterdir() if path.is_file()] if root.is_dir() else [root]
            paths = {os.path.relpath(path, root): Path(path) for path in (*beside, *(files or ()))}
            return tree_digest(self._digests.of_files(paths.items()))

    def seconds(self, key: str) -> float | None:
        """How long the build of an artifact took, in seconds; None where unknown."""
        try:
            return float(json.loads((self.root / key / MANIFEST).read_text())["seconds"])
        except (OSError, ValueError, KeyError):
            return None

    def _older(self, key: str, since: float | None) -> bool:
        """Whether an artifact was committed before ``since``."""
        if since is None:
            return False
        try:
            return (self.root / key / MANIFEST).stat().st_mtime < since
        except OSError:
            return False

    def _verified(self, key: str, type_: type[RefT]) -> tuple[RefT | None, str]:
        """(reference, "") or (None, what is wrong; "" where there is nothing at all)."""
        folder = self.root / key
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            kind, wanted = manifest["kind"], type_.model_fields["kind"].default
            if wanted and kind != wanted:
                raise ArtifactError(f"artifact {key[:12]} in {self.root}: got a {kind}, wanted a {wanted}")
            ref = type_.model_validate({name: manifest[name] for name in type_.model_fields})
            files = self._digests.of_tree(folder)
        except FileNotFoundError:
            return None, "has no manifest" if folder.exists() else ""
        except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
            return None, f"cannot be read ({error})"
        files.pop(MANIFEST)
        if ref.key != key or tree_digest(files) != ref.digest:
            return None, "does not have the contents that were committed"
        return ref, ""

    def _build(
        self, key: str, type_: type[RefT], made_from: tuple[str, ...], builder: Builder, label: str
    ) -> RefT:
        self._remove_leftovers(key)
        out = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=self._building))
        checkpoint = self._checkpoints / key
        started = time.monotonic()
        try:
            checkpoint.mkdir(exist_ok=True)
            builder(out, checkpoint)
            files = self._digests.of_tree(out)
            if not files:
                raise ArtifactError(f"{label}: the stage wrote nothing into its output folder")
            ref = type_(
                key=key,
                digest=tree_digest(files),
                size=sum(n for _, n in files.values()),
                made_from=made_from,
            )
            self._commit(out, ref, files, time.monotonic() - started)
        except Exception as error:
            if _disk_full(error):
                free = shutil.disk_usage(self.root).free / 1e6
                raise ArtifactError(
                    f"{label}: the disk is full ({free:.0f} MB free in {self.root}); free some space or choose another "
                    "folder by store=PATH, then run the same command again: finished stages are kept"
                ) from error
            raise
        finally:
            shutil.rmtree(out, ignore_errors=True)
        return ref

    def _commit(self, out: Path, ref: ArtifactRef, files: dict[str, tuple[str, int]], seconds: float) -> None:
        """Make ``out`` durable, manifest last, and let it appear under its key in one rename."""
        for name in files:
            _fsync(out / name)
        names = {name: {"sha256": sha256, "size": size} for name, (sha256, size) in sorted(files.items())}
        manifest = {"format": 1, **ref.model_dump(mode="json"), "files": names, "seconds": round(seconds, 3)}
        (out / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        _fsync(out / MANIFEST)
        for folder, _, _ in os.walk(out):
            _fsync(Path(folder))
        out.chmod(0o755)
        final = self.root / ref.key
        if final.exists():
            broken = Path(tempfile.mkdtemp(prefix=f"{ref.key}.broken.", dir=self._building))
            final.rename(broken / "old")
            shutil.rmtree(broken, ignore_errors=True)
        out.rename(final)
        _fsync(self.root)

    @contextmanager
    def _lock(self, key: str, label: str) -> Iterator[None]:
        """Hold the key's lock; the kernel gives it back when the holder dies, however it dies."""
        with (self._locks / f"{key}.lock").open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.warning("%s: another process builds it, waiting", label)
                fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def _clean(self) -> None:
        """Remove what dead processes left: a key whose lock is free is nobody's."""
        finished = [
            path for path in self._checkpoints.iterdir() if (self.root / path.name / MANIFEST).exists()
        ]
        for key in {path.name.partition(".")[0] for path in (*self._building.iterdir(), *finished)}:
            with (self._locks / f"{key}.lock").open("w") as stream:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                self._remove_leftovers(key)
                if (self.root / key / MANIFEST).exists():
                    shutil.rmtree(self._checkpoints / key, ignore_errors=True)

    def _remove_leftovers(self, key: str) -> None:
        for left in self._building.glob(f"{key}.*"):
            shutil.rmtree(left, ignore_errors=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _disk_full(error: Exception) -> bool:
    """Whether the error says so, by number or, as h5py, torch and safetensors do, only by its words."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
