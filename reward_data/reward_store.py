"""The reward dataset on disk: each target image once with its one pseudo ground truth, and any number of examples.

Where an expert has given the mask of an image (``reviewed``), that is its truth.

An example is (image, proposed mask, provenance); its error map is ``proposed != truth`` of its image, so it cannot
disagree with them. Ids are ``<case id>#<number>``, unique by construction. Splits are per image. HDF5 without dates,
packed by gzip (lzf does not give equal bytes for equal contents): equal contents give equal bytes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal

import h5py
import numpy as np
import numpy.typing as npt
from pydantic import Field, TypeAdapter

from reward_data.atomic import atomic_hdf5
from reward_data.correction import Correction
from reward_data.distortions import Distortion
from reward_data.errors import ArtifactError, DataError
from reward_data.expert import Expert, Judged
from reward_data.types import Bool, Float32, Float64, Int64, UInt8

KIND = "rl4seg.reward_store"
VERSION = 2

Provenance = Annotated[Distortion | Correction | Judged, Field(discriminator="kind")]
_RECORD: TypeAdapter[Any] = TypeAdapter(Provenance)
ArrayName = Literal["images", "truths", "proposed"]
_ARRAYS: tuple[ArrayName, ...] = ("images", "truths", "proposed")


@dataclass(frozen=True)
class ImageEntry:
    """One target image: ``image`` (C, *S) uint8, ``truth`` (*S) its pseudo ground truth.

    ``accepted``: the fine-tuning may take the truth as anchor. ``reviewed``: the truth is an expert's.
    """

    case_id: str
    split: Literal["train", "val"]
    accepted: bool
    image: UInt8
    truth: UInt8
    reviewed: bool = False


@dataclass
class RewardStoreWriter:
    """Appends images with their examples to a new file, which appears whole when the ``with`` block ends well.

    Raises:
        DataError: at the end of the block or before, when the disk refuses to write.
    """

    path: Path
    channels: int
    shape: tuple[int, ...]
    case_ids: dict[str, int] = field(default_factory=dict)
    splits: list[str] = field(default_factory=list)
    accepted: list[bool] = field(default_factory=list)
    reviewed: list[bool] = field(default_factory=list)
    image_index: list[int] = field(default_factory=list)
    error_fraction: list[float] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)

    def __enter__(self) -> RewardStoreWriter:
        with ExitStack() as stack:
            self._file, self._check_disk = stack.enter_context(atomic_hdf5(self.path))
            for name, shape in zip(
                _ARRAYS, ((self.channels, *self.shape), self.shape, self.shape), strict=True
            ):
                self._file.create_dataset(
                    name,
                    (0, *shape),
                    np.uint8,
                    maxshape=(None, *shape),
                    chunks=(1, *shape),
                    compression="gzip",
                    compression_opts=1,
                )
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._file["accepted"] = np.array(self.accepted, np.bool_)
            self._file["reviewed"] = np.array(self.reviewed, np.bool_)
            self._file["image_index"] = np.array(self.image_index, np.int64)
            self._file["error_fraction"] = np.array(self.error_fraction, np.float64)
            content = {"kind": KIND, "version": VERSION, "case_ids": list(self.case_ids)}
            content |= {"splits": self.splits, "records": self.records}
            self._file["meta"] = np.frombuffer(json.dumps(content, sort_keys=True).encode(), np.uint8)
        self._stack.__exit__(kind, error, trace)

    def add(
        self, entry: ImageEntry, examples: Sequence[tuple[Distortion | Correction | Judged, UInt8]]
    ) -> None:
        """Store an image once, with its examples: (what made it, proposed mask (*S)).

        Raises:
            DataError: an image of this case is already stored.
        """
        image = self._register(entry.case_id, entry.split, entry.accepted, entry.reviewed)
        for name, array in (("images", entry.image), ("truths", entry.truth)):
            self._file[name].resize(image + 1, 0)
            self._file[name][image] = array
        masks = self._file["proposed"]
        masks.resize(len(self.records) + len(examples), 0)
        for record, proposed in examples:
            masks[len(self.records)] = proposed
            self.image_index.append(image)
            self.error_fraction.append(float((proposed != entry.truth).mean()))
            self.records.append(record.model_dump(mode="json"))
        self._check_disk()

    def take(self, stores: Sequence[RewardStore]) -> None:
        """Take over all of other stores, without unpacking them; the bytes do not depend on how they are divided."""
        for name in _ARRAYS:
            start = len(self._file[name])
            self._file[name].resize(start + sum(len(store.dataset(name)) for store in stores), 0)
            for store in stores:
                start = _copy_chunks(store.dataset(name), self._file[name], start)
                self._check_disk()
        for store in stores:
            first = len(self.case_ids)
            flags = zip(store.accepted.tolist(), store.reviewed.tolist(), strict=True)
            for case_id, split, known in zip(store.case_ids, store.image_splits, flags, strict=True):
                self._register(case_id, split, *known)
            self.image_index += (store.image_index + first).tolist()
            self.error_fraction += store.error_fraction.tolist()
            self.records += store.records

    def _register(self, case_id: str, split: str, accepted: bool, reviewed: bool) -> int:
        if case_id in self.case_ids:
            raise DataError(
                f"case {case_id!r} is in the reward dataset already, wanted each image once; predict every case once"
            )
        self.case_ids[case_id] = len(self.case_ids)
        self.splits.append(split)
        self.accepted.append(accepted)
        self.reviewed.append(reviewed)
        return self.case_ids[case_id]


def _copy_chunks(source: h5py.Dataset, target: h5py.Dataset, start: int) -> int:
    """Copy packed rows to ``target`` from row ``start`` on; returns the row after the last."""
    rest = (0,) * (target.ndim - 1)
    for row in range(len(source)):
        filters, packed = source.id.read_direct_chunk((row, *rest))
        target.id.write_direct_chunk((start + row, *rest), packed, filters)
    return start + len(source)


class RewardStore:
    """A reward dataset, read only. Images are numbered 0..N-1, examples 0..M-1.

    ``case_ids``, ``image_splits``, ``accepted``, ``reviewed``: of the images. ``image_index``, ``error_fraction``: of
    the examples, the image's number and the share of wrong pixels. ``records``: their provenance, as JSON.

    Raises:
        ArtifactError: the file is missing, broken or no reward dataset.
    """

    def __init__(self, path: Path) -> None:
        self._last: dict[ArrayName, tuple[int, UInt8]] = {}
        try:
            self._file = h5py.File(path, "r")
            meta = json.loads(self._file["meta"][:].tobytes())
            if (meta["kind"], meta["version"]) != (KIND, VERSION):
                raise ValueError(f"{meta['kind']} version {meta['version']}")
            self.case_ids: tuple[str, ...] = tuple(meta["case_ids"])
            self.image_splits: tuple[str, ...] = tuple(meta["splits"])
            self.records: list[dict[str, Any]] = meta["records"]
            self.image_index: Int64 = self._file["image_index"][:]
            self.error_fraction: Float64 = self._file["error_fraction"][:]
            self.accepted: Bool = self._file["accepted"][:]
            self.reviewed: Bool = self._file["reviewed"][:]
            self.channels: int = self._file["images"].shape[1]
            self.shape: tuple[int, ...] = self._file["images"].shape[2:]
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"{path}: no readable reward dataset ({error}); wanted {KIND} version {VERSION}: synthesize again"
            ) from error

    def __enter__(self) -> RewardStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self.image_index)

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Unique ids of the examples."""
        seen: Counter[int] = Counter()
        ids = []
        for image in self.image_index.tolist():
            ids.append(f"{self.case_ids[image]}#{seen[image]}")
            seen[image] += 1
        return tuple(ids)

    @cached_property
    def example_split(self) -> tuple[str, ...]:
        """Split of every example, that of its image."""
        return tuple(self.image_splits[image] for image in self.image_index.tolist())

    def indices(self, split: str) -> Int64:
        """Examples whose image is in ``split`` ("train" or "val")."""
        return np.flatnonzero(np.array(self.example_split, dtype=np.str_) == split).astype(np.int64)

    def images(self, examples: Int64) -> Float32:
        """Images of examples, in [0, 1]. Shape: (B,) -> (B, C, *S)."""
        return self.anchor_images(self.image_index[examples])

    def proposed(self, examples: Int64) -> UInt8:
        """Proposed masks of examples. Shape: (B,) -> (B, *S)."""
        return self._rows("proposed", examples)

    def read(self, examples: Int64) -> tuple[Float32, UInt8, Bool]:
        """Images, proposed masks and errors of examples; quicker than one by one. Shape: as of the three."""
        proposed = self.proposed(examples)
        return self.images(examples), proposed, proposed != self.truths(self.image_index[examples])

    def errors(self, examples: Int64) -> Bool:
        """Where the proposed mask is wrong. Shape: (B,) -> (B, *S)."""
        wrong: Bool = self.proposed(examples) != self.truths(self.image_index[examples])
        return wrong

    def provenance(self, example: int) -> Any:
        """The frozen record that made an example: a Distortion or a Correction."""
        return _RECORD.validate_python(self.records[example])

    def kinds(self) -> dict[str, int]:
        """Number of examples by kind of provenance."""
        return dict(sorted(Counter(record["kind"] for record in self.records).items()))

    def mean_errors(self) -> dict[str, float]:
        """Mean share of wrong pixels by kind of provenance."""
        kinds = np.array([record["kind"] for record in self.records], dtype=np.str_)
        return {kind: float(self.error_fraction[kinds == kind].mean()) for kind in self.kinds()}

    def anchors(self) -> Int64:
        """Images whose prediction was accepted as pseudo ground truth."""
        return np.flatnonzero(self.accepted).astype(np.int64)

    def anchor_images(self, images: Int64) -> Float32:
        """Images by image number, in [0, 1]. Shape: (B,) -> (B, C, *S)."""
        return np.divide(self._rows("images", images), 255, dtype=np.float32)

    def truths(self, images: Int64) -> UInt8:
        """Pseudo ground truths by image number. Shape: (B,) -> (B, *S)."""
        return self._rows("truths", images)

    def dataset(self, name: ArrayName) -> h5py.Dataset:
        """The array in the file, for copying."""
        return self._file[name]

    def _rows(self, name: ArrayName, indices: Sequence[int] | npt.NDArray[np.integer[Any]]) -> UInt8:
        """Chosen rows; a row that follows itself, in this call or since the one before, is unpacked once."""
        dataset = self._file[name]
        rows = np.empty((len(indices), *dataset.shape[1:]), np.uint8)
        last, unpacked = self._last.get(name, (-1, None))
        for row, index in enumerate(indices):
            if unpacked is not None and index == last:
                rows[row] = unpacked
            else:
                dataset.read_direct(rows, np.s_[int(index)], np.s_[row])
            last, unpacked = int(index), rows[row]
        if unpacked is not None:
            self._last[name] = (last, unpacked.copy())  # the caller may write into what it got
        return rows


