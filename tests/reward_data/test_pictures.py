from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reward_data.pictures import read

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4)


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_grey_modes_have_one_channel(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(GREY.astype(np.uint16)) if mode == "I;16" else Image.fromarray(GREY).convert(mode)
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png").values, GREY[None])


def test_black_and_white_is_0_and_1(tmp_path: Path) -> None:
    Image.fromarray(GREY > 5).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png").values[0], GREY > 5)


def test_palette_is_its_colours(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), mode=None).convert("P")
    image.putdata([0, 1])
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png").values[:, 0], [[10, 40], [20, 50], [30, 60]])
