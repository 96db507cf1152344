"""The expected Dice of a mask."""

from __future__ import annotations

import numpy as np
import pytest

from reward_data.trust import expected_dice


def test_expected_dice_by_hand() -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[8:12, 6:14] = 2  # 32 pixels; reach round(.15 sqrt 32 = .85) = 1
    error = np.zeros((20, 20), np.float32)
    assert expected_dice(error, mask) == 1
    error[8, 6:14] = 0.5  # 4 wrong pixels inside: 1 - 4 / 64
    assert expected_dice(error, mask) == pytest.approx(0.9375)
    error[12, 6:10] = 1.0  # 4 missed below: 1 - 8 / 64
    assert expected_dice(error, mask) == pytest.approx(0.875)
    error[14:] = 1.0  # too far away to matter
    assert expected_dice(error, mask) == pytest.approx(0.875)


def test_the_margin_of_a_volume_goes_by_the_cube_root_of_its_pixels() -> None:
    mask = np.zeros((20, 20, 20), np.uint8)
    mask[5:17, 5:17, 5:17] = 1  # 1728 pixels; reach round(.15 x 12) = 2; by the square root it would be 6
    error = np.zeros((20, 20, 20), np.float32)
    error[3, 5:17, 5:17] = 1.0  # 144 missed, two above: 1 - 144 / 3456
    assert expected_dice(error, mask) == pytest.approx(1 - 1 / 24)
    error[2] = 1.0  # three above
    assert expected_dice(error, mask) == pytest.approx(1 - 1 / 24)


def test_expected_dice_is_zero_where_nothing_is_right_and_for_an_empty_mask() -> None:
    mask = np.zeros((8, 8), np.uint8)
    assert expected_dice(np.zeros((8, 8), np.float32), mask) == 0
    mask[3, 3] = 1  # one pixel and its 8 neighbours, 9 wrong: 1 - 9 / 2 < 0
    assert expected_dice(np.ones((8, 8), np.float32), mask) == 0
    mask[:] = 1  # to the border, a margin that ends there: 1 - 64 / 128
    assert expected_dice(np.ones((8, 8), np.float32), mask) == 0.5
