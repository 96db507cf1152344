"""Images with one label each, as a user has them: a CSV of (label, path), a folder per class, an NPZ; or planted ones.

The listing (which images, labels, splits) is made and checked whole before the first image is decoded; every message
names the row: the line of a CSV file, the file of a folder, the place in an NPZ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import Field

from reward_data.errors import DataError
from reward_data.image_rows import TEST, TRAIN, ImageRow, read_rows
from reward_data.planted_images import CLASSES, PlantedConfig, planted_images
from reward_data.types import Config, UInt8


class LabelledImagesConfig(Config):
    """Where the labelled images come from."""

    train: str | None = Field(
        default=None,
        description="A CSV of label,path (paths relative to it), a folder with one folder per class (or with train/ "
        "and test/ of such), or an NPZ with images and label (or jpeg_blob, offset and label).",
    )
    test: str | None = Field(
        default=None,
        description="The same for the held-out images; null: the test split of `train`, else test_fraction.",
    )
    planted: PlantedConfig | None = Field(
        default=None, description="Images with a planted label instead of files."
    )
    size: tuple[int, ...] | None = Field(
        default=None, description="Resize to rows, columns; null: all have one size."
    )
    test_fraction: float = Field(
        default=0.2, gt=0, lt=1, description="Share of every class that is held out where no test is given."
    )
    max_images: int | None = Field(
        default=None, ge=1, description="Use at most this many of each split, spread evenly; null: all."
    )
    split_seed: int = Field(default=0, ge=0, description="Seed of the draw of the held-out images.")


@dataclass(frozen=True)
class ImageListing:
    """Rows of both splits with their class values, and the classes' names."""

    rows: tuple[ImageRow, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]

    def decoded(self, size: tuple[int, ...] | None) -> Iterator[UInt8]:
        """The images in order, (C, H, W), all of one size and number of channels.

        Raises:
            DataError: an image that cannot be read, or one of another size than those before it.
        """
        first: tuple[int, ...] | None = None
        for row in self.rows:
            values = row.decode()
            if size is not None and values.shape[1:] != tuple(size):
                values = resized(values, size)
            first = first or values.shape
            if values.shape != first:
                raise DataError(
                    f"{row.where}: got an image of {shape_words(values.shape)}, the images before it have "
                    f"{shape_words(first)}; "
                    "give images.size=[rows,columns] to resize all, and make all grey or all in colour"
                )
            yield values


def list_images(config: LabelledImagesConfig) -> ImageListing:
    """The checked listing.

    Raises:
        DataError: nothing there, a row that cannot be used, labels with gaps, a split without images.
    """
    if config.planted is not None and config.train is None:
        return _planted(config.planted, config)
    if config.train is None:
        raise DataError("images.train is not set; give a CSV, a folder or an NPZ: images.train=PATH")
    rows = read_rows(Path(config.train))
    names, values = _classes(rows, config.train)
    if config.test is not None:
        held_out = [replace(row, split=TEST) for row in read_rows(Path(config.test))]
        rows = [replace(row, split=TRAIN) for row in rows] + held_out
        values = values | _only_known(held_out, values, config.train)
    labels = [values[row.label] for row in rows]
    rows = _split(rows, labels, config)
    _check_splits(rows, str(config.train))
    return _limited(ImageListing(tuple(rows), tuple(labels), names), config.max_images)


def input_files(path: str) -> list[Path] | None:
    """The image files that a CSV names; None where all is in the folder or in the file itself.

    Raises:
        DataError: see `list_images`.
    """
    files = [row.file for row in read_rows(Path(path))] if Path(path).suffix.lower() == ".csv" else []
    return [file for file in files if file is not None] or None


def _planted(planted: PlantedConfig, config: LabelledImagesConfig) -> ImageListing:
    images, labels, _ = planted_images(planted)
    held_out = round(planted.images * planted.test_fraction)
    rows = tuple(
        ImageRow(f"planted image {i}", CLASSES[label], TEST if i < held_out else TRAIN, lambda v=value: v)  # type: ignore[misc]
        for i, (value, label) in enumerate(zip(images, labels))
    )
    return _limited(ImageListing(rows, tuple(map(int, labels)), CLASSES), config.max_images)


def resized(values: UInt8, size: tuple[int, ...]) -> UInt8:
    """An image of another size, each axis by itself. Shape: (C, H, W) -> (C, *size)."""
    rows, columns = size
    channels = [
        Image.fromarray(channel).resize((columns, rows), Image.Resampling.BILINEAR) for channel in values
    ]
    return np.stack([np.asarray(channel) for channel in channels])


def shape_words(shape: tuple[int, ...]) -> str:
    """The shape (C, H, W) of an image in words."""
    return f"{shape[1]} x {shape[2]} pixels and {shape[0]} channel{'s' if shape[0] > 1 else ''}"


# --- classes and splits ----------------------------------------------------------------------------------------------


def _classes(rows: Sequence[ImageRow], where: str) -> tuple[tuple[str, ...], dict[str, int]]:
    """Names in the order of their values, and the value of each label: whole numbers as they are, words sorted.

    Raises:
        DataError: numbers that leave one out, or a single class.
    """
    found = {row.label: row for row in reversed(rows)}
    if all(label.isdigit() for label in found):
        ordered = sorted(found, key=int)
        gap = next((i for i, label in enumerate(ordered) if int(label) != i), None)
        if gap is not None:
            row = found[ordered[gap]]
            raise DataError(
                f"{row.where}: label {row.label}, but no row has label {gap}; number the classes 0..K-1 without gaps, "
                "or give names instead of numbers"
            )
    else:
        ordered = sorted(found)
    if len(ordered) < 2:
        raise DataError(f"{where}: all images have the label {ordered[0]!r}; wanted two classes at least")
    return tuple(ordered), {label: value for value, label in enumerate(ordered)}


def _only_known(rows: Sequence[ImageRow], known: dict[str, int], where: str) -> dict[str, int]:
    for row in rows:
        if row.label not in known:
            raise DataError(
                f"{row.where}: label {row.label!r} is not among the classes of {where}; correct it or leave it out"
            )
    return known


def _split(rows: list[ImageRow], labels: Sequence[int], config: LabelledImagesConfig) -> list[ImageRow]:
    """Rows with a split each: their own, else a share of every class is held out."""
    if any(row.split for row in rows):
        return [replace(row, split=row.split or TRAIN) for row in rows]
    rng, held_out = np.random.default_rng([config.split_seed, 72]), set[int]()
    for value in sorted(set(labels)):
        own = np.flatnonzero(np.array(labels) == value)
        held_out |= set(rng.permutation(own)[: round(len(own) * config.test_fraction)].tolist())
    return [replace(row, split=TEST if i in held_out else TRAIN) for i, row in enumerate(rows)]


def _check_splits(rows: Sequence[ImageRow], where: str) -> None:
    for split, remedy in ((TRAIN, "add some"), (TEST, "give images.test, or a larger images.test_fraction")):
        if not any(row.split == split for row in rows):
            raise DataError(f"{where}: no image of the {split} split; {remedy}")


def _limited(listing: ImageListing, most: int | None) -> ImageListing:
    if most is None:
        return listing
    chosen: list[int] = []
    for split in (TRAIN, TEST):
        own = [i for i, row in enumerate(listing.rows) if row.split == split]
        chosen += [own[i] for i in np.linspace(0, len(own) - 1, min(most, len(own))).round().astype(int)]
    return ImageListing(
        tuple(listing.rows[i] for i in chosen), tuple(listing.labels[i] for i in chosen), listing.class_names
    )
