"""How often each class occurs in a set of labels, and the class weights that follow from it.

    w_k = 1 / (C_k + s T),    weight_k = N w_k / sum_l w_l

C_k: pixels of class k, T: pixels of all counted classes, s: the smoothing, N: the number of counted classes. The
weights of the counted classes have a mean of 1; s = 0 is inverse frequency, and the larger s, the more alike they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from reward_data.atomic import atomic_file
from reward_data.errors import ConfigError, DataError
from reward_data.formats import read_labels
from reward_data.types import Bool, Float64, Int64, LabelMap, Progress, no_progress

BLOCK = 1 << 22
"""Pixels that are counted at once, so that a large volume needs no second array of its size."""
HIGHEST = 65535
"""The largest label value that is taken for a class."""


@dataclass(frozen=True)
class ClassStatistics:
    """``pixels`` and ``images`` (in which it occurs) of every class value 0..K-1. Shape: (K,) both."""

    names: tuple[str, ...]
    pixels: Int64
    images: Int64
    files: int
    ignored: int = 0
    ignore_index: int | None = None

    @property
    def counted(self) -> Bool:
        """The classes that count, all but an ignored one. Shape: (K,)."""
        own = range(len(self.names))
        return np.array([value != self.ignore_index for value in own], dtype=np.bool_)

    @property
    def total(self) -> int:
        """T: pixels of all classes, those ignored left out."""
        return int(self.pixels.sum())

    @property
    def frequencies(self) -> Float64:
        """C_k / T. Shape: (K,)."""
        return self.pixels / max(self.total, 1)

    def to_json(self, smooth: float) -> dict[str, Any]:
        """Names, counts, frequencies and weights as plain numbers; `load_class_weights` reads it."""
        weights = class_weights(self, smooth)
        rows = zip(self.names, self.pixels, self.frequencies, self.images, weights)
        classes = [
            {
                "value": value,
                "name": name,
                "pixels": int(pixels),
                "frequency": round(float(frequency), 8),
                "images": int(images),
                "weight": weight,
            }
            for value, (name, pixels, frequency, images, weight) in enumerate(rows)
        ]
        return {
            "files": self.files,
            "pixels": self.total,
            "ignored_pixels": self.ignored,
            "smooth": smooth,
            "class_weights": list(weights),
            "classes": classes,
        }


def class_weights(statistics: ClassStatistics, smooth: float = 0.1) -> tuple[float, ...]:
    """weight_k = N w_k / sum w, w_k = 1 / (C_k + smooth T), one per class; 0 for a class that is ignored.

    Raises:
        ConfigError: a class is in no label and smooth is 0, so that its weight would be infinite; or smooth < 0.
        DataError: there is no pixel at all.
    """
    if smooth < 0:
        raise ConfigError(f"smooth={smooth}, wanted 0 or more")
    if statistics.total == 0:
        raise DataError("no labelled pixel to compute class weights from; give labels, or weights by hand")
    absent = [statistics.names[k] for k in np.flatnonzero(statistics.counted & (statistics.pixels == 0))]
    if absent and smooth == 0:
        raise ConfigError(
            f"class {absent[0]!r} occurs in none of the {statistics.files} labels, and without smoothing its weight is "
            "infinite; give smooth above 0, or leave the class out of the label map"
        )
    size = np.where(statistics.counted, statistics.pixels + smooth * statistics.total, np.inf)
    raw = 1 / size
    return tuple(float(weight) for weight in statistics.counted.sum() * raw / raw.sum())


def count_labels(
    labels: Iterable[npt.NDArray[Any]], names: tuple[str, ...] | None = None, ignore_index: int | None = None
) -> ClassStatistics:
    """Count the classes of label arrays of any shape, one array in memory at a time.

    Args:
        names: class names by value; None: the values found are the classes, 0 to the highest.
        ignore_index: value that is not counted; it has no pixels and, above the classes, no name.

    Raises:
        DataError: a value that is no class.
    """
    pixels, images = (np.zeros(len(names or ()), np.int64) for _ in range(2))
    files = ignored = 0
    for label in labels:
        counts = _counts(label, files)
        files += 1
        if ignore_index is not None and ignore_index < len(counts):
            ignored += int(counts[ignore_index])
            counts[ignore_index] = 0
            counts = np.trim_zeros(counts, "b")
        if names is not None and len(counts) > len(names):
            raise DataError(
                f"label number {files} has the value {len(counts) - 1}, wanted 0..{len(names) - 1} "
                f"({', '.join(names)}); merge it into a class (merge), or give it as ignore_index"
            )
        pixels, images = _added(pixels, counts), _added(images, (counts > 0).astype(np.int64))
    found = names or tuple(f"class {value}" for value in range(len(pixels)))
    return ClassStatistics(found, pixels, images, files, ignored, ignore_index)


def count_files(
    paths: list[Path],
    labels: LabelMap | None = None,
    ignore_index: int | None = None,
    progress: Progress = no_progress,
) -> ClassStatistics:
    """Count the classes of label files, one file in memory at a time.

    Args:
        labels: class names, and native values merged into them; None: the values found are the classes.
        ignore_index: native value that is not counted.

    Raises:
        DataError: no file, a file that cannot be read, or a value that is no class.
    """
    if not paths:
        raise DataError("no label file to count; give a folder of labels")

    def read() -> Iterable[npt.NDArray[Any]]:
        for number, path in enumerate(paths):
            native = read_labels(path)
            yield native if labels is None else _mapped(native, labels, ignore_index, path)
            progress(number + 1, len(paths))

    return count_labels(read(), labels.names if labels else None, ignore_index)


def _mapped(
    native: npt.NDArray[Any], labels: LabelMap, ignore_index: int | None, path: Path
) -> npt.NDArray[Any]:
    """Class values, the ignored value kept as it is."""
    if ignore_index is None:
        return labels.apply(native, str(path))
    ignored = native == ignore_index
    mapped = labels.apply(np.where(ignored, 0, native), str(path)).astype(np.int64)
    mapped[ignored] = ignore_index
    return mapped


def _counts(label: npt.NDArray[Any], number: int) -> Int64:
    """Pixels by value, 0 to the highest one."""
    flat, counts = label.reshape(-1), np.zeros(0, np.int64)
    for start in range(0, flat.size, BLOCK):
        block = flat[start : start + BLOCK]
        low, high = float(block.min()), float(block.max())
        if low < 0 or high > HIGHEST or (block.dtype.kind == "f" and (block != np.rint(block)).any()):
            raise DataError(
                f"label number {number + 1} has values in {low:g} .. {high:g}, wanted whole class values in "
                f"0..{HIGHEST}; give label files, not images"
            )
        counts = _added(counts, np.bincount(block.astype(np.int64)).astype(np.int64))
    return counts


def _added(a: Int64, b: Int64) -> Int64:
    """a + b, the shorter one filled up with zeros."""
    total = np.zeros(max(len(a), len(b)), np.int64)
    total[: len(a)] += a
    total[: len(b)] += b
    return total


def write_statistics(statistics: ClassStatistics, smooth: float, path: Path) -> None:
    """Write counts and weights as YAML, or JSON where the name ends in .json; whole or not at all.

    Raises:
        ConfigError: another ending.
    """
    content = statistics.to_json(smooth)
    if path.suffix not in (".json", ".yaml", ".yml"):
        raise ConfigError(f"{path}: wanted a name that ends in .yaml or .json")
    text = (
        json.dumps(content, indent=1) if path.suffix == ".json" else yaml.safe_dump(content, sort_keys=False)
    )
    with atomic_file(path) as temporary:
        temporary.write_text(text.rstrip("\n") + "\n", encoding="utf-8")


def load_class_weights(path: Path) -> tuple[float, ...]:
    """Class weights of a YAML or JSON file: as `write_statistics` writes it, or a bare list.

    Raises:
        ConfigError: it cannot be read, or holds no list of numbers of 0 or more.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"class_weights={path}: cannot be read ({error}); give a list, a YAML or JSON file of rl4seg data "
            "class-stats, or computed"
        ) from error
    found = content.get("class_weights") if isinstance(content, dict) else content
    numbers = isinstance(found, list) and all(
        isinstance(weight, int | float) and not isinstance(weight, bool) and 0 <= weight < float("inf")
        for weight in found
    )
    if not found or not numbers:
        raise ConfigError(
            f"class_weights={path}: wanted a list of numbers of 0 or more, or such a list as class_weights; got "
            f"{str(found)[:80]}"
        )
    return tuple(float(weight) for weight in found)


def check_weights(weights: tuple[float, ...], names: tuple[str, ...]) -> tuple[float, ...]:
    """The weights, if there is one per class.

    Raises:
        ConfigError: there are more or fewer.
    """
    if len(weights) != len(names):
        raise ConfigError(
            f"class_weights has {len(weights)} values, the label map has {len(names)} classes ({', '.join(names)}); "
            "give one weight per class, in this order"
        )
    return weights
