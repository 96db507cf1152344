"""Images with one label each, as a user has them: a CSV of (label, path), a folder per class, an NPZ; or planted ones.

The listing (which images, labels, splits) is made and checked whole before the first image is decoded; every message
names the row: the line of a CSV file, the file of a folder, the place in an NPZ.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import Field, field_validator

from reward_data.errors import DataError
from reward_data.image_rows import TEST, TRAIN, ImageRow, read_rows
from reward_data.planted_images import CLASSES, PlantedConfig, planted_images
from reward_data.types import Config, UInt8

WHOLE = re.compile(r"[+-]?\d+(\.0*)?")  # a whole number, in whatever way it is written


class LabelledImagesConfig(Config):
    """Where the labelled images come from.

    Networks see 8 bits per channel. A grey picture of more bits is divided by its own largest value, each by itself, so
    that brightness cannot be compared between such pictures: where it matters, convert all to 8 bits in one way.
    """

    train: str | None = Field(
        default=None,
        description="A CSV of label,path (paths relative to it), a folder with one folder per class (or with train/ "
        "and test/ of such), or an NPZ with images and label (or jpeg_blob, offset and label). Grey pictures of more "
        "than 8 bits are each divided by their own largest value: convert them to 8 bits if brightness matters.",
    )
    test: str | None = Field(
        default=None,
        description="The same for the held-out images; null: the test split of `train`, else test_fraction.",
    )
    planted: PlantedConfig | None = Field(
        default=None, description="Images with a planted label instead of files."
    )
    size: tuple[int, ...] | None = Field(
        default=None, description="Resize to rows, columns (pixels); null: all have one size."
    )
    test_fraction: float = Field(
        default=0.2, gt=0, lt=1, description="Share of every class that is held out where no test is given."
    )
    max_images: int | None = Field(
        default=None, ge=1, description="Use at most this many of each split, spread evenly; null: all."
    )
    split_seed: int = Field(default=0, ge=0, description="Seed of the draw of the held-out images.")

    @field_validator("size")
    @classmethod
    def _is_of_a_picture(cls, size: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if size is not None and (len(size) != 2 or min(size) < 1):
            raise ValueError("two numbers of pixels, rows and columns, each at least 1")
        return size


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
        DataError: nothing there, a row that cannot be used, labels with gaps, a file that is there twice or in both
            splits, a split without images, a class without training images.
    """
    if config.planted is not None and config.train is None:
        return _planted(config.planted, config)
    if config.train is None:
        raise DataError("images.train is not set; give a CSV, a folder or an NPZ: images.train=PATH")
    rows = read_rows(Path(config.train))
    names, values = _classes(rows, config.train)
    if config.test is not None:
        _check_apart(config.train, config.test)
        held_out = [replace(row, split=TEST) for row in read_rows(Path(config.test))]
        rows = [replace(row, split=TRAIN) for row in rows] + held_out
        values = values | _only_known(held_out, values, config.train)
    _check_different(rows)
    labels = [values[row.label] for row in rows]
    rows = _split(rows, labels, config)
    _check_splits(rows, str(config.train))
    listing = ImageListing(tuple(rows), tuple(labels), names)
    _check_learned(listing, config.train, "all are held out: leave some, or take the class out")
    listing = _limited(listing, config.max_images)
    _check_learned(listing, config.train, f"images.max_images={config.max_images} leaves none: give more")
    return listing


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
        DataError: numbers that leave one out, are below 0 or written as 2.0, or a single class.
    """
    found = {row.label: row for row in reversed(rows)}
    odd = [label for label in found if not label.isdecimal()]
    if odd and all(WHOLE.fullmatch(label) for label in found):
        raise DataError(f"{found[odd[-1]].where}: label {odd[-1]}; number the classes 0..K-1, or give names")
    if not odd:
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


def _check_apart(train: str, test: str) -> None:
    if Path(train).resolve() == Path(test).resolve():
        raise DataError(
            f"images.test={test}: is images.train, too, so that all are training images; give others, or leave "
            "images.test out"
        )


def _check_different(rows: Sequence[ImageRow]) -> None:
    """Refuse a file that is named twice: it could be both learned from and held out."""
    first: dict[Path, ImageRow] = {}
    for row in (row for row in rows if row.file is not None):
        before = first.setdefault(row.file.resolve(), row)  # type: ignore[union-attr]
        if before is not row:
            apart = before.split == TRAIN and row.split == TEST
            words = "is a training image, too" if apart else "is there already"
            raise DataError(f"{row.where}: {row.file} {words} ({before.where}): take it out of one")


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


def _check_learned(listing: ImageListing, where: str, remedy: str) -> None:
    """Refuse a class that nothing can be learned about."""
    learned = {label for row, label in zip(listing.rows, listing.labels) if row.split == TRAIN}
    for value, name in enumerate(listing.class_names):
        if value not in learned:
            raise DataError(f"{where}: no training image of the class {name!r}; {remedy}")


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
