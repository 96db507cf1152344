"""The expected Dice of a mask, and probabilities by test-time augmentation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rl4seg.configs.predict import AugmentedConfig, PredictConfig
from rl4seg.sight import expected_dice, look
from tests.rl4seg.copying import RUNTIME, copying_package, image_of, ring


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


def test_expected_dice_is_zero_where_nothing_is_right_and_for_an_empty_mask() -> None:
    mask = np.zeros((8, 8), np.uint8)
    assert expected_dice(np.zeros((8, 8), np.float32), mask) == 0
    mask[3, 3] = 1  # one pixel and its 8 neighbours, 9 wrong: 1 - 9 / 2 < 0
    assert expected_dice(np.ones((8, 8), np.float32), mask) == 0
    mask[:] = 1  # to the border, a margin that ends there: 1 - 64 / 128
    assert expected_dice(np.ones((8, 8), np.float32), mask) == 0.5


def test_augmentation_is_the_same_in_every_batch_and_blurs_the_border() -> None:
    options = PredictConfig(augmented=AugmentedConfig(draws=4))
    package = copying_package((32, 32))
    images = torch.from_numpy(np.stack([image_of(ring((32, 32), r, 0.4)) for r in (0.1, 0.2, 0.3)]))
    (alone,) = look(package, images[2:], options, False, RUNTIME)
    together = look(package, images, options, False, RUNTIME)[2]
    (plain,) = look(package, images[2:], PredictConfig(), False, RUNTIME)
    assert together.probabilities == pytest.approx(alone.probabilities, abs=1e-6)
    assert np.abs(plain.probabilities - alone.probabilities).max() > 0.1
    assert (plain.mask == alone.mask).mean() > 0.9
