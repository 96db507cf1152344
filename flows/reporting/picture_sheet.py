"""Images side by side with outlines, titles and a legend, as one PNG for the dashboard.

Drawn on Figure objects alone, never pyplot's state, so that it may run in any thread. The colours are the report's.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from PIL import Image

from flows.reporting.figures import INK
from flows.reporting.montage import class_colour, error_colours
from reward_data.types import Bool, Float32, UInt8

PNG_BYTES = (
    300_000  # of a picture at most: the server keeps it three times (artifact, its collection, an event)
)
DPI = 100
WIDTH = 1150  # px of a sheet at most
GAP = 8  # px between frames
LINE = 16  # px of a line of text
WRONG, DIFFERENT, TRUTH = "#ff2d55", "#7dd3fc", "#ffffff"
DARK = "#1f2937"  # behind the legend, which has white lines in it
MOST_CLASSES = 10  # in a legend

Key = Line2D | Patch
Style = Literal["solid", "dashed"]


@dataclass(frozen=True)
class Frame:
    """One image of a sheet, with what is drawn on it.

    ``image`` Shape: (H, W) or (H, W, 3), in [0, 1]. ``mask`` is outlined in its classes' colours, ``truth`` dashed in
    white, ``different`` dashed in light blue, ``wrong`` filled in the signal colour. Shape: (H, W).
    ``pixel_aspect``: height of a pixel over its width.
    """

    image: Float32
    title: str = ""
    mask: UInt8 | None = None
    truth: UInt8 | None = None
    different: Bool | None = None
    wrong: Bool | None = None
    pixel_aspect: float = 1.0


@dataclass(frozen=True)
class Sheet:
    """Rows of frames above a legend.

    ``row_names``: one per row, or none. ``keys``: legend entries beside the classes. ``ramp``: what the two ends of
    the error colours mean, where an error map is shown. ``side``: px of a frame's width at most.
    """

    rows: Sequence[Sequence[Frame]]
    class_names: Sequence[str]
    row_names: Sequence[str] = ()
    keys: Sequence[Key] = ()
    ramp: tuple[str, str] | None = None
    side: int = 280

    def png(self) -> bytes:
        """Drawn and encoded."""
        keys = [line_key(name, class_colour(i)) for i, name in enumerate(self.class_names[:MOST_CLASSES])]
        plan = _Plan.of(self, [*keys, *self.keys])
        figure = Figure(figsize=(plan.width / DPI, plan.height / DPI), dpi=DPI, facecolor="white")
        window = _window([frame.image for row in self.rows for frame in row])
        for number, row in enumerate(self.rows):
            for place, frame in enumerate(row):
                _paint(figure.add_axes(plan.box(number, place)), frame, window, int(plan.side / 6.9))
            if self.row_names:
                x, y, _, tall = plan.box(number, 0)
                _text(figure, x - 14 / plan.width, y + tall / 2, self.row_names[number])
        if self.ramp:
            _ramp(figure, self.ramp, plan)
        if plan.keys:
            _legend(figure, plan)
        return drawn(figure)


@dataclass(frozen=True)
class _Plan:
    """Where everything lies, in px from the top left. ``tops``: of the rows' frames; ``side``, ``tall``: of a frame."""

    width: int
    height: int
    left: int
    side: int
    tall: int
    tops: tuple[int, ...]
    keys: Sequence[Key]
    keys_per_row: int

    @classmethod
    def of(cls, sheet: Sheet, keys: Sequence[Key]) -> _Plan:
        """Room for the titles of every row, the legend and the colour ramp."""
        columns, left = max(len(row) for row in sheet.rows), 26 if sheet.row_names else GAP
        side = min(sheet.side, (WIDTH - left) // columns - GAP)
        first = sheet.rows[0][0]
        shape = first.image.shape[0] / first.image.shape[1] * first.pixel_aspect
        tall = round(side * min(max(shape, 0.4), 1.6))
        tops, end = [], 0
        for row in sheet.rows:
            lines = max(frame.title.count("\n") + 1 if frame.title else 0 for frame in row)
            tops.append(end + GAP + LINE * lines)
            end = tops[-1] + tall
        width = max(left + columns * (side + GAP), 520)
        longest = max((len(str(key.get_label())) for key in keys), default=0)
        keys_per_row = max(1, min(len(keys), width // (56 + 7 * longest)))
        legend = 21 * -(-len(keys) // keys_per_row) + 12 if keys else 0
        height = end + GAP + legend + (28 if sheet.ramp else 0)
        left += (width - left - columns * (side + GAP)) // 2
        return cls(width, height, left, side, tall, tuple(tops), keys, keys_per_row)

    def box(self, row: int, column: int) -> tuple[float, float, float, float]:
        """Left, bottom, width and height of a frame as shares of the figure."""
        x, bottom = self.left + column * (self.side + GAP), self.tops[row] + self.tall
        return (
            x / self.width,
            1 - bottom / self.height,
            self.side / self.width,
            self.tall / self.height,
        )


def line_key(label: str, colour: str, style: Style = "solid") -> Key:
    """A legend entry for an outline."""
    return Line2D([], [], color=colour, linestyle=style, linewidth=2, label=label)


def area_key(label: str, colour: str) -> Key:
    """A legend entry for a filled region."""
    return Patch(color=colour, label=label)


def drawn(figure: Figure) -> bytes:
    """A figure as PNG; see `encoded`."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return encoded(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]))


def encoded(image: Image.Image, most: int = PNG_BYTES) -> bytes:
    """A PNG of at most ``most`` bytes: in full colour, else of 256 colours, else smaller until it fits."""
    image = image.convert("RGB")
    png = _png(image)
    excess = len(png) / (2.5 * most)  # 256 colours take about 0.4 of the bytes
    while len(png) > most:
        image = _smaller(image, excess)
        png = _png(image.quantize(256, dither=Image.Dither.NONE))
        excess = 1.1 * len(png) / most
        if max(image.size) <= 32:
            break
    return png


def _smaller(image: Image.Image, excess: float) -> Image.Image:
    """An image of ``excess`` times fewer pixels, as it is for an excess below one."""
    scale = min(1.0, excess**-0.5)
    return image.resize(
        (max(int(image.width * scale), 1), max(int(image.height * scale), 1)), Image.Resampling.LANCZOS
    )


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()


def _paint(axes: Axes, frame: Frame, window: tuple[float, float], letters: int) -> None:
    low, high = window
    axes.imshow(frame.image, cmap="gray", vmin=low, vmax=high, aspect=frame.pixel_aspect)
    if frame.wrong is not None:
        filled = np.where(frame.wrong[..., None], to_rgba(WRONG, 0.6), 0)
        axes.imshow(filled, aspect=frame.pixel_aspect, interpolation="nearest")
    if frame.mask is not None:
        for value in _classes(frame.mask)[::-1]:
            _outline(axes, frame.mask == value, class_colour(value - 1), "solid", 1.5)
    if frame.truth is not None:
        for value in _classes(frame.truth):
            _outline(axes, frame.truth == value, TRUTH, "dashed", 1.1)
    if frame.different is not None:
        _outline(axes, frame.different, DIFFERENT, "dashed", 1.0)
    axes.set_axis_off()
    lines = [_shortened(line, letters) for line in frame.title.split("\n")]
    axes.set_title("\n".join(lines), fontsize=9.5, color=INK, pad=4, parse_math=False)


def _classes(mask: UInt8) -> list[int]:
    found: list[int] = np.unique(mask[mask > 0]).tolist()
    return found


def _outline(axes: Axes, region: Bool, colour: str, style: Style, width: float) -> None:
    if region.any():
        rows, columns = (np.arange(-1, side + 1) for side in region.shape)
        field = np.pad(region.astype(np.float32), 1)
        axes.contour(columns, rows, field, levels=(0.5,), colors=colour, linestyles=style, linewidths=width)
        axes.set(xlim=(-0.5, region.shape[1] - 0.5), ylim=(region.shape[0] - 0.5, -0.5))


def _shortened(text: str, letters: int) -> str:
    """The text with its middle left out where it is too long."""
    half = max(letters // 2 - 1, 1)
    return text if len(text) <= letters else f"{text[:half]}…{text[-half:]}"


def _window(images: Sequence[Float32]) -> tuple[float, float]:
    """Black and white point, shared by all grey images of a sheet."""
    grey = [image.ravel() for image in images if image.ndim == 2]
    if not grey:
        return 0.0, 1.0
    low, high = np.percentile(np.concatenate(grey), (0.5, 99.5))
    return float(low), float(max(high, low + 1e-3))


def _text(figure: Figure, x: float, y: float, text: str) -> None:
    style = {"rotation": 90, "ha": "center", "va": "center", "fontsize": 9.5, "color": INK}
    figure.text(x, y, text, style, parse_math=False)


def _ramp(figure: Figure, ends: tuple[str, str], plan: _Plan) -> None:
    bottom = plan.height - plan.tops[-1] - plan.tall - 25
    box = ((plan.width / 2 - 80) / plan.width, bottom / plan.height, 160 / plan.width, 12 / plan.height)
    axes = figure.add_axes(box)
    axes.imshow(error_colours(np.linspace(0, 1, 128, dtype=np.float32)[None]), aspect="auto")
    axes.set_axis_off()
    for text, x, side in zip(ends, (-0.04, 1.04), ("right", "left"), strict=True):
        axes.text(x, 0.5, text, transform=axes.transAxes, ha=side, va="center", fontsize=9, color=INK)


def _legend(figure: Figure, plan: _Plan) -> None:
    legend = figure.legend(
        handles=list(plan.keys),
        loc="lower center",
        ncols=plan.keys_per_row,
        fontsize=9,
        facecolor=DARK,
        edgecolor=DARK,
        framealpha=1,
        labelcolor="white",
        bbox_to_anchor=(0.5, 2 / plan.height),
        borderaxespad=0.2,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
