import numpy as np
import pytest

from reward_data.post_processing import post_process


def drawn(*rows: str) -> np.ndarray:
    """A mask from its picture, a digit per pixel."""
    return np.array([[int(letter) for letter in row] for row in rows], np.uint8)


def test_the_largest_piece_of_every_class_stays_and_holes_are_filled() -> None:
    mask = drawn(
        "0000000001",  # a lost pixel of class 1
        "0222220000",
        "0211120020",  # one of class 2
        "0210120000",  # a hole in class 1
        "0211120000",
        "0222220000",
    )
    wanted = drawn(
        "0000000000",
        "0222220000",
        "0211120000",
        "0211120000",
        "0211120000",
        "0222220000",
    )
    before = mask.copy()
    assert (post_process(mask) == wanted).all()
    assert (mask == before).all()  # its argument is left alone
    assert (post_process(wanted) == wanted).all()


def test_a_speck_inside_another_class_takes_that_class() -> None:
    # the lost 2 becomes background, which class 1 encloses, and so becomes 1
    mask = drawn("11111002", "12111002", "11111002")
    assert (post_process(mask) == drawn("11111002", "11111002", "11111002")).all()


def test_pixels_that_touch_by_a_corner_are_one_piece() -> None:
    mask = drawn("1000", "0100", "0011")
    assert (post_process(mask) == mask).all()


def test_a_bay_is_no_hole() -> None:
    mask = drawn("11111", "10001", "10111")  # open at the bottom
    assert (post_process(mask) == mask).all()


@pytest.mark.parametrize("shape", [(5, 6), (4, 5, 6)])
def test_an_empty_mask_and_a_single_pixel_stay(shape: tuple[int, ...]) -> None:
    mask = np.zeros(shape, np.uint8)
    assert (post_process(mask) == 0).all()
    mask[(2,) * len(shape)] = 1
    assert (post_process(mask) == mask).all()
    assert (post_process(np.ones(shape, np.uint8)) == 1).all()


def test_in_three_dimensions_a_hole_is_closed_on_all_sides() -> None:
    ball = np.zeros((7, 7, 7), np.uint8)
    ball[1:6, 1:6, 1:6] = 2
    holed, tunnelled = ball.copy(), ball.copy()
    holed[3, 3, 3] = 0
    tunnelled[3, 3, :] = 0  # a hole in every plane, but open at both ends
    assert (post_process(holed) == ball).all()
    assert (post_process(tunnelled) == tunnelled).all()
