"""256 colours for overlays: greys for the image, a ramp for error maps, and outlines over either.

A picture of 256 colours takes half the time and space of one in full colour, and a GIF can hold it as it is. Outlines
are smooth all the same: each class has its colour in three strengths over eight greys.
"""

from __future__ import annotations

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image

from flows.reporting.montage import CLASS_COLOURS, ERROR_MAP
from reward_data.types import Float32, UInt8

GREYS, HEATS = 96, 32
HEAT = GREYS  # index of the first error colour
CLASS = GREYS + HEATS  # of the first class colour
STRENGTHS, UNDER = 3, 8  # of an outline; greys below it
FLAG = CLASS + len(CLASS_COLOURS) * STRENGTHS * UNDER  # the colour of a warning
WHITE, BLACK = GREYS - 1, 0


def class_index(number: int, strength: int = STRENGTHS, under: int = 0) -> int:
    """Index of foreground class ``number`` (0-based), as strong as 1..3, over grey 0..7."""
    return CLASS + ((number % len(CLASS_COLOURS)) * STRENGTHS + strength - 1) * UNDER + under


def _colours() -> bytes:
    table = np.zeros((256, 3))
    table[:GREYS] = np.linspace(0, 255, GREYS)[:, None]
    table[HEAT:CLASS] = 255 * matplotlib.colormaps[ERROR_MAP](np.linspace(0, 1, HEATS))[:, :3]
    for number, name in enumerate(CLASS_COLOURS):
        colour = 255 * np.array(matplotlib.colors.to_rgb(name))
        for strength in range(1, STRENGTHS + 1):
            for under in range(UNDER):
                share, grey = strength / STRENGTHS, 255 * (under + 0.5) / UNDER
                table[class_index(number, strength, under)] = share * colour + (1 - share) * grey
    table[FLAG] = (255, 140, 60)
    return np.rint(table).astype(np.uint8).tobytes()


COLOURS = _colours()


def picture(indices: UInt8) -> Image.Image:
    """A picture of the palette. Shape: (H, W)."""
    height, width = indices.shape
    image = Image.frombytes("P", (width, height), np.ascontiguousarray(indices).tobytes())
    image.putpalette(COLOURS)
    return image


def heat(error: Float32) -> UInt8:
    """Indices of an error map in [0, 1]. Any shape."""
    indices: UInt8 = (HEAT + np.rint(error.clip(0, 1) * (HEATS - 1))).astype(np.uint8)
    return indices


def outlined(indices: UInt8, coverage: npt.NDArray[np.uint8], number: int) -> None:
    """Lay the outline of a class over a picture, in place.

    ``coverage``: how much of a pixel it takes, 0..255. Shape: (H, W) both.
    """
    strength = (coverage.astype(np.uint16) * STRENGTHS + 127) // 255
    touched = strength > 0
    below, chosen = indices[touched], strength[touched]
    under = np.where(below < GREYS, below.astype(np.uint16) * UNDER // GREYS, 0)
    indices[touched] = class_index(number, 1) + (chosen - 1) * UNDER + under
