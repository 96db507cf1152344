"""The folder of the results: one model, one set of options, one process at a time.

masks/      one file per image, native grid           cases.csv    one row per image
errors/     probability that the mask is wrong        frames.csv   one row per frame, where there are sequences
overlays/   pictures to look at                       index.html   contact sheet, lowest trust first
thumbnails/ small ones of the sheet                   run.json     model, options, versions
                                                      records.jsonl   what a stopped run goes on from
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.predict.records import RECORDS
from reward_data.atomic import atomic_file
from reward_data.errors import ConfigError, DataError

RUN, CASES, FRAMES, PAGE, LOCK = "run.json", "cases.csv", "frames.csv", "index.html", ".lock"
FOLDERS = ("masks", "errors", "overlays", "thumbnails")
FILES = (RUN, CASES, FRAMES, PAGE, RECORDS)


def check_output(folder: Path) -> None:
    """Make the folder, or find out that it cannot be used, before anything else is done.

    Raises:
        DataError: it cannot be written.
        ConfigError: it is a file, or holds what this command has not made.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: is a file, wanted a folder for the results; give another name")
    if folder.is_dir():
        strange = sorted(path.name for path in folder.iterdir() if not _is_ours(path))
        if strange:
            raise ConfigError(
                f"{folder}: holds {strange[0]!r}, which rl4seg predict has not made; give a new or empty folder"
            )
    probe = folder / ".probe"
    with atomic_file(probe, durable=False) as temporary:
        temporary.write_text("")
    probe.unlink()


def _is_ours(path: Path) -> bool:
    return path.name in (*FOLDERS, *FILES, LOCK) or path.name.startswith(".")


@contextmanager
def opened(
    folder: Path, identity: Mapping[str, Any], about: Mapping[str, Any], overwrite: bool
) -> Iterator[None]:
    """The folder for this process alone, with ``run.json`` in it and no leftovers of a killed run.

    Args:
        identity: model and options; a folder holds the results of one such pair.
        about: what else ``run.json`` tells.
        overwrite: remove the results of another pair.

    Raises:
        ConfigError: it holds those of another pair, or another process writes into it.
    """
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"{folder}: another rl4seg predict writes here; wait for it, or give another folder"
            ) from error
        _claim(folder, identity, overwrite)
        write_text(folder / RUN, json.dumps({**identity, **about}, indent=1) + "\n")
        _remove_half_files(folder)
        yield


def _claim(folder: Path, identity: Mapping[str, Any], overwrite: bool) -> None:
    earlier = _identity(folder)
    if earlier is None or all(earlier.get(key) == value for key, value in identity.items()):
        return
    if not overwrite:
        raise ConfigError(
            f"{folder}: holds results of {_difference(earlier, identity)}; give another folder, or --overwrite to "
            "remove them"
        )
    for name in FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in FILES:
        (folder / name).unlink(missing_ok=True)


def _identity(folder: Path) -> dict[str, Any] | None:
    """What ``run.json`` says; None where there is none."""
    path = folder / RUN
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); give another folder, or remove this one"
        ) from error
    return found if isinstance(found, dict) else {}


def _difference(earlier: Mapping[str, Any], identity: Mapping[str, Any]) -> str:
    """What is different, in words."""
    was, now = earlier.get("model", {}), identity["model"]
    if was != now:
        return f"another model ({was.get('name')}, iteration {was.get('iteration')})"
    before, after = earlier.get("options", {}), identity["options"]
    names = [name for name in after if before.get(name) != after[name]]
    return "other options (" + "; ".join(f"{n}: {before.get(n)}, now {after[n]}" for n in names) + ")"


def _remove_half_files(folder: Path) -> None:
    for place, _, names in os.walk(folder):
        for name in names:
            if name.startswith(".") and ".tmp." in name:
                Path(place, name).unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not at all."""
    with atomic_file(path, durable=False) as temporary:
        temporary.write_text(text, encoding="utf-8")