def relabel(rewards: Path, expert: Expert, out: Path) -> None:
    """A reward dataset as experts see it: their masks are the truths of the cases that they have accepted or corrected.

    The proposed masks of these cases stay, and so their errors are the true ones. Cases that an expert has rejected are
    left out with all their examples. ``out`` appears whole or not at all.
    """
    with ExitStack() as stack:
        old = stack.enter_context(RewardStore(rewards))
        new = stack.enter_context(RewardStoreWriter(out, old.channels, old.shape))
        for number, case_id in enumerate(old.case_ids):
            if case_id in expert.rejected:
                continue
            own = np.flatnonzero(old.image_index == number).astype(np.int64)
            given = expert.truths.get(case_id)
            entry = ImageEntry(
                case_id,
                "val" if old.image_splits[number] == "val" else "train",
                bool(old.accepted[number]) or given is not None,
                old.dataset("images")[number],
                old.truths(np.array([number]))[0] if given is None else given,
                bool(old.reviewed[number]) or given is not None,
            )
            made_by = [old.provenance(example) for example in own.tolist()]
            new.add(entry, list(zip(made_by, old.proposed(own), strict=True)))


def merge(parts: Sequence[Path], out: Path) -> None:
    """One reward dataset from several; images and examples keep their order. ``out`` appears whole or not at all."""
    with ExitStack() as stack:
        stores = [stack.enter_context(RewardStore(part)) for part in parts]
        writer = stack.enter_context(RewardStoreWriter(out, stores[0].channels, stores[0].shape))
        writer.take(stores)
