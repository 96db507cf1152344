"""Import once, read often: preprocessed cases in one HDF5 file, with what is needed to go back to the native grid.

Layout: ``images`` (N, C, *S) uint8 or float16 and ``labels`` (N, *S) uint8, one case per chunk; ``native_labels/<i>``
in native shape; ``cases``, a JSON list with one entry per case; ``store``, a JSON object about all of them. No dates
and no paths, so that equal cases give equal bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from reward_data import splits
from reward_data.atomic import atomic_hdf5
from reward_data.errors import ArtifactError, DataError
from reward_data.geometry import Geometry, restore, restore_probabilities
from reward_data.preprocess import PreprocessConfig
from reward_data.preprocess import preprocess as preprocess_case
from reward_data.types import Bool, Case, Float32, Int64, LabelMap, Mask, Progress, UInt8, no_progress

KIND = "rl4seg.case_store"
VERSION = 1

Indices = Int64 | Sequence[int]


def import_cases(
    cases: Iterable[Case],
    total: int,
    preprocess: PreprocessConfig,
    labels: LabelMap,
    path: Path,
    progress: Progress = no_progress,
) -> None:
    """Preprocess ``total`` cases and write them to ``path``, whole or not at all. A case without split is "train".

    Raises: DataError for no cases, cases that do not fit together or the grid, and a disk that refuses to write.
    """
    if total < 1:
        raise DataError(
            "no cases to import; wanted at least one image: check the dataset's path and max_cases"
        )
    with atomic_hdf5(path) as (file, check_disk):
        entries: list[dict[str, Any]] = []
        for index, case in enumerate(cases):
            if index == 0:
                _create(file, total, case.image.shape[0], preprocess)
            if index >= total:
                raise DataError(
                    f"got more cases than {total}, the wanted number; give their true number as total"
                )
            entries.append(_write_case(file, index, case, preprocess, labels))
            check_disk()
            progress(index + 1, total)
        if len(entries) != total:
            raise DataError(f"got {len(entries)} cases, wanted {total}; give their true number as total")
        _check_together(entries)
        store = {"kind": KIND, "version": VERSION, "class_names": labels.names}
        _write_json(file, "store", store | {"preprocess": preprocess.model_dump(mode="json")})
        _write_json(file, "cases", entries)


def _create(file: h5py.File, total: int, channels: int, preprocess: PreprocessConfig) -> None:
    grid = preprocess.shape
    file.create_dataset("images", (total, channels, *grid), preprocess.dtype, chunks=(1, channels, *grid))
    file.create_dataset(
        "labels", (total, *grid), "uint8", chunks=(1, *grid), compression="gzip", compression_opts=1
    )
    file.create_group("native_labels")


def _write_case(
    file: h5py.File, index: int, case: Case, config: PreprocessConfig, labels: LabelMap
) -> dict[str, Any]:
    """Write the arrays of one case; returns its entry in ``cases``."""
    images = file["images"]
    if case.image.shape[0] != images.shape[1]:
        raise DataError(
            f"case {case.id!r} has {case.image.shape[0]} channels, the cases before it {images.shape[1]}; "
            "make all images grey or all in colour"
        )
    image, label, geometry = preprocess_case(case, config)
    images[index] = np.rint(image * 255).astype(np.uint8) if config.dtype == "uint8" else image
    if case.label is not None and label is not None:
        if case.label.max(initial=0) >= labels.num_classes:
            raise DataError(
                f"case {case.id!r} has label {case.label.max()}, wanted 0..{labels.num_classes - 1} "
                f"({', '.join(labels.names)}); correct the label map"
            )
        file["labels"][index] = label
        file["native_labels"].create_dataset(
            f"{index:06d}", data=case.label, chunks=case.label.shape, compression="gzip", compression_opts=1
        )
    return {
        "id": case.id,
        "group": case.group,
        "domain": case.domain,
        "split": case.split or "train",
        "has_label": label is not None,
        "spacing_known": case.spacing_known,
        "geometry": geometry.model_dump(mode="json"),
    }


def _check_together(entries: list[dict[str, Any]]) -> None:
    ids, groups, given = ([entry[key] for entry in entries] for key in ("id", "group", "split"))
    splits.check_unique(ids, "import")
    splits.check_groups(ids, groups, given, "import")


def _write_json(file: h5py.File, name: str, content: Any) -> None:
    file[name] = np.frombuffer(json.dumps(content, sort_keys=True).encode(), dtype=np.uint8)


def _read_json(file: h5py.File, name: str) -> Any:
    return json.loads(file[name][()].tobytes())


class CaseStore:
    """The cases of one store, read only. The file is opened at the first read, anew in every process.

    Use it as a context manager, or ``close`` it. Every array method takes indices 0..len - 1 in any order.
    Raises: ArtifactError when the file is missing, broken or no case store.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._file: h5py.File | None = None
        self._owner = 0
        try:
            with h5py.File(self.path, "r") as file:
                store, cases = _read_json(file, "store"), _read_json(file, "cases")
                image_shape: tuple[int, ...] = file["images"].shape
            if (store["kind"], store["version"]) != (KIND, VERSION):
                raise ValueError(f"{store['kind']} version {store['version']}")
            self.preprocess = PreprocessConfig.model_validate(store["preprocess"])
            self._geometries = tuple(Geometry.model_validate(case["geometry"]) for case in cases)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"{self.path}: no readable case store ({error}); wanted {KIND} version {VERSION}: import the data again"
            ) from error
        self.class_names: tuple[str, ...] = tuple(store["class_names"])
        self.ids: tuple[str, ...] = tuple(case["id"] for case in cases)
        self.groups: tuple[str, ...] = tuple(case["group"] for case in cases)
        self.domains: tuple[str, ...] = tuple(case["domain"] for case in cases)
        self.splits: tuple[str, ...] = tuple(case["split"] for case in cases)
        self.has_label: Bool = np.array([case["has_label"] for case in cases], dtype=np.bool_)
        self.spacing_known = all(case["spacing_known"] for case in cases)
        self.channels = image_shape[1]
        self.shape = image_shape[2:]

    def __len__(self) -> int:
        return len(self.ids)

    def __enter__(self) -> CaseStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[[Path], CaseStore], tuple[Path]]:
        return CaseStore, (self.path,)

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        if self._file is not None and self._owner == os.getpid():
            self._file.close()
        self._file = None

    @property
    def num_classes(self) -> int:
        """K, background included."""
        return len(self.class_names)

    def indices(self, split: str | None = None, labelled: bool | None = None) -> Int64:
        """Indices of the cases of a split and with (True) or without (False) a label; None: either."""
        if split is not None and split not in splits.SPLITS:
            raise DataError(f"split {split!r} does not exist, wanted one of {', '.join(splits.SPLITS)}")
        chosen = np.array([split in (None, own) for own in self.splits], dtype=np.bool_)
        if labelled is not None:
            chosen &= self.has_label == labelled
        return np.flatnonzero(chosen).astype(np.int64)

    def images(self, indices: Indices) -> Float32:
        """Images in [0, 1]. Shape: (B, C, *S)."""
        stored = self._open()["images"]
        rows = _rows(stored, indices)
        images: Float32 = np.divide(rows, 255 if stored.dtype == np.uint8 else 1, dtype=np.float32)
        return images

    def labels(self, indices: Indices) -> UInt8:
        """Labels on the network grid. Shape: (B, *S). Raises: DataError when a case has none."""
        for index in indices:
            self._require_label(int(index))
        labels: UInt8 = _rows(self._open()["labels"], indices)
        return labels

    def native_label(self, index: int) -> UInt8:
        """Label of one case as it was read, class values. Shape: native. Raises: DataError when it has none."""
        self._require_label(index)
        label: UInt8 = self._open()[f"native_labels/{index:06d}"][()]
        return label

    def geometry(self, index: int) -> Geometry:
        """How one case lies on the network grid."""
        return self._geometries[index]

    def spacing_mm(self, index: int) -> tuple[float, ...]:
        """Pixel size of the network grid for one case, mm (native pixels where ``spacing_known`` is False)."""
        return self._geometries[index].spacing_mm

    def native_spacing_mm(self, index: int) -> tuple[float, ...]:
        """Pixel size of the native grid of one case, mm."""
        return self._geometries[index].native_spacing_mm

    def restore(self, index: int, labels: UInt8) -> Mask:
        """Bring labels of the network grid back to native shape, spacing and affine. Shape: (*S) -> native."""
        return restore(labels, self._geometries[index])

    def restore_probabilities(self, index: int, probabilities: Float32) -> Mask:
        """As ``restore``, from class probabilities, with finer borders. Shape: (K, *S) -> native."""
        return restore_probabilities(probabilities, self._geometries[index])

    def _require_label(self, index: int) -> None:
        if not self.has_label[index]:
            raise DataError(
                f"case {self.ids[index]!r} has no label; wanted a labelled one: add its label file or leave it out"
            )

    def _open(self) -> h5py.File:
        if self._file is None or self._owner != os.getpid():
            self._file, self._owner = h5py.File(self.path, "r"), os.getpid()
        return self._file


def _rows(stored: h5py.Dataset, indices: Indices) -> npt.NDArray[Any]:
    """Chosen rows of a dataset, one chunk read each. Shape: (N, ...) -> (B, ...)."""
    rows = np.empty((len(indices), *stored.shape[1:]), stored.dtype)
    for row, index in enumerate(indices):
        stored.read_direct(rows, np.s_[int(index)], np.s_[row])
    return rows
