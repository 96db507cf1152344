"""Overlays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.predict import palette
from flows.predict.palette import class_index, heat, outlined, picture
from flows.predict.pictures import GAP, LINE, MOST_FRAMES, Look, outline, plane_of, save_moving, save_overlay


def look(shape: tuple[int, int] = (60, 40), aspect: float = 1.0) -> Look:
    image = np.tile(np.linspace(0, 300, shape[1], dtype=np.float32), (shape[0], 1))
    mask = np.zeros(shape, np.uint8)
    mask[20:40, 10:30] = 1
    mask[24:36, 14:26] = 2
    return Look(image, mask, np.zeros(shape, np.float32), aspect, ("a case", "trust 0.50"), True)


def test_outlines_lie_on_the_border_of_their_pixels() -> None:
    """Rows 20..39 and columns 10..29: the border runs at 20, 40, 10 and 30, half a pixel of the corners is cut."""
    (line,) = outline(look().mask > 0)
    assert line.min(0) == pytest.approx([10, 20])
    assert line.max(0) == pytest.approx([30, 40])
    assert outline(np.zeros((3, 3), bool)) == []


def test_a_strong_outline_has_the_colour_of_its_class_and_a_weak_one_shines_through() -> None:
    indices = np.full((1, 3), palette.WHITE, np.uint8)
    outlined(indices, np.array([[0, 85, 255]], np.uint8), 1)
    assert indices.tolist() == [[palette.WHITE, class_index(1, 1, 7), class_index(1, 3, 7)]]
    shown = np.asarray(picture(indices).convert("RGB"))
    assert shown[0, 0].tolist() == [255, 255, 255]
    assert shown[0, 2].tolist() == [0x56, 0xB4, 0xE9]
    # a third of #56b4e9 and two thirds of the eighth grey, 255 x 7.5 / 8 = 239
    assert shown[0, 1].tolist() == pytest.approx([188, 219, 237], abs=1)


def test_errors_from_0_to_1_use_the_whole_ramp() -> None:
    assert heat(np.array([0, 1, 2, -1], np.float32)).tolist() == [96, 127, 127, 96]


@pytest.mark.parametrize(
    ("shape", "aspect", "panel"), [((60, 40), 1.0, (320, 213)), ((60, 40), 0.5, (240, 320))]
)
def test_panels_are_as_high_and_wide_as_the_image_is_in_mm(
    tmp_path: Path, shape: tuple[int, int], aspect: float, panel: tuple[int, int]
) -> None:
    """60 x 40 pixels of which each is half as high as wide are 30 x 40."""
    save_overlay(tmp_path / "o.png", tmp_path / "t.jpg", look(shape, aspect), ("lv", "myo"))
    with Image.open(tmp_path / "o.png") as image:
        assert image.size == (2 * panel[1] + GAP, panel[0] + 2 * LINE + 4 + LINE + 6)
        colours = {tuple(colour) for colour in np.asarray(image.convert("RGB")).reshape(-1, 3).tolist()}
    assert {(0xE6, 0x9F, 0), (0x56, 0xB4, 0xE9)} <= colours
    with Image.open(tmp_path / "t.jpg") as small:
        assert max(small.size) <= 232


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (7, 2000)])
def test_odd_shapes_and_long_names_are_drawn_too(tmp_path: Path, shape: tuple[int, int]) -> None:
    ones = np.ones(shape, np.float32)
    odd = Look(ones, ones.astype(np.uint8), ones, 1.0, ("x" * 900, "ü — 心"), True)
    save_overlay(tmp_path / "o.png", tmp_path / "t.jpg", odd, [f"structure {n}" for n in range(9)])
    Image.open(tmp_path / "o.png").load()


def test_a_film_keeps_its_length_in_time(tmp_path: Path) -> None:
    """250 frames of 30 ms are every third one, 84, of 90 ms."""
    looks = [replace(look((20, 20)), mask=np.roll(look((20, 20)).mask, n)) for n in range(2)] * 125
    save_moving(tmp_path / "f.gif", looks, ("lv", "myo"), 30.0)
    with Image.open(tmp_path / "f.gif") as film:
        assert film.n_frames <= MOST_FRAMES
        total = 0
        for number in range(film.n_frames):
            film.seek(number)
            total += film.info["duration"]
    assert total == 84 * 90


def test_a_volume_is_shown_by_its_fullest_slice() -> None:
    mask = np.zeros((4, 5, 6), np.uint8)
    mask[1:3, 1:3, 4], mask[1, 1, 2] = 1, 1
    image = np.arange(120, dtype=np.float32).reshape(1, 4, 5, 6)
    shown, plane, _ = plane_of(image, mask, image[0])
    assert plane.sum() == 4
    assert np.array_equal(shown, image[0, ..., 4])
