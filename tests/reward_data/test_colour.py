from __future__ import annotations

import numpy as np

from reward_data.colour import coloured_share, luminance


def test_luminance_by_hand_and_grey_kept_exactly() -> None:
    # .299 * 100 + .587 * 50 + .114 * 10 = 29.9 + 29.35 + 1.14 = 60.39
    grey = luminance(np.array([[100, 7], [50, 7], [10, 7]], np.uint8))
    assert grey.shape == (1, 2)
    assert grey.dtype == np.float32
    np.testing.assert_allclose(grey[0, 0], 60.39, rtol=1e-6)
    assert grey[0, 1] == 7


def test_every_grey_value_is_kept_exactly() -> None:
    values = np.arange(65536, dtype=np.uint16)
    np.testing.assert_array_equal(luminance(np.stack([values] * 3))[0], values)


def test_coloured_share_passes_over_the_chroma_of_a_codec() -> None:
    # largest value 200: more than 8 is colour. Spreads 0, 8, 9, 200: two of four
    colours = np.array([[50, 58, 59, 200], [50, 50, 50, 0], [50, 50, 50, 0]], np.uint8)
    assert coloured_share(colours) == 0.5
    assert coloured_share(np.zeros((3, 4), np.uint8)) == 0
