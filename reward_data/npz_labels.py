"""The labels of an NPZ as words: one whole number or name per image, or one clear error."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reward_data.errors import DataError


def label_words(
    path: Path, label: npt.NDArray[Any], count: int, names: Sequence[str], labelled: bool = True
) -> list[str]:
    """The label of each image: a name, or a whole number as text.

    Args:
        label: whole numbers (also as floats) or names. Shape: (count).
        names: the names of the classes 0, 1, ..; empty where numbers stay numbers.
        labelled: every label counts; else -1 or an empty name may stand for none.

    Raises:
        DataError: another shape, number or type of labels, or a label that is no class.
    """
    if label.ndim != 1:
        raise DataError(
            f"{path}: labels of shape {label.shape}, wanted one whole number or name per image; of one-hot rows take "
            "the place of the 1 (argmax)"
        )
    if len(label) != count:
        raise DataError(f"{path}: {len(label)} labels for {count} images; wanted one each")
    values = _plain(path, label).tolist()
    return [_word(f"{path} image {row}", value, names, labelled) for row, value in enumerate(values)]


def _plain(path: Path, label: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Labels as integers or text. Shape: (N) -> (N)."""
    if label.dtype.kind == "f":
        broken = np.flatnonzero(~np.isfinite(label) | (label != np.floor(label)))
        if len(broken):
            raise DataError(
                f"{path} image {broken[0]}: label {label[broken[0]]}, wanted a whole number or a name; correct it"
            )
    if label.dtype.kind in "fbiu":
        return label.astype(np.int64)
    if label.dtype.kind == "S":
        return np.char.decode(label, "utf-8", "backslashreplace")
    if label.dtype.kind != "U":
        raise DataError(f"{path}: labels of type {label.dtype}, wanted whole numbers or names; convert them")
    return label


def _word(where: str, value: int | str, names: Sequence[str], labelled: bool) -> str:
    if names:
        if not isinstance(value, int) or not 0 <= value < len(names):
            raise DataError(f"{where}: label {value!r}, but classes names 0..{len(names) - 1}")
        return names[value]
    if labelled and isinstance(value, int) and value < 0:
        raise DataError(
            f"{where}: label {value}; number the classes 0..K-1, and take out images without a class"
        )
    if labelled and not str(value).strip():
        raise DataError(f"{where}: no label given; name its class or take the image out")
    return str(value)
