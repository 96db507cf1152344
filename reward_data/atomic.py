"""Files that are written whole or not at all."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py

from reward_data.errors import DataError


@contextmanager
def atomic_file(path: Path, durable: bool = True) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends well, and vanishes when it does not.

    ``durable``: wait until the disk has the file, so that a power cut cannot leave an empty one. False for the many
    small files that can be made again: a busy disk takes a second for each.

    Raises: DataError when the system refuses to write (disk full, no permission), with the space that is left.
    """
    temporary = path.with_name(f".{os.getpid()}.tmp.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if durable:
            with temporary.open("rb+") as written:
                os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"{path}: could not be written ({error}); {_free_space(path)}") from error
    finally:
        with suppress(NotADirectoryError):  # where a file stands in the place of the folder
            temporary.unlink(missing_ok=True)


class _Sink(io.FileIO):
    """The file under an HDF5 file. It remembers the first write that fails, and takes all others as done.

    HDF5 writes again what it could not write when it closes a file, and crashes the process if that fails too; so it
    must not see the failure.
    """

    failure: OSError | None = None

    def check(self) -> None:
        """Raise the first failure, if there was one."""
        if self.failure is not None:
            raise self.failure

    def write(self, data: Any, /) -> int:
        """Write all of ``data``; a full disk takes it in parts and then refuses."""
        view = memoryview(data).cast("B")
        written = 0
        while self.failure is None and written < len(view):
            try:
                written += super().write(view[written:])
            except OSError as error:
                self.failure = error
        return len(view)

    def truncate(self, size: int | None = None, /) -> int:
        """Set the size of the file."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.failure = self.failure or error
            return size or 0


@contextmanager
def atomic_hdf5(path: Path) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """A new HDF5 file, as ``atomic_file``: whole under ``path`` when the block ends well, else nothing.

    Yields the file and a function that raises if the disk has refused a write so far; the end of the block calls it.
    Raises: DataError when the system refuses to write.
    """
    with atomic_file(path) as temporary, _Sink(temporary, "w+") as sink:
        try:
            with h5py.File(sink, "w") as file:
                yield file, sink.check
        finally:
            sink.check()


def _free_space(path: Path) -> str:
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free / 1e6
    return f"{free:.0f} MB are free in {folder}: free some space there or choose another folder"
