"""Montage cells as inline SVG: the image once per case, contours as vectors, error maps as small pictures.

Vector contours stay sharp on paper and on a phone, and a 256 x 256 case costs its image and a few kB per policy.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
import numpy.typing as npt
from contourpy import LineType, contour_generator
from markupsafe import Markup
from PIL import Image

from flows.reporting.data import MontageCase
from reward_data.types import Bool, Float32, UInt8

CLASS_COLOURS = ("#e69f00", "#56b4e9", "#cc79a7", "#009e73", "#f0e442")
ERROR_MAP = "magma"
ERROR_LEVELS = 24  # colours of an error map
ERROR_SIDE = 160  # larger error maps are averaged down: they are smooth, and there are many


class MontageCell(NamedTuple):
    """One picture of a row: the overlay, and the error map below it where there is one."""

    title: str
    dice: float | None
    overlay: Markup
    error: Markup | None


class MontageRow(NamedTuple):
    """One case: its cells in order, the first being image and truth."""

    case_id: str
    cells: tuple[MontageCell, ...]


def class_colour(index: int) -> str:
    """Colour of foreground class ``index`` (0-based)."""
    return CLASS_COLOURS[index % len(CLASS_COLOURS)]


def montage_rows(cases: Sequence[MontageCase], num_foreground: int) -> tuple[MontageRow, ...]:
    """Every case as a row of cells: image with truth, then one cell per policy."""
    return tuple(_row(number, case, num_foreground) for number, case in enumerate(cases))


def _row(number: int, case: MontageCase, classes: int) -> MontageRow:
    image_id = f"case-image-{number}"
    picture = f'<image id="{image_id}" {_box(case.image)} href="{png_uri(case.image)}"/>'
    truth = "" if case.truth is None else outlines(case.truth, classes, "truth")
    in_colour = "" if case.truth is None else outlines(case.truth, classes, "mask")
    first = MontageCell(
        "image" if case.truth is None else "truth", None, _svg(case.image, picture + in_colour), None
    )
    cells = [first]
    for column in case.columns:
        inside = f'<use href="#{image_id}"/>' + outlines(column.mask, classes, "mask") + truth
        error = None
        if column.error is not None:
            wrong = "" if case.truth is None else outline(column.mask != case.truth, "wrong", "#7dd3fc")
            colours = f'<image {_box(case.image)} href="{png_uri(error_colours(averaged(column.error)))}"/>'
            error = _svg(case.image, colours + wrong)
        cells.append(MontageCell(column.title, column.dice, _svg(case.image, inside), error))
    return MontageRow(case.case_id, tuple(cells))


def _box(image: UInt8) -> str:
    return f'width="{image.shape[1]}" height="{image.shape[0]}" preserveAspectRatio="none"'


def _svg(image: UInt8, inside: str) -> Markup:
    height, width = image.shape[:2]
    return Markup(f'<svg viewBox="0 0 {width} {height}" role="img">{inside}</svg>')


def outlines(mask: UInt8, classes: int, css_class: str) -> str:
    """The border of every foreground class as SVG paths, the first class on top. Shape: (H, W)."""
    return "".join(outline(mask == k + 1, css_class, class_colour(k)) for k in reversed(range(classes)))


def outline(region: Bool, css_class: str, colour: str) -> str:
    """The border of a region as one SVG path in pixel units (pixel centres at .5); empty for an empty region."""
    if not region.any():
        return ""
    field = np.pad(region.astype(np.float64), 1)
    lines = contour_generator(z=field, line_type=LineType.Separate).lines(0.5)
    path = "".join(
        "M" + "L".join(f"{x - 0.5:.4g} {y - 0.5:.4g}" for x, y in np.asarray(line)) + "Z" for line in lines
    )
    return f'<path class="{css_class}" stroke="{colour}" d="{path}"/>'


def error_colours(error: Float32) -> UInt8:
    """Probability of being wrong in [0, 1] as colours. Shape: (H, W) -> (H, W, 3)."""
    table = matplotlib.colormaps[ERROR_MAP].resampled(ERROR_LEVELS)
    colours: UInt8 = table(np.clip(np.nan_to_num(error), 0.0, 1.0), bytes=True)[..., :3]
    return colours


def averaged(error: Float32) -> Float32:
    """The map averaged over blocks until no side exceeds ERROR_SIDE; a rest at the border is cut. Shape: (H, W)."""
    block = -(-max(error.shape) // ERROR_SIDE)
    height, width = (max(side // block, 1) for side in error.shape)
    cut = error[: height * block, : width * block]
    blocks: Float32 = cut.reshape(height, cut.shape[0] // height, width, cut.shape[1] // width).mean((1, 3))
    return blocks


def colour_bar_uri() -> str:
    """The error map's colours from 0 to 1, left to right."""
    ramp = np.linspace(0, 1, 128, dtype=np.float32)[None]
    return png_uri(error_colours(ramp))


def png_uri(image: npt.NDArray[np.uint8]) -> str:
    """A PNG data URI, colour pictures with ERROR_LEVELS colours. Shape: (H, W) or (H, W, 3)."""
    picture = Image.fromarray(np.ascontiguousarray(image))
    if image.ndim == 3:
        picture = picture.quantize(ERROR_LEVELS, dither=Image.Dither.NONE)
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
