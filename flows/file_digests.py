"""sha256 of files and trees, remembered so that a second look costs a stat per file.

A file counts as unchanged while its device, inode, size, modification and change time are; the change time moves with
every write and cannot be set back by a program, so an edit that keeps the size is seen.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from reward_data.errors import DataError

log = logging.getLogger(__name__)
QUIET_NS = 50_000_000  # file timestamps are coarse: a file changed within this time is not remembered


class FileDigests:
    """sha256 of files, memoised in a SQLite file that may be lost or damaged without harm."""

    def __init__(self, database: Path) -> None:
        self._database = database

    def of_tree(self, root: Path) -> dict[str, tuple[str, int]]:
        """Relative name -> (sha256, bytes) of every file below ``root``, or of the one file ``root``."""
        return self.of_files(_files(root))

    def of_files(self, files: Iterable[tuple[str, Path]]) -> dict[str, tuple[str, int]]:
        """Name -> (sha256, bytes) of each (name, file)."""
        files = sorted(files)
        try:
            with closing(sqlite3.connect(self._database, timeout=5)) as memo:
                memo.execute(
                    "create table if not exists files (id text primary key, stamp text, sha256 text)"
                )
                return self._with_memo(files, memo)
        except sqlite3.Error as error:
            log.info("the digest memo %s is not usable (%s): reading every file", self._database, error)
            return {name: (sha256_file(path), path.stat().st_size) for name, path in files}

    def _with_memo(
        self, files: list[tuple[str, Path]], memo: sqlite3.Connection
    ) -> dict[str, tuple[str, int]]:
        digests, fresh = {}, []
        for name, path in files:
            stat = path.stat()
            identity, stamp = (
                f"{stat.st_dev}:{stat.st_ino}",
                f"{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}",
            )
            row = memo.execute(
                "select sha256 from files where id = ? and stamp = ?", (identity, stamp)
            ).fetchone()
            quiet = time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) > QUIET_NS
            digests[name] = (str(row[0]) if row else sha256_file(path), stat.st_size)
            if row is None and quiet:
                fresh.append((identity, stamp, digests[name][0]))
        if fresh:
            memo.executemany("insert or replace into files values (?, ?, ?)", fresh)
            memo.commit()
        return digests


def tree_digest(files: dict[str, tuple[str, int]]) -> str:
    """One sha256 over the sorted names and sha256 of the files of a tree, as `FileDigests.of_tree` gives them."""
    lines = (f"{name}\0{sha256}\n" for name, (sha256, _) in sorted(files.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def digest_path(path: Path | str) -> str:
    """sha256 of a user's file (its contents alone) or folder (names and contents), wherever it lies.

    Raises:
        DataError: it does not exist or cannot be read.
    """
    with readable(path):
        if not Path(path).is_dir():
            return sha256_file(Path(path))
        return tree_digest({name: (sha256_file(file), 0) for name, file in _files(Path(path))})


@contextmanager
def readable(path: Path | str) -> Iterator[None]:
    """Turn what the operating system says about a user's path into a DataError."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(
            f"{error.filename or path}: no such file or folder; check the path in the configuration"
        ) from error
    except OSError as error:
        raise DataError(
            f"{error.filename or path}: cannot be read ({error.strerror}); check its permissions"
        ) from error


def sha256_file(path: Path) -> str:
    """sha256 of the contents of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    if not root.is_dir():
        yield root.name, root
        return
    for folder, _, names in os.walk(root, followlinks=True):
        for name in names:
            path = Path(folder, name)
            yield path.relative_to(root).as_posix(), path
