"""Rows of images before anything is decoded: of a CSV file, of a folder (per class), of an NPZ.

Every row knows its name, which messages begin with: the line of a CSV file, the file, the place in an NPZ. Images to
learn from have a label each (`read_rows`); those to be answered may have one (`read_new_rows`).
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from reward_data import pictures
from reward_data.errors import DataError
from reward_data.native import PICTURE_ENDINGS, decoding, ending
from reward_data.npz_labels import label_words
from reward_data.types import UInt8

TRAIN, TEST = "train", "test"
SPLIT_NAMES = {"train": TRAIN, "val": TEST, "valid": TEST, "test": TEST}
HEADER = ("label", "path")


@dataclass(frozen=True)
class ImageRow:
    """One image that has not been decoded: ``where`` names it, ``decode`` gives (C, H, W) uint8.

    ``label`` is empty where none is known. ``file`` is its own file, where it has one; ``name`` is short, for tables.
    """

    where: str
    label: str
    split: str | None
    decode: Callable[[], UInt8]
    file: Path | None = None
    name: str = ""


# --- the three forms -------------------------------------------------------------------------------------------------


def read_rows(path: Path) -> list[ImageRow]:
    """The rows of a CSV file, a folder or an NPZ; no image file is opened.

    Raises:
        DataError: nothing there, or a row that cannot be used.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; wanted a CSV of label,path, a folder or an NPZ")
    if path.is_dir():
        rows = _tree_rows(path)
    elif path.suffix.lower() == ".npz":
        rows = _npz_rows(path)
    else:
        rows = _csv_rows(path)
    if not rows:
        raise DataError(f"{path}: no labelled images found; wanted one row or file at least")
    return rows


def read_new_rows(path: Path, without: Path | None = None) -> list[ImageRow]:
    """The rows of images to be answered, labelled where they say so; no image file is opened.

    As `read_rows`, and also a picture file, a folder with pictures at any depth (labels: the names of the folders that
    they lie in), a CSV whose label is missing or empty (other columns do not matter), an NPZ without labels.

    Args:
        without: a folder to pass over, such as one for the results.

    Raises:
        DataError: nothing there, or a row that cannot be used.
    """
    if not path.exists():
        raise DataError(
            f"{path}: no such file or folder; give a picture, a folder of them, a CSV with a column path, or an NPZ"
        )
    if path.is_dir():
        rows = [_new_row(path, file) for file in _pictures(path, without and without.resolve())]
    elif ending(path) in PICTURE_ENDINGS:
        rows = [ImageRow(str(path), "", None, _decoder(path), path, path.name)]
    elif path.suffix.lower() == ".npz":
        rows = _npz_rows(path, labelled=False)
    elif path.suffix.lower() == ".csv":
        rows = _csv_rows(path, labelled=False)
    else:
        raise DataError(
            f"{path}: wanted a picture ({', '.join(PICTURE_ENDINGS)}), a folder of them, a CSV with a column path, or "
            "an NPZ; convert it"
        )
    if not rows:
        raise DataError(f"{path}: no images found; wanted files ending in {', '.join(PICTURE_ENDINGS)}")
    return rows


def _csv_rows(path: Path, labelled: bool = True) -> list[ImageRow]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if cells]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a CSV file ({error}); save it as UTF-8 text") from error
    columns = list(HEADER)
    if lines and "path" in [cell.lower() for cell in lines[0][1]]:
        columns = [cell.lower() for cell in lines.pop(0)[1]]
    elif lines and not labelled and not (path.parent / lines[0][1][-1]).is_file():
        raise DataError(
            f"{path}: the first line is {','.join(lines[0][1])}, wanted a column named path in it"
        )
    if labelled and (not set(HEADER) <= set(columns) or not set(columns) <= {*HEADER, "split"}):
        raise DataError(f"{path}: columns {columns}, wanted label,path or label,path,split")
    return [_csv_row(path, number, cells, columns, labelled) for number, cells in lines]


def _csv_row(path: Path, number: int, cells: list[str], columns: list[str], labelled: bool) -> ImageRow:
    where = f"{path} line {number}"
    if len(cells) != len(columns):
        raise DataError(f"{where}: {len(cells)} columns, wanted {len(columns)}: {','.join(columns)}")
    row = dict(zip(columns, cells))
    if labelled and not (row["label"] and row["path"]):
        raise DataError(f"{where}: label {row['label']!r} and path {row['path']!r} must both be given")
    if not row["path"]:
        raise DataError(f"{where}: no path given; name an image or take the line out")
    split = row.get("split", "")
    if labelled and split and split not in SPLIT_NAMES:
        raise DataError(f"{where}: split {split!r}, wanted one of {', '.join(SPLIT_NAMES)} or nothing")
    file = path.parent / row["path"]
    if not file.is_file():
        raise DataError(f"{where}: no such file {file}; paths are relative to the CSV file: correct it")
    name = row.get("id") or row["path"]
    return ImageRow(
        where, row.get("label", ""), SPLIT_NAMES.get(split), lambda: _decoded(file, where), file, name
    )


