"""Which image files are to be predicted: one file, a folder with folders in it, or a CSV table."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from reward_data.errors import DataError
from reward_data.formats import format_of
from reward_data.native import ENDINGS, ending

_MOST_SHOWN = 5


@dataclass(frozen=True)
class InputFile:
    """An image file. ``id`` names it in tables, and is the relative path of what is made of it, without an ending."""

    id: str
    path: Path


def list_inputs(source: Path, without: Path | None = None) -> list[InputFile]:
    """The images of a file, a folder (by path, hidden names and DICOMDIR passed over) or a CSV (by row).

    A CSV has the column ``image``, relative to the CSV, and may have ``id``; other columns do not matter. Ids are paths
    below the folder without the ending. ``without``: a folder to pass over, such as one for the results.

    Raises:
        DataError: nothing there, no images, a row without a file, or two images of one id.
    """
    if source.suffix.lower() == ".csv" and source.is_file():
        listed = _of_table(source)
    elif source.is_dir():
        listed = [InputFile(_id(path.relative_to(source)), path) for path in _below(source, without)]
    elif source.is_file() and format_of(source) is not None:
        listed = [InputFile(_id(Path(source.name)), source)]
    elif source.exists():
        raise DataError(
            f"{source}: no image format that is known; wanted {_wanted()}, a folder or a CSV table"
        )
    else:
        raise DataError(f"{source}: no such file or folder; give an image, a folder of images or a CSV table")
    if not listed:
        raise DataError(f"{source}: no images found; wanted files {_wanted()}")
    _check_unique(listed, source)
    return listed


def _wanted() -> str:
    return f"ending in {', '.join(ENDINGS)}, or DICOM of any name"


def _id(relative: Path) -> str:
    """Relative path with forward slashes, without the ending."""
    name = relative.as_posix()
    return name[: -len(ending(relative) or "")] if ending(relative) else name


def _below(folder: Path, without: Path | None) -> Iterator[Path]:
    """Image files of a folder and of those in it, by path."""
    excluded = without.resolve() if without is not None else None
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and Path(place, name).resolve() != excluded
        )
        for name in sorted(names):
            path = Path(place, name)
            if not name.startswith(".") and name.upper() != "DICOMDIR" and format_of(path) is not None:
                yield path


def _of_table(table: Path) -> list[InputFile]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            columns = tuple(rows.fieldnames or ())
            lines = [(rows.line_num, row.get("image") or "", row.get("id") or "") for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: cannot be read as a CSV file ({error}); save it as UTF-8 text") from error
    if "image" not in columns:
        raise DataError(f"{table}: columns {list(columns)}, wanted one named image; mend the first line")
    missing = [
        f"line {number}: {image.strip() or 'no image named'}"
        for number, image, _ in lines
        if not image.strip() or not (table.parent / image.strip()).is_file()
    ]
    if missing:
        shown = "; ".join(missing[:_MOST_SHOWN]) + ("; ..." if len(missing) > _MOST_SHOWN else "")
        raise DataError(
            f"{table}: {len(missing)} of {len(lines)} rows name no file that is there ({shown}); paths are relative to "
            "the CSV file: correct them"
        )
    return [_of_row(table, number, image.strip(), given.strip()) for number, image, given in lines]


def _of_row(table: Path, number: int, image: str, given: str) -> InputFile:
    """One row; an image outside of the CSV's folder is known by its name alone."""
    relative = PurePosixPath(Path(image).as_posix())
    outside = relative.is_absolute() or ".." in relative.parts
    name = given or _id(Path(relative.name if outside else image))
    wanted = PurePosixPath(name)
    if wanted.is_absolute() or ".." in wanted.parts or not wanted.parts:
        raise DataError(
            f"{table} line {number}: id {name!r}, wanted a name or a relative path: results are written under it"
        )
    return InputFile(wanted.as_posix(), table.parent / image)


def _check_unique(listed: list[InputFile], source: Path) -> None:
    known: dict[str, Path] = {}
    for file in listed:
        other = known.setdefault(file.id, file.path)
        if other is not file.path:
            raise DataError(
                f"{source}: {other} and {file.path} would both be named {file.id!r}; rename one, or give ids in a CSV"
            )
