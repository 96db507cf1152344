"""Content-addressed artifacts: typed references, commit in one rename, verified hits, one build at a time.

Layout of a store: ``<key>/`` holds the files of one artifact and its manifest.json; ``_building`` the artifacts being
written, ``_checkpoints`` what unfinished stages keep between tries, ``_locks`` one lock file per key, ``_memo.sqlite``
the sha256 of files already read. An artifact's digest covers the names and contents of its files and nothing else.

A store may lie on a network folder that several machines mount: a run that is killed on one goes on on another, from
its last checkpoint. This asks for two things of the folder. Its flock has to hold between machines, as on NFS version 4
and on Lustre mounted with ``flock``; with ``nolock``, ``localflock``, or a driver that locks nothing, two machines may
build the same artifact at once, and one that starts may sweep away what another one is writing (no wrong artifact
comes of it: digests are checked; the work is lost and the stage fails). And a rename has to be seen whole, which all
of them give. The lock of a machine that has died is given back when the server notices (NFS: its lease, about 90 s).
Where this cannot be had, or machines share no folder, use a URL: see `flows.remote_store`.
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
from typing import IO, Any

from flows.artifacts import (
    MANIFEST,
    ArtifactRef,
    CaseSet,
    Comparison,
    Evaluation,
    FileRecord,
    JudgementRef,
    Manifest,
    PackageRef,
    Policy,
    Predictions,
    RefT,
    Report,
    RewardNet,
    RewardSet,
    ShapePriorRef,
)
from flows.file_digests import FileDigests, digest_path, readable, tree_digest
from reward_data.errors import ArtifactError

__all__ = [
    "ArtifactRef", "ArtifactStore", "CaseSet", "Comparison", "Evaluation", "JudgementRef", "PackageRef", "Policy",
    "Predictions", "RefT", "Report", "RewardNet", "RewardSet", "ShapePriorRef", "digest_path",
]  # fmt: skip
log = logging.getLogger(__name__)
Builder = Callable[[Path, Path], None]


class ArtifactStore:
    """A folder of artifacts, safe to share by several processes of one machine.

    Also by several machines, where the folder's file system passes locks on between them (NFSv4, Lustre and GPFS with
    flock do). Where it does not, two machines may build the same artifact at once; each commits it whole, by rename.

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
                f"{root}: no artifact store can be made here ({error.strerror}); choose a writable folder by "
                "store=PATH or output=PATH"
            ) from error
        self._digests = FileDigests(self.root / "_memo.sqlite")
        self._clean()

    def lookup(self, key: str, type_: type[RefT], since: float | None = None) -> RefT | None:
        """The artifact of ``key``, every byte verified; None where it is missing or broken, or older than ``since``.

        A broken one stays where it is until the next `build` of that key replaces it under its lock.

        Raises:
            ArtifactError: the artifact is of another kind than ``type_``.
        """
        return self._standing(key, type_, since)[0]

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
            ref, problem = self._standing(key, type_, since)
            if ref is None:
                if problem:
                    log.warning(
                        "%s: the stored artifact %s (%s): building it again", label, problem, key[:12]
                    )
                ref = self._settled(self._build(key, type_, made_from, builder, label), since)
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

    def _standing(self, key: str, type_: type[RefT], since: float | None) -> tuple[RefT | None, str]:
        """What answers for ``key``: as `_verified`, but nothing that is older than ``since``."""
        return (None, "") if self._older(key, since) else self._verified(key, type_)

    def _settled(self, ref: RefT, since: float | None) -> RefT:
        """The artifact that all go by, now that this process has built ``ref``; called under the key's lock."""
        return ref

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
            manifest = Manifest.parse((folder / MANIFEST).read_bytes(), key)
            ref = manifest.ref(type_, str(self.root))
            files = self._digests.of_tree(folder)
        except FileNotFoundError:
            return None, "has no manifest" if folder.exists() else ""
        except (OSError, ValueError) as error:
            return None, f"cannot be read ({error})"
        files.pop(MANIFEST)
        if tree_digest(files) != ref.digest:
            return None, "does not have the contents that were committed"
        return ref, ""

    def _build(
        self, key: str, type_: type[RefT], made_from: tuple[str, ...], builder: Builder, label: str
    ) -> RefT:
        checkpoint = self._checkpoints / key
        started = time.monotonic()
        with self._scratch(key, label) as out:
            checkpoint.mkdir(exist_ok=True)
            builder(out, checkpoint)
            files = self._digests.of_tree(out)
            if not files:
                raise ArtifactError(f"{label}: the stage wrote nothing into its output folder")
            size = sum(n for _, n in files.values())
            ref = type_(key=key, digest=tree_digest(files), size=size, made_from=made_from)
            names = {name: FileRecord(sha256=sha256, size=n) for name, (sha256, n) in sorted(files.items())}
            manifest = Manifest(
                **ref.model_dump(),
                files=names,
                seconds=round(time.monotonic() - started, 3),
                committed=time.time(),
            )
            self._commit(out, manifest, (manifest.model_dump_json(indent=1) + "\n").encode())
        return ref

    @contextmanager
    def _scratch(self, key: str, label: str) -> Iterator[Path]:
        """An empty folder that is gone at the end unless it is committed; a full disk becomes one clear error."""
        self._remove_leftovers(key)
        out = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=self._building))
        try:
            yield out
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

    def _commit(self, out: Path, manifest: Manifest, content: bytes) -> None:
        """Make ``out`` durable, manifest last, and let it appear under its key in one rename."""
        for name in manifest.files:
            _fsync(out / name)
        (out / MANIFEST).write_bytes(content)
        if manifest.committed is not None:
            os.utime(out / MANIFEST, (manifest.committed, manifest.committed))
        _fsync(out / MANIFEST)
        for folder, _, _ in os.walk(out):
            _fsync(Path(folder))
        out.chmod(0o755)
        final = self.root / manifest.key
        if final.exists():
            broken = Path(tempfile.mkdtemp(prefix=f"{manifest.key}.broken.", dir=self._building))
            final.rename(broken / "old")
            shutil.rmtree(broken, ignore_errors=True)
        out.rename(final)
        _fsync(self.root)

    @contextmanager
    def _lock(self, key: str, label: str) -> Iterator[None]:
        """Hold the key's lock; the kernel gives it back when the holder dies, however it dies."""
        with (self._locks / f"{key}.lock").open("w") as stream:
            if not _locked(stream):
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
                if not _locked(stream):
                    continue
                self._remove_leftovers(key)
                if (self.root / key / MANIFEST).exists():
                    shutil.rmtree(self._checkpoints / key, ignore_errors=True)

    def _remove_leftovers(self, key: str) -> None:
        for left in self._building.glob(f"{key}.*"):
            shutil.rmtree(left, ignore_errors=True)


def _locked(stream: IO[Any]) -> bool:
    """Take a lock if nobody else has it."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise ArtifactError(
            f"{stream.name}: this folder cannot lock files ({error.strerror}); put the store on a local disk by "
            "store=PATH, or give the folder as a URL: store=file:///PATH keeps locks in output"
        ) from error
    return True


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _disk_full(error: Exception) -> bool:
    """Whether the error says so, by number or, as h5py, torch and safetensors do, only by its words."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