def _tree_rows(root: Path) -> list[ImageRow]:
    splits = {name: root / name for name in SPLIT_NAMES if (root / name).is_dir()}
    rows: list[ImageRow] = []
    for name, folder in splits.items() or {"": root}.items():
        for class_folder in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
            files = sorted(p for p in class_folder.iterdir() if ending(p) in PICTURE_ENDINGS)
            rows += [
                ImageRow(str(file), class_folder.name, SPLIT_NAMES.get(name), _decoder(file), file)
                for file in files
            ]
    return rows


def _new_row(root: Path, file: Path) -> ImageRow:
    """A picture below ``root``; its label is the name of its folder, where that is not ``root`` itself."""
    label = "" if file.parent == root else file.parent.name
    return ImageRow(str(file), label, None, _decoder(file), file, file.relative_to(root).as_posix())


def _pictures(folder: Path, without: Path | None) -> Iterator[Path]:
    """Picture files at any depth, by path; hidden names and the folder ``without`` are passed over."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.resolve() == without:
            continue
        if path.is_dir():
            yield from _pictures(path, without)
        elif ending(path) in PICTURE_ENDINGS:
            yield path


def _npz_rows(path: Path, labelled: bool = True) -> list[ImageRow]:
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(
            f"{path}: cannot be read as an NPZ without objects ({error}); save it again"
        ) from error
    label = arrays.get("label", arrays.get("labels"))
    if (labelled and label is None) or not ("images" in arrays or {"jpeg_blob", "offset"} <= arrays.keys()):
        wanted = "label and images, or label, jpeg_blob" if labelled else "images, or jpeg_blob"
        raise DataError(f"{path}: has the arrays {sorted(arrays)}, wanted {wanted} and offset")
    decoders = _arrays(path, arrays["images"]) if "images" in arrays else _encoded(path, arrays)
    names, count = [str(name) for name in arrays.get("classes", [])], len(decoders)
    words = [""] * count if label is None else label_words(path, label, count, names, labelled)
    return [
        ImageRow(f"{path} image {i}", word, None, decode, name=f"image {i}")
        for i, (word, decode) in enumerate(zip(words, decoders))
    ]


def _arrays(path: Path, images: npt.NDArray[Any]) -> list[Callable[[], UInt8]]:
    colour = images.ndim == 4 and images.shape[-1] in (1, 3)
    if images.dtype != np.uint8 or not (images.ndim == 3 or colour):
        raise DataError(
            f"{path}: images have the shape {images.shape} and type {images.dtype}, wanted uint8 of shape (N, H, W) "
            "or (N, H, W, 3)"
        )
    channels = np.moveaxis(images, -1, 1) if colour else images[:, None]
    return [lambda i=i: np.ascontiguousarray(channels[i]) for i in range(len(channels))]  # type: ignore[misc]


def _encoded(path: Path, arrays: dict[str, npt.NDArray[Any]]) -> list[Callable[[], UInt8]]:
    blob, offset = arrays["jpeg_blob"].astype(np.uint8, copy=False).tobytes(), arrays["offset"].tolist()
    if offset[:1] != [0] or offset[-1] != len(blob) or any(a > b for a, b in itertools.pairwise(offset)):
        raise DataError(
            f"{path}: offset must rise from 0 to {len(blob)}, the length of jpeg_blob; save it again"
        )

    def decoder(i: int) -> Callable[[], UInt8]:
        return lambda: _picture(io.BytesIO(blob[offset[i] : offset[i + 1]]), f"{path} image {i}")

    return [decoder(i) for i in range(len(offset) - 1)]


# --- pixels ----------------------------------------------------------------------------------------------------------


def _decoder(file: Path) -> Callable[[], UInt8]:
    return lambda: _decoded(file, str(file))


def _decoded(file: Path, where: str) -> UInt8:
    """A picture file as (C, H, W) uint8; a message that does not begin with the row's name gets it.

    Grey of more than 8 bits is divided by the picture's own largest value: pictures do not compare in brightness.
    """
    try:
        values = pictures.read(file).values
    except DataError as error:
        raise DataError(f"{where}: {error}" if where != str(file) else str(error)) from error
    if values.dtype == np.uint8:
        return values
    return np.rint(values / max(1.0, float(values.max())) * 255).astype(np.uint8)


def _picture(stream: io.BytesIO, where: str) -> UInt8:
    with decoding(Path(where)), Image.open(stream) as image:
        values = np.asarray(image.convert("L" if image.mode == "L" else "RGB"))
    return values[None] if values.ndim == 2 else np.ascontiguousarray(np.moveaxis(values, -1, 0))
