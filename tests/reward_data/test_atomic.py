from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from reward_data import atomic
from reward_data.atomic import atomic_file
from reward_data.errors import DataError


def test_atomic_file_keeps_the_old_file_on_any_failure(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with atomic_file(path) as temporary:
        temporary.write_text("old")

    def fail(error: Exception) -> None:
        with atomic_file(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(DataError, match=r"No space left.*MB are free in"):
        fail(OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(KeyError):
        fail(KeyError("other"))
    assert [(file.name, file.read_text()) for file in path.parent.iterdir()] == [("file", "old")]


def test_no_permission_is_a_data_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(atomic.Path, "mkdir", refuse)
    with pytest.raises(DataError, match="Permission denied"), atomic_file(tmp_path / "a"):
        pass


@pytest.mark.parametrize(("durable", "waits"), [(True, 1), (False, 0)])
def test_durable_files_wait_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool, waits: int
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(os, "fsync", calls.append)
    with atomic_file(tmp_path / "a", durable=durable) as temporary:
        temporary.write_text("new")
    assert (tmp_path / "a").read_text() == "new"
    assert len(calls) == waits
