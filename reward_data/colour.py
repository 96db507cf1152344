"""Colour pictures of grey things."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from reward_data.types import Float32

WEIGHTS = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in the luminance (ITU-R BT.601, as of JPEG and of DICOM's YBR)."""

TOLERANCE = 0.04  # of the file's largest value: more is colour, less is the chroma of a lossy codec


def luminance(colours: npt.NDArray[Any]) -> Float32:
    """Grey from colour; a pixel whose channels are equal keeps its value. Shape: (3, ...) -> (1, ...), float32."""
    red, green, blue = colours
    weighted = np.einsum("c,c...->...", np.array(WEIGHTS, np.float32), colours)
    grey: Float32 = np.where((red == green) & (green == blue), red, weighted).astype(np.float32)[None]
    return grey


def coloured_share(colours: npt.NDArray[Any]) -> float:
    """Share of the pixels whose channels differ visibly. Shape: (3, ...) -> () in [0, 1]."""
    values = colours.astype(np.float32)
    spread = values.max(axis=0) - values.min(axis=0)
    return float((spread > TOLERANCE * np.abs(values).max()).mean())
