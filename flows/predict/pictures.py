"""Overlays: an image with the outlines of its mask beside the error map, as PNG; sequences as GIF, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from contourpy import LineType, contour_generator
from PIL import Image, ImageDraw, ImageFont

from flows.predict.palette import (
    BLACK,
    FLAG,
    GREYS,
    HEAT,
    HEATS,
    WHITE,
    class_index,
    heat,
    outlined,
    picture,
)
from reward_data.atomic import atomic_file
from reward_data.types import Bool, Float32, UInt8

SMALLEST, LARGEST = 320, 512  # px of a panel's longer side
THUMBNAIL = 232
MOVING_SIDE, MOST_FRAMES = 300, 120  # of a GIF
FRAME_MS = 60.0  # where the file does not say
LINE = 19  # px of a line of text
GAP = 6
PEN = 2  # px of an outline
FINE = 2  # outlines are drawn so many times finer


@dataclass(frozen=True)
class Look:
    """One frame to draw. Shapes: (H, W). ``aspect``: height of a pixel over its width; ``caption``: lines of text."""

    image: Float32
    mask: UInt8
    error: Float32
    aspect: float
    caption: tuple[str, ...]
    flagged: bool


def plane_of(image: Float32, mask: UInt8, error: Float32) -> tuple[Float32, UInt8, Float32]:
    """Two axes of an image: the first channel, of a volume the slice with most foreground.

    Shape: (C, *S), (*S), (*S) -> (H, W) each.
    """
    if mask.ndim == 2:
        return image.mean(0) if len(image) == 3 else image[0], mask, error
    most = int((mask > 0).reshape(-1, mask.shape[-1]).sum(0).argmax())
    return image[0, ..., most], mask[..., most], error[..., most]


def save_overlay(path: Path, thumbnail: Path, look: Look, names: Sequence[str]) -> None:
    """Both panels with caption and legend as PNG, and a small JPEG of the left one; ``names`` of the classes."""
    side = int(np.clip(max(look.image.shape), SMALLEST, LARGEST))
    sheet = picture(_sheet(look, names, side))
    _save(path, sheet, format="PNG", compress_level=1)
    height, width = _size(look, side)
    head = _head(look)
    panel = sheet.crop((0, head, width, head + height)).convert("RGB")
    panel.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)
    _save(thumbnail, panel, format="JPEG", quality=82)


def save_moving(path: Path, looks: Sequence[Look], names: Sequence[str], frame_ms: float | None) -> None:
    """All frames as GIF, at most `MOST_FRAMES` of them, at the speed of the sequence."""
    step = -(-len(looks) // MOST_FRAMES)
    frames = [picture(_sheet(look, names, MOVING_SIDE)) for look in looks[::step]]
    _save(
        path,
        frames[0],
        format="GIF",
        save_all=True,
        append_images=frames[1:],
        duration=max(20, round((frame_ms or FRAME_MS) * step)),
        loop=0,
        optimize=False,
    )


def _save(path: Path, image: Image.Image, **settings: object) -> None:
    with atomic_file(path, durable=False) as temporary:
        image.save(temporary, **settings)  # type: ignore[arg-type]


def _head(look: Look) -> int:
    """Rows of the caption."""
    return LINE * len(look.caption) + 4


def _size(look: Look, side: int) -> tuple[int, int]:
    """(height, width) of a panel whose longer side is ``side``, pixels as high and wide as they are."""
    height, width = look.image.shape[0] * look.aspect, float(look.image.shape[1])
    scale = side / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _sheet(look: Look, names: Sequence[str], side: int) -> UInt8:
    """Caption, the two panels, legend, as palette indices."""
    size = _size(look, side)
    lines = _outlines(look.mask, size)
    height, width = size
    head = _head(look)
    sheet: UInt8 = np.full((head + height + LINE + 6, 2 * width + GAP), BLACK, np.uint8)
    sheet[:head] = _caption(look.caption, sheet.shape[1], look.flagged)
    for left, panel in ((0, _greys(look.image)), (width + GAP, heat(look.error))):
        view = sheet[head : head + height, left : left + width]
        view[:] = _resized(panel, size)
        _lay_over(view, lines)
    sheet[head + height :] = _legend(tuple(names), sheet.shape[1], width + GAP)
    return sheet


def _greys(image: Float32) -> UInt8:
    """The image between its darkest and brightest half percent. Shape: (H, W)."""
    step = max(1, round((image.size / 20_000) ** 0.5))
    low, high = np.percentile(image[::step, ::step], (0.5, 99.5))
    scaled = (image - low) * ((GREYS - 1) / max(float(high - low), 1e-6))
    greys: UInt8 = np.rint(scaled.clip(0, GREYS - 1)).astype(np.uint8)
    return greys


def _resized(indices: UInt8, size: tuple[int, int]) -> UInt8:
    """Neighbours in a ramp are alike, so that indices may be interpolated."""
    image = Image.fromarray(indices).resize((size[1], size[0]), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.array(image)


class _Outline(NamedTuple):
    """Of one class, how much of each pixel of a box is covered, 0..255."""

    number: int
    box: tuple[slice, slice]
    coverage: UInt8


def _outlines(mask: UInt8, size: tuple[int, int]) -> list[_Outline]:
    """The outlines of all classes on a panel of (height, width), to be laid over in this order: the first on top."""
    scale = np.array(size[::-1]) * FINE / np.array(mask.shape[::-1])
    found = []
    for value in range(int(mask.max(initial=0)), 0, -1):
        lines = [line * scale for line in outline(mask == value)]
        if lines:
            found.append(_drawn(lines, value - 1, size))
    return found


def _drawn(lines: list[npt.NDArray[np.float64]], number: int, size: tuple[int, int]) -> _Outline:
    """Lines of (x, y) in fine pixels, as wide as the pen."""
    points = np.concatenate(lines)
    first = np.maximum(points.min(0) // FINE - PEN, 0).astype(int)
    last = np.minimum(points.max(0) // FINE + PEN + 1, size[::-1]).astype(int)
    fine = Image.new("L", (int(last[0] - first[0]) * FINE, int(last[1] - first[1]) * FINE))
    pen = ImageDraw.Draw(fine)
    for line in lines:
        pen.line((line - first * FINE).ravel().tolist(), 255, PEN * FINE)
    box = (slice(first[1], last[1]), slice(first[0], last[0]))
    return _Outline(number, box, np.asarray(fine.reduce(FINE)))


def _lay_over(indices: UInt8, lines: Sequence[_Outline]) -> None:
    for line in lines:
        outlined(indices[line.box], line.coverage, line.number)


def outline(region: Bool) -> list[npt.NDArray[np.float64]]:
    """The border of a region as closed lines of (x, y), pixel i from i to i + 1. Shape: (H, W) -> [(n, 2)]."""
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    if not len(rows):
        return []
    box = region[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    field = np.pad(box.astype(np.float64), 1)
    lines = contour_generator(z=field, line_type=LineType.Separate).lines(0.5)
    return [np.asarray(line) - 0.5 + (columns[0], rows[0]) for line in lines]


# --- words -----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(13)


def _words(text: str, x: int, width: int, height: int = LINE) -> UInt8:
    """Text in light grey on black, with its left edge at ``x``. Shape: (height, width)."""
    strip = Image.new("L", (width, height))
    ImageDraw.Draw(strip).text((x, height // 2), text, 235, _font(), anchor="lm")
    return (np.asarray(strip).astype(np.uint16) * WHITE // 255).astype(np.uint8)


def _caption(lines: Sequence[str], width: int, flagged: bool) -> UInt8:
    """Lines of text; a flagged mask has a warning colour before the last."""
    strip = np.full((LINE * len(lines) + 4, width), BLACK, np.uint8)
    for number, line in enumerate(lines):
        marked = flagged and number == len(lines) - 1
        x = 22 if marked else 6
        top = 3 + LINE * number
        strip[top : top + LINE] = _words(_shortened(line, width - x - 6), x, width)[: len(strip) - top]
        if marked:
            strip[top + 5 : top + 14, 7:16] = FLAG
    return strip


def _shortened(text: str, width: int) -> str:
    """The text with its end left out where it is too long."""
    length = _font().getlength(text)
    while length > width and len(text) > 2:
        text = text[: min(len(text) - 2, int(len(text) * width / length))].rstrip(" ,·…") + "…"
        length = _font().getlength(text)
    return text


@lru_cache(maxsize=64)
def _legend(names: tuple[str, ...], width: int, middle: int) -> UInt8:
    """The classes below the image, the ramp of errors below the map."""
    strip = np.full((LINE + 6, width), BLACK, np.uint8)
    x = 6
    for number, name in enumerate(names):
        length = int(_font().getlength(name))
        if x + 26 + length > middle:
            break
        strip[7:18, x : x + 11] = class_index(number)
        strip[3 : 3 + LINE, x + 17 : x + 17 + length + 2] = _words(name, 0, length + 2)
        x += 17 + length + 16
    bar, text = min(90, (width - middle) // 3), "probability of error  0"
    length = int(_font().getlength(text))
    if middle + 6 + length + 14 + bar < width:
        x = middle + 6
        strip[3 : 3 + LINE, x : x + length + 2] = _words(text, 0, length + 2)
        x += length + 7
        strip[8:17, x : x + bar] = (HEAT + np.arange(bar) * HEATS // bar).astype(np.uint8)
        strip[3 : 3 + LINE, x + bar + 6 : x + bar + 16] = _words("1", 0, 10)[:, : width - x - bar - 6]
    return strip
