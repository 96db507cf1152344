"""Labelled images, decoded once: ``images.npy`` (N, C, *S) uint8, ``labels.npy`` (N), ``images.json`` about them.

The images are mapped from the file and read as they are needed, so a set larger than the memory can be used. No dates
and no paths of this machine: equal images give equal bytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reward_data.errors import ArtifactError
from reward_data.image_rows import TEST, TRAIN
from reward_data.labelled_images import LabelledImagesConfig, list_images
from reward_data.types import Float32, Int64, Progress, UInt8, no_progress

IMAGES, LABELS, ABOUT = "images.npy", "labels.npy", "images.json"


def import_images(config: LabelledImagesConfig, folder: Path, progress: Progress = no_progress) -> None:
    """Decode all images of a configuration into ``folder``.

    Raises:
        DataError: see `reward_data.labelled_images`.
    """
    listing = list_images(config)
    stored: npt.NDArray[Any] | None = None
    for index, values in enumerate(listing.decoded(config.size)):
        if stored is None:
            shape = (len(listing.rows), *values.shape)
            stored = np.lib.format.open_memmap(folder / IMAGES, "w+", np.uint8, shape)
        stored[index] = values
        progress(index + 1, len(listing.rows))
    np.save(folder / LABELS, np.array(listing.labels, np.int64))
    about = {
        "class_names": listing.class_names,
        "splits": [row.split for row in listing.rows],
        "ids": [row.where.rpartition("/")[2] for row in listing.rows],
    }
    (folder / ABOUT).write_text(json.dumps(about) + "\n", encoding="utf-8")


def unit(pixels: UInt8) -> Float32:
    """Pixels as networks see them, in [0, 1]."""
    values: Float32 = np.divide(pixels, 255, dtype=np.float32)
    return values


def spread(places: Int64, most: int) -> Int64:
    """At most so many places, spread evenly over all: files are often sorted by class."""
    chosen: Int64 = places[np.linspace(0, len(places) - 1, min(most, len(places))).round().astype(int)]
    return chosen


class ImageStore:
    """The labelled images of one folder, read only.

    Raises:
        ArtifactError: the folder has no readable images.
    """

    def __init__(self, folder: Path) -> None:
        try:
            about = json.loads((folder / ABOUT).read_text("utf-8"))
            self._images: npt.NDArray[Any] = np.load(folder / IMAGES, mmap_mode="r")
            self._labels: Int64 = np.load(folder / LABELS)
            self.class_names: tuple[str, ...] = tuple(about["class_names"])
            self.splits: tuple[str, ...] = tuple(about["splits"])
            self.ids: tuple[str, ...] = tuple(about["ids"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"{folder}: no readable image store ({error}); import the images again"
            ) from error
        self.channels: int = self._images.shape[1]
        self.shape: tuple[int, ...] = self._images.shape[2:]

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def train(self) -> Int64:
        """Places of the training images."""
        return self._places(TRAIN)

    @property
    def test(self) -> Int64:
        """Places of the held-out images."""
        return self._places(TEST)

    def images(self, indices: Int64) -> Float32:
        """Images in [0, 1]. Shape: (B, C, *S)."""
        return unit(self.pixels(indices))

    def pixels(self, indices: Int64) -> UInt8:
        """Images as they are stored. Shape: (B, C, *S)."""
        values: UInt8 = self._images[indices]
        return values

    def labels(self, indices: Int64) -> Int64:
        """Class values. Shape: (B)."""
        values: Int64 = self._labels[indices]
        return values

    def colour_statistics(self, most: int = 2000) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel over (at most ``most``) training images in [0, 1]."""
        chosen = spread(self.train, most)
        values = np.moveaxis(self.images(chosen), 1, 0).reshape(self.channels, -1).astype(np.float64)
        mean, sd = values.mean(1), values.std(1).clip(1e-3)
        return tuple(round(float(v), 6) for v in mean), tuple(round(float(v), 6) for v in sd)

    def _places(self, split: str) -> Int64:
        return np.flatnonzero([own == split for own in self.splits]).astype(np.int64)
