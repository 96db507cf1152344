"""The folder of an export: whole under its name, or not there at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reward_data.errors import REFUSALS, ArtifactError, ConfigError

MARK = "export.json"  # every export holds this file; only a folder with it is ever replaced


@contextmanager
def export_folder(out: Path, force: bool = False) -> Iterator[Path]:
    """An empty folder beside ``out`` that takes its place when the block ends well, and vanishes when it does not.

    Raises:
        ConfigError: ``out`` is a file, or a folder that holds something: an earlier export without ``force``, or what
            is no export at all.
        ArtifactError: the system refuses to write there; found out before the block starts.
    """
    _check(out, force)
    out = out.absolute()
    building, old = (out.with_name(f".{os.getpid()}.{word}.{out.name}") for word in ("new", "old"))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        building.mkdir()
    except OSError as error:
        raise ArtifactError(
            f"{out}: cannot be written ({error.strerror}); mend the permissions or choose another folder"
        ) from error
    try:
        yield building
        _replace(out, building, old)
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        raise ArtifactError(
            f"{out}: could not be written ({error.strerror}); free some space, or choose another folder"
        ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _replace(out: Path, building: Path, old: Path) -> None:
    """Put the new folder in the place of the old one, which comes back where that fails."""
    if not out.exists():
        building.rename(out)
        return
    out.rename(old)
    try:
        building.rename(out)
    except OSError:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _check(out: Path, force: bool) -> None:
    if out.is_dir():
        if not any(out.iterdir()):
            return
        if not (out / MARK).is_file():
            raise ConfigError(f"{out}: holds files that are no export; give a folder that is new or empty")
        if not force:
            raise ConfigError(f"{out}: holds an export; give another folder, or --force to replace it")
    elif out.exists():
        raise ConfigError(f"{out}: is a file, wanted a folder; give the name of a new one")
