"""Between the threads that read and the network: batches come out, and memory stays within a limit."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class Intake(Generic[T]):
    """Items that wait for the network.

    Readers ask for room by `admit` before they put the items of a file in; `release` gives it back when the file is
    done with. `batch` waits for a full batch, but takes what there is when no reader can go on.

    Args:
        limit: bytes of all files under way together; a larger file is admitted alone.
        batch_size: items that `batch` gives at most.
        readers: number of threads that put items in; each ends with `reader_ends`.
    """

    def __init__(self, limit: int, batch_size: int, readers: int) -> None:
        self._limit, self._batch_size = limit, batch_size
        self._ready: list[T] = []
        self._used = self._waiting = 0
        self._readers = readers
        self._closed = False
        self._changed = threading.Condition()

    def admit(self, size: int) -> bool:
        """Wait for room for ``size`` bytes; False where all is to end."""
        with self._changed:
            self._waiting += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._closed or not self._used or self._used + size <= self._limit)
            self._waiting -= 1
            self._used += size
            return not self._closed

    def release(self, size: int) -> None:
        """Give room back."""
        with self._changed:
            self._used -= size
            self._changed.notify_all()

    def put(self, item: T) -> None:
        """Add an item."""
        with self._changed:
            self._ready.append(item)
            if len(self._ready) >= self._batch_size:
                self._changed.notify_all()

    def reader_ends(self) -> None:
        """One of the readers has no more files."""
        with self._changed:
            self._readers -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """Let every thread come to its end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def batch(self) -> list[T]:
        """The next items in the order in which they came; empty when there will be no more."""
        with self._changed:
            self._changed.wait_for(self._has_batch)
            chosen = self._ready[: self._batch_size]
            del self._ready[: self._batch_size]
            return [] if self._closed else chosen

    def _has_batch(self) -> bool:
        if self._closed or len(self._ready) >= self._batch_size:
            return True
        return self._readers == 0 or (bool(self._ready) and self._waiting >= self._readers)
