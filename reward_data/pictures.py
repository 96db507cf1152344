"""PNG and JPEG files (Pillow). They know no pixel size and no orientation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from reward_data.errors import DataError
from reward_data.native import NativeImage, decoding, ending, picture_affine


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    with decoding(path), Image.open(path) as image:
        image.load()
        yield image


def read(path: Path) -> NativeImage:
    """Read a picture: grey has C = 1 (16 bits with their full range), colour C = 3 (of 16 bits the upper 8); no alpha.

    Raises: DataError for a missing, truncated or broken file.
    """
    with _opened(path) as image:
        grey = image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;16")
        alpha = image.mode in ("LA", "La")
        values = np.asarray(image.convert("L") if alpha else image if grey else image.convert("RGB"))
    channels = values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0)
    return NativeImage(channels, (1.0, 1.0), picture_affine((1.0, 1.0)), spacing_known=False)


def read_labels(path: Path) -> npt.NDArray[Any]:
    """Class values of a PNG; palette pictures give their indices. Shape: (H, W).

    Raises: DataError as ``read``, for colour pictures, and for JPEG, which does not keep label values.
    """
    if ending(path) != ".png":
        raise DataError(f"{path}: JPEG does not keep label values exactly; give labels as PNG or NIfTI")
    with _opened(path) as image:
        values = np.asarray(image)
    if values.ndim == 3 and (values[..., :3] == values[..., :1]).all():
        values = values[..., 0]
    if values.ndim != 2:
        raise DataError(
            f"{path}: labels in colour (Shape: {values.shape}), wanted one grey or palette value per pixel; "
            "save the class values as a grey PNG"
        )
    return values


def write(path: Path, values: npt.NDArray[Any]) -> None:
    """Write 8-bit grey values as PNG. Shape: (H, W), uint8."""
    Image.fromarray(values).save(path)
