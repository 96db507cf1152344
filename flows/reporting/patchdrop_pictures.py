"""Where policies look: the patches they keep over example images, and how often each patch is kept."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from PIL import Image

from flows.reporting.figures import Chart, draw
from flows.reporting.patchdrop import POLICIES, ArmFolder, DropContent
from reward_data.case_store import CaseStore
from reward_data.image_store import ImageStore
from reward_data.types import Bool, UInt8

EXAMPLES = 8
SIDE = 144  # px of an example's longer side at least
DIM = 0.22  # share of the light that a dropped patch keeps


class Example(NamedTuple):
    """One image seen by one policy: what it keeps, and what is answered."""

    uri: str
    words: str
    right: bool


class Strip(NamedTuple):
    """One image: as it is, then by every policy."""

    title: str
    cells: tuple[Example, ...]


def example_strips(
    folders: Sequence[ArmFolder], store: ImageStore, grid: tuple[int, ...]
) -> tuple[Strip, ...]:
    """Held-out images spread over the set, with the patches that the policies of the first seed keep."""
    seed = folders[0].seed
    rows = {
        folder.arm: _read(folder.evaluation / "images.csv")
        for folder in folders
        if folder.seed == seed and folder.arm in POLICIES
    }
    places = store.test
    if not rows or len(grid) != 2:
        return ()
    chosen = np.unique(np.linspace(0, len(places) - 1, EXAMPLES).round().astype(int))
    return tuple(_strip(int(i), store.pixels(places[i : i + 1])[0], rows, grid) for i in chosen)


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _strip(place: int, pixels: UInt8, rows: dict[str, list[dict[str, str]]], grid: tuple[int, ...]) -> Strip:
    picture = np.moveaxis(pixels, 0, -1)
    cells = [Example(_uri(picture), "image", True)]
    for arm, table in rows.items():
        row = table[place]
        keep = np.array([bit == "1" for bit in row["keep"]])
        words = f"{arm}: {row['predicted']}, {row['patches']} kept"
        cells.append(Example(_uri(dimmed(picture, keep, grid)), words, row["right"] == "1"))
    return Strip(next(iter(rows.values()))[place]["label"], tuple(cells))


def dimmed(picture: npt.NDArray[Any], keep: Bool, grid: tuple[int, ...]) -> UInt8:
    """A picture whose dropped patches are dark. Shape: (H, W, C), keep (P) -> (H, W, C)."""
    rows, columns = (size // cells for size, cells in zip(picture.shape[:2], grid))
    shown = np.kron(keep.reshape(grid), np.ones((rows, columns)))[..., None]
    values: UInt8 = (picture * np.where(shown > 0, 1.0, DIM)).astype(np.uint8)
    return values


def _uri(picture: npt.NDArray[Any]) -> str:
    """A PNG, enlarged by whole pixels. Shape: (H, W, C)."""
    factor = max(1, -(-SIDE // max(picture.shape[:2])))
    large = picture.repeat(factor, 0).repeat(factor, 1)
    stream = io.BytesIO()
    Image.fromarray(large[..., 0] if large.shape[-1] == 1 else large).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def keep_maps(content: DropContent) -> tuple[Chart, ...]:
    """How often each patch is kept, one map per policy."""
    if len(content.grid) != 2:
        return ()
    return tuple(
        draw(
            f"{row.arm}: how often each patch is kept",
            f"Share of the images of which {row.arm} keeps each patch",
            _map_painter(np.array(row.often).reshape(content.grid)),
            (3.0, 2.6),
        )
        for row in content.rows
        if row.arm in POLICIES
    )


def _map_painter(often: npt.NDArray[Any]) -> Any:
    def paint(axes: Axes) -> None:
        shown = axes.imshow(often, vmin=0, vmax=max(1e-9, float(often.max())), cmap="viridis")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(visible=False)
        if max(often.shape) <= 8:
            for (row, column), value in np.ndenumerate(often):
                light = value > 0.6 * often.max()
                axes.text(
                    column, row, f"{value:.2f}", ha="center", va="center", fontsize=7,
                    color="black" if light else "white",
                )  # fmt: skip
        axes.figure.colorbar(shown, ax=axes, shrink=0.8)

    return paint


# --- windows of large images -----------------------------------------------------------------------------------------


def window_strips(
    cases: Path, store: CaseStore, grid: tuple[int, ...], policy: str, most: int = 4
) -> tuple[Strip, ...]:
    """Held-out images, their truth, and the windows that the policy keeps."""
    if len(grid) != 2:
        return ()
    rows = [row for row in _read(cases) if row["arm"] == policy][:most]
    strips = []
    for row in rows:
        place = store.ids.index(row["case"])
        picture = np.moveaxis((store.images([place])[0] * 255).astype(np.uint8), 0, -1)
        label = store.labels([place])[0]
        truth = (label * (255 // max(1, store.num_classes - 1))).astype(np.uint8)[..., None]
        keep = np.array([bit == "1" for bit in row["keep"]])
        words = f"kept {row['windows']} of {len(keep)}, mIoU {float(row['miou']):.3f}"
        cells = (
            Example(_uri(picture[::2, ::2]), "image", True),
            Example(_uri(truth[::2, ::2]), "truth", True),
            Example(_uri(dimmed(picture, keep, grid)[::2, ::2]), words, True),
        )
        strips.append(Strip(row["case"], cells))
    return tuple(strips)
