"""Windows over large images."""

from __future__ import annotations

import numpy as np
import pytest

from reward_data.errors import DataError
from reward_data.preprocess import PreprocessConfig
from rl4seg.configs.predict import PredictConfig, WindowConfig
from rl4seg.predictor import Predictor
from tests.rl4seg.copying import RUNTIME, copying_package, image_of, ring

FIXED = PreprocessConfig(shape=(16, 16), spacing_mm=(1.0, 1.0), intensity="none_clip01")


def using(mode: str, preprocess: PreprocessConfig | None = None, scale: float = 1.0) -> Predictor:
    window = WindowConfig.model_validate({"mode": mode, "scale": scale})
    package = copying_package((16, 16), reward=True, preprocess=preprocess)
    return Predictor(package, RUNTIME, PredictConfig(window=window))


def test_windows_put_every_pixel_in_its_place() -> None:
    labels = np.random.default_rng(1).integers(0, 3, (41, 27)).astype(np.uint8)
    used = using("sliding")
    assert used.prepare(image_of(labels)).image.shape == (1, 41, 27)
    result = used.predict(image_of(labels))
    assert np.array_equal(result.mask, labels)
    assert result.error[labels == 1] == pytest.approx(0.5, abs=1e-3)


def test_an_image_smaller_than_a_window() -> None:
    labels = ring((9, 12), 0.2, 0.4)
    assert np.array_equal(using("sliding").predict(image_of(labels)).mask, labels)


def test_scale_is_network_pixels_per_native_pixel() -> None:
    labels = ring((60, 40), 0.2, 0.4)
    used = using("sliding", scale=0.5)
    prepared = used.prepare(image_of(labels), (2.0, 2.0))
    assert prepared.image.shape == (1, 30, 20)
    assert prepared.geometry.spacing_mm == (4.0, 4.0)
    assert used.predict(image_of(labels)).mask.shape == (60, 40)


def test_a_model_with_a_fixed_pixel_size_slides_where_the_image_does_not_fit() -> None:
    """30 x 20 pixels of 1 mm do not fit 16 x 16 of 1 mm; of .5 mm they do."""
    image = image_of(ring((30, 20), 0.2, 0.4))
    assert using("auto", FIXED).prepare(image, (1.0, 1.0)).windowed
    assert not using("auto", FIXED).prepare(image, (0.5, 0.5)).windowed
    assert using("sliding", FIXED).prepare(image, (0.5, 0.5)).image.shape == (1, 15, 10)
    assert np.array_equal(
        using("auto", FIXED).predict(image, (1.0, 1.0)).mask, (image[0] * 2).astype(np.uint8)
    )
    with pytest.raises(DataError, match="enlarge preprocess"):
        using("none", FIXED).prepare(image, (1.0, 1.0))
    with pytest.raises(DataError, match="no known pixel size"):
        using("auto", FIXED).prepare(image)


def test_a_model_without_one_shrinks_the_image_unless_it_is_told_to_slide() -> None:
    image = image_of(ring((60, 40), 0.2, 0.4))
    assert not using("auto").prepare(image).windowed
    assert not using("none").prepare(image).windowed
    assert using("sliding").prepare(image).windowed
