"""Probabilities by test-time augmentation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rl4seg.configs.predict import AugmentedConfig, PredictConfig
from rl4seg.sight import look
from tests.rl4seg.copying import RUNTIME, copying_package, image_of, ring


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
