"""From an image to a mask, an error map, trust, verdict and areas."""

from __future__ import annotations

import numpy as np
import pytest

from reward_data.errors import ConfigError, DataError
from reward_data.preprocess import PreprocessConfig
from rl4seg.configs.predict import OptimisedConfig, PredictConfig
from rl4seg.predictor import Predictor
from tests.rl4seg.copying import RUNTIME, copying_package, image_of, ring


def predictor(*args: object, options: PredictConfig | None = None, **kwargs: object) -> Predictor:
    return Predictor(copying_package(*args, **kwargs), RUNTIME, options)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(16, 16), (12, 16), (16, 7)])
def test_an_image_on_the_networks_grid_lands_on_its_pixels(shape: tuple[int, ...]) -> None:
    """The largest side fills the grid of 16, the other is padded: nothing is interpolated."""
    labels = np.random.default_rng(0).integers(0, 3, shape).astype(np.uint8)
    result = predictor((16, 16)).predict(image_of(labels), (1.0, 1.0))
    assert np.array_equal(result.mask, labels)
    assert result.error.shape == shape
    assert result.error.max() < 1e-4  # 1 - .99995


def test_a_larger_image_comes_back_in_its_own_shape() -> None:
    labels = ring((64, 48), 0.2, 0.4)
    result = predictor((32, 32)).predict(image_of(labels), (1.0, 1.0))
    assert result.mask.shape == labels.shape
    assert (result.mask == labels).mean() > 0.9
    assert ((result.error >= 0) & (result.error <= 1)).all()
    # sure inside of the disc, unsure on its border
    assert result.error[32, 24] < 1e-3 < 0.1 < result.error.max()


def test_a_volume_too() -> None:
    labels = ring((8, 8, 6), 0.3, 0.45)
    result = predictor(preprocess=PreprocessConfig(shape=(8, 8, 6), intensity="none_clip01")).predict(
        image_of(labels), (1.0, 1.0, 1.0)
    )
    assert np.array_equal(result.mask, labels)
    assert result.areas["lv"] == np.count_nonzero(labels == 1)


def test_areas_are_pixels_times_their_size_and_none_without_one() -> None:
    labels = np.zeros((16, 16), np.uint8)
    labels[4:8, 4:9], labels[10, 3:6] = 1, 2  # 20 and 3 pixels
    used = predictor(
        (16, 16), preprocess=PreprocessConfig(shape=(16, 16), aspect="pixels", intensity="none_clip01")
    )
    # of .5 x .2 = .1 mm2
    assert used.predict(image_of(labels), (0.5, 0.2)).areas == pytest.approx({"lv": 2.0, "myo": 0.3})
    assert used.predict(image_of(labels)).areas == {"lv": None, "myo": None}


def test_the_error_map_is_one_minus_reward_times_softmax_and_without_a_reward_net_the_softmax() -> None:
    labels = ring((16, 16), 0.2, 0.4)
    alone = predictor((16, 16)).predict(image_of(labels))
    both = predictor((16, 16), reward=True).predict(image_of(labels))
    assert (alone.trusted_by, both.trusted_by) == ("softmax", "calibrated reward x softmax")
    # the reward net says .5 where the mask is lv
    assert both.error[labels == 1] == pytest.approx(1 - 0.5 * (1 - alone.error[labels == 1]))
    assert both.error[labels != 1] == pytest.approx(alone.error[labels != 1], abs=1e-6)


def test_the_flag_marks_what_is_trusted_less_than_its_threshold() -> None:
    labels = ring((16, 16), 0.2, 0.4)
    trust = predictor((16, 16), reward=True).predict(image_of(labels)).trust
    # half of the lv's n pixels of all N are expected to be wrong: 1 - n / 2 / 2N
    n, total = np.count_nonzero(labels == 1), np.count_nonzero(labels)
    assert trust == pytest.approx(1 - n / 4 / total, abs=1e-3)
    for threshold, flagged in ((trust + 0.01, True), (trust - 0.01, False), (None, None)):
        used = predictor((16, 16), reward=True, flag=threshold)
        assert used.predict(image_of(labels)).flagged is flagged


def test_an_empty_mask_is_not_trusted() -> None:
    image = np.zeros((1, 16, 16), np.float32)
    image[0, 3, 3] = 0.1  # background still, but not a constant image
    result = predictor((16, 16), flag=0.5).predict(image)
    assert not result.mask.any()
    assert (result.trust, result.flagged) == (0.0, True)


def test_broken_rules_are_named_with_their_values() -> None:
    labels = np.zeros((16, 16), np.uint8)
    labels[2:4, 2:5], labels[10:12, 10] = 1, 1  # 6 pixels, and 2 in another piece: a quarter of 8
    result = predictor((16, 16)).predict(image_of(labels))
    (broken,) = result.violated
    assert not result.valid
    assert (broken.rule, broken.value) == ("one_piece(lv)", 0.25)
    clean = predictor((16, 16), options=PredictConfig(post_process=True)).predict(image_of(labels))
    assert clean.valid
    assert np.count_nonzero(clean.mask) == 6


def test_a_batch_of_many_shapes_gives_what_each_image_gives_alone() -> None:
    shapes = [(32, 32), (20, 28), (32, 32), (40, 40), (9, 5), (32, 30)]
    used = predictor((16, 16), reward=True)
    prepared = [used.prepare(image_of(ring(shape, 0.2, 0.4)), (1.0, 1.0)) for shape in shapes]
    together = [used.finish(*pair) for pair in zip(prepared, used.infer(prepared), strict=True)]
    for shape, result in zip(shapes, together, strict=True):
        alone = used.predict(image_of(ring(shape, 0.2, 0.4)), (1.0, 1.0))
        assert result.mask.shape == shape
        assert np.array_equal(result.mask, alone.mask)
        assert result.error == pytest.approx(alone.error, abs=1e-6)
    assert used.infer([]) == []


@pytest.mark.parametrize(
    ("image", "spacing", "words"),
    [
        (np.zeros((1, 0, 4)), None, "at least"),
        (np.ones((4, 4)), None, "image[None]"),
        (np.full((1, 4, 4), np.nan), None, "NaN"),
        (np.full((1, 4, 4), 7.0), None, "7 everywhere"),
        (np.eye(4)[None].repeat(3, 0), None, "convert it to grey"),
        (np.eye(4)[None], (1.0,), "one positive size"),
        (np.eye(4)[None], (1.0, 0.0), "one positive size"),
        (np.eye(4)[None, ..., None], None, "spatial axes"),
    ],
)
def test_what_cannot_be_predicted_is_refused(
    image: np.ndarray, spacing: tuple[float, ...], words: str
) -> None:
    with pytest.raises(DataError) as refused:
        predictor((16, 16)).prepare(image, spacing, name="a.png")
    assert words in str(refused.value).replace("a pixel at least", "at least")
    assert "a.png" in str(refused.value)


def test_optimisation_without_reward_net_or_flag_is_refused() -> None:
    with pytest.raises(ConfigError, match="no reward net"):
        predictor(options=PredictConfig(optimised=OptimisedConfig(rounds=1)))
    with pytest.raises(ConfigError, match="no trust flag"):
        predictor(reward=True, options=PredictConfig(optimised=OptimisedConfig(rounds=1, when="flagged")))
