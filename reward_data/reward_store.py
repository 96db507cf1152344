"""The reward dataset on disk: each target image once with its one pseudo ground truth, and any number of examples.

An example is (image, proposed mask, provenance); its error map is ``proposed != truth`` of its image, so it cannot
disagree with them. Ids are ``<case id>#<number>``, unique by construction. Splits are per image.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import h5py
import numpy as np
import numpy.typing as npt
from pydantic import Field, TypeAdapter

from reward_data.correction import Correction
from reward_data.distortions import Distortion
from reward_data.errors import DataError
from reward_data.types import Bool, Float32, Int64, UInt8

Provenance = Annotated[Distortion | Correction, Field(discriminator="kind")]
_RECORD: TypeAdapter[Any] = TypeAdapter(Provenance)


@dataclass(frozen=True)
class ImageEntry:
    """One target image: ``image`` (C, *S) uint8, ``truth`` (*S) its pseudo ground truth."""

    case_id: str
    split: str
    accepted: bool
    image: UInt8
    truth: UInt8


@dataclass
class RewardStoreWriter:
    """Appends images and examples to a new file; the file is whole once the ``with`` block has ended."""

    path: Path
    channels: int
    shape: tuple[int, ...]
    case_ids: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    accepted: list[bool] = field(default_factory=list)
    image_index: list[int] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)

    def __enter__(self) -> RewardStoreWriter:
        self._file = h5py.File(self.path, "w")
        self._new("images", (self.channels, *self.shape), None)
        self._new("truths", self.shape, "lzf")
        self._new("proposed", self.shape, "lzf")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._file["accepted"] = np.array(self.accepted, np.bool_)
            self._file["image_index"] = np.array(self.image_index, np.int64)
            content = {"case_ids": self.case_ids, "splits": self.splits, "records": self.records}
            self._file["meta"] = np.frombuffer(json.dumps(content).encode(), np.uint8)
        self._file.close()

    def _new(self, name: str, shape: tuple[int, ...], compression: str | None) -> None:
        self._file.create_dataset(
            name, (0, *shape), np.uint8, maxshape=(None, *shape), chunks=(1, *shape), compression=compression
        )

    def _append(self, name: str, array: UInt8) -> None:
        dataset = self._file[name]
        dataset.resize(len(dataset) + 1, 0)
        dataset[-1] = array

    def add_image(self, entry: ImageEntry) -> int:
        """Store an image once and return its index.

        Raises:
            DataError: an image of this case is already stored.
        """
        if entry.case_id in self.case_ids:
            raise DataError(f"{entry.case_id}: already in the reward dataset; every image is stored once")
        self._append("images", entry.image)
        self._append("truths", entry.truth)
        self.case_ids.append(entry.case_id)
        self.splits.append(entry.split)
        self.accepted.append(entry.accepted)
        return len(self.case_ids) - 1

    def add_example(self, image: int, proposed: UInt8, record: Any) -> None:
        """Store an example of image number ``image``; ``record`` is a Distortion or a Correction."""
        self._append("proposed", proposed)
        self.image_index.append(image)
        self.records.append(record.model_dump(mode="json"))


class RewardStore:
    """A reward dataset, read only. Images are numbered 0..N-1, examples 0..M-1."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = h5py.File(path, "r")
            meta = json.loads(self._file["meta"][:].tobytes())
        except (OSError, KeyError, json.JSONDecodeError) as error:
            raise DataError(
                f"{path}: not a readable reward dataset ({error}); run the synthesis stage again"
            ) from error
        self.case_ids: tuple[str, ...] = tuple(meta["case_ids"])
        self.image_splits: tuple[str, ...] = tuple(meta["splits"])
        self._records: list[dict[str, Any]] = meta["records"]
        self.image_index: Int64 = self._file["image_index"][:]
        self._accepted: Bool = self._file["accepted"][:]
        self.channels: int = self._file["images"].shape[1]
        self.shape: tuple[int, ...] = self._file["images"].shape[2:]

    def __enter__(self) -> RewardStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self.image_index)

    @property
    def ids(self) -> tuple[str, ...]:
        """Unique ids of the examples."""
        seen: Counter[int] = Counter()
        ids = []
        for image in self.image_index.tolist():
            ids.append(f"{self.case_ids[image]}#{seen[image]}")
            seen[image] += 1
        return tuple(ids)

    def indices(self, split: str) -> Int64:
        """Examples whose image is in ``split`` ("train" or "val")."""
        return np.array(
            [i for i, image in enumerate(self.image_index) if self.image_splits[image] == split], np.int64
        )

    def images(self, examples: Int64) -> Float32:
        """Images of examples, in [0, 1]. Shape: (B,) -> (B, C, *S)."""
        return self.anchor_images(self.image_index[examples])

    def proposed(self, examples: Int64) -> UInt8:
        """Proposed masks of examples. Shape: (B,) -> (B, *S)."""
        return self._rows("proposed", examples)

    def errors(self, examples: Int64) -> Bool:
        """Where the proposed mask is wrong. Shape: (B,) -> (B, *S)."""
        return self.proposed(examples) != self.truths(self.image_index[examples])

    def provenance(self, example: int) -> Any:
        """The frozen record that made an example: a Distortion or a Correction."""
        return _RECORD.validate_python(self._records[example])

    def kinds(self) -> dict[str, int]:
        """Number of examples by kind of provenance."""
        return dict(sorted(Counter(record["kind"] for record in self._records).items()))

    def anchors(self) -> Int64:
        """Images whose prediction was accepted as pseudo ground truth."""
        return np.flatnonzero(self._accepted).astype(np.int64)

    def anchor_images(self, images: Int64) -> Float32:
        """Images by image number, in [0, 1]. Shape: (B,) -> (B, C, *S)."""
        return self._rows("images", images).astype(np.float32) / np.float32(255)

    def truths(self, images: Int64) -> UInt8:
        """Pseudo ground truths by image number. Shape: (B,) -> (B, *S)."""
        return self._rows("truths", images)

    def _rows(self, name: str, indices: Sequence[int] | npt.NDArray[np.integer[Any]]) -> UInt8:
        dataset = self._file[name]
        rows = np.empty((len(indices), *dataset.shape[1:]), np.uint8)
        for row, index in enumerate(indices):
            dataset.read_direct(rows, np.s_[int(index)], np.s_[row])
        return rows


def merge(parts: Sequence[Path], out: Path) -> None:
    """One reward dataset from several; images and examples keep their order."""
    with RewardStore(parts[0]) as first:
        channels, shape = first.channels, first.shape
    with RewardStoreWriter(out, channels, shape) as writer:
        for part in parts:
            with RewardStore(part) as store:
                _copy(store, writer)


def _copy(store: RewardStore, writer: RewardStoreWriter) -> None:
    number = {}
    for image, case_id in enumerate(store.case_ids):
        one = np.array([image])
        pixels = store._rows("images", one)[0]
        accepted = bool(store._accepted[image])
        entry = ImageEntry(case_id, store.image_splits[image], accepted, pixels, store.truths(one)[0])
        number[image] = writer.add_image(entry)
    for example in range(len(store)):
        image = number[int(store.image_index[example])]
        writer.add_example(image, store.proposed(np.array([example]))[0], store.provenance(example))
