"""Routing maps: which net decided each patch, over the image, beside truth, masks and uncertainty."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup
from PIL import Image

from flows.reporting.montage import class_colour
from flows.reporting.paser import net_colour
from reward_data.types import Float32, UInt8

TINT = 0.42


class MapCell(NamedTuple):
    """One picture with its caption."""

    title: str
    picture: Markup


class MapRow(NamedTuple):
    """One case."""

    case_id: str
    cells: tuple[MapCell, ...]


def routing_maps(evaluation: Path, nets: Sequence[str]) -> tuple[MapRow, ...]:
    """The examples of an evaluation as rows of pictures; images of two axes only."""
    with np.load(evaluation / "examples.npz") as file:
        found = {name: file[name] for name in file.files}
    if found["truth"].ndim != 3:
        return ()
    grid = tuple(int(count) for count in found["grid"])
    return tuple(_row(found, place, nets, grid) for place in range(len(found["ids"])))


def _row(found: dict[str, np.ndarray], place: int, nets: Sequence[str], grid: tuple[int, ...]) -> MapRow:
    grey = found["images"][place].mean(0).astype(np.uint8)
    masks, truth = found["masks"][place], found["truth"][place]
    actions = found["actions"][place].reshape(grid)
    cells = [
        MapCell("who decides", _svg(_coloured(_uris(grey)), grey.shape, _squares(actions, grey.shape))),
        MapCell("uncertainty", _svg(_coloured(_uris(_heat(found["uncertain"][place]))), grey.shape, "")),
        MapCell("truth", _mask(grey, truth)),
        MapCell(f"{nets[0]} · {_right(masks[0], truth)} % right", _mask(grey, masks[0])),
        MapCell(f"routed · {_right(masks[1], truth)} % right", _mask(grey, masks[1])),
        MapCell(f"{nets[-1]} · {_right(masks[2], truth)} % right", _mask(grey, masks[2])),
    ]
    return MapRow(str(found["ids"][place]), tuple(cells))


def _right(mask: UInt8, truth: UInt8) -> str:
    return f"{100 * float((mask == truth).mean()):.1f}"


def _mask(grey: UInt8, mask: UInt8) -> Markup:
    """The image with every class but the first in its colour."""
    picture = np.repeat(grey[..., None], 3, 2).astype(np.float64)
    for value in range(1, int(mask.max(initial=0)) + 1):
        colour = 255 * np.array(matplotlib.colors.to_rgb(class_colour(value - 1)))
        picture[mask == value] = (1 - TINT) * picture[mask == value] + TINT * colour
    return _svg(_coloured(_uris(picture.round().astype(np.uint8))), grey.shape, "")


def _heat(uncertain: Float32) -> UInt8:
    colours: UInt8 = matplotlib.colormaps["magma"](np.clip(uncertain.astype(np.float32), 0, 1), bytes=True)[
        ..., :3
    ]
    return colours


def _squares(actions: np.ndarray, shape: tuple[int, ...]) -> str:
    """A tinted square per patch, in the colour of its net."""
    height, width = shape[0], shape[1]
    rows, columns = actions.shape
    parts = []
    for i in range(rows):
        for j in range(columns):
            top, bottom = i * height // rows, (i + 1) * height // rows
            left, right = j * width // columns, (j + 1) * width // columns
            parts.append(
                f'<rect x="{left}" y="{top}" width="{right - left}" height="{bottom - top}" '
                f'fill="{net_colour(int(actions[i, j]))}" fill-opacity="{TINT}" stroke="#111" stroke-width="0.4"/>'
            )
    return "".join(parts)


def _uris(picture: UInt8) -> str:
    stream = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(picture))
    if picture.ndim == 3:
        image = image.quantize(64, dither=Image.Dither.NONE)
    image.save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _coloured(uri: str) -> str:
    return f'href="{uri}"'


def _svg(image: str, shape: tuple[int, ...], inside: str) -> Markup:
    height, width = shape[0], shape[1]
    box = f'width="{width}" height="{height}" preserveAspectRatio="none"'
    return Markup(f'<svg viewBox="0 0 {width} {height}" role="img"><image {box} {image}/>{inside}</svg>')
