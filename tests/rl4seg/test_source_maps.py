import numpy as np
import pytest

from rl4seg.metrics import reliability
from rl4seg.source_maps import (
    LogisticMap,
    fit_logistic,
    fit_softmax_temperature,
    fit_to_target,
    log_odds,
    rate_on,
    sigmoid,
)


def pixels(rate: float, seed: int, count: int = 40_000) -> tuple[np.ndarray, np.ndarray]:
    """Right pixels have z ~ N(1, 1), wrong ones N(-1, 1): the posterior is sigma(2 z + log(rate / (1 - rate)))."""
    rng = np.random.default_rng(seed)
    right = rng.random(count) < rate
    return rng.normal(np.where(right, 1.0, -1.0), 1.0)[:, None], right


def test_the_planted_map_is_found() -> None:
    # two unit normals a distance 2 apart: log likelihood ratio ((z + 1)^2 - (z - 1)^2) / 2 = 2 z
    z, right = pixels(0.9, 0)
    found = fit_logistic(z, right)
    assert found.weights[0] == pytest.approx(2, abs=0.08)
    assert found.bias == pytest.approx(np.log(0.9 / 0.1), abs=0.08)
    assert found.rate == pytest.approx(right.mean(), abs=1e-4)


def test_another_rate_moves_the_bias_by_the_log_odds() -> None:
    moved = LogisticMap((2.0,), 0.0, 0.5).at_rate(0.8)
    assert (moved.weights, moved.rate) == ((2.0,), 0.8)
    assert moved.bias == pytest.approx(np.log(4))


def test_the_rate_of_unlabelled_pixels_is_found_and_mends_the_calibration() -> None:
    z, right = pixels(0.93, 1)
    there, truth = pixels(0.6, 2)
    plain, moved = fit_logistic(z, right), fit_to_target(z, right, there)
    assert moved.rate == pytest.approx(0.6, abs=0.02)
    assert reliability(plain(there), truth).ece > 0.1
    assert reliability(moved(there), truth).ece < 0.02


def test_no_errors_no_pixels_and_no_target() -> None:
    z = np.zeros((9, 1))
    # nine right pixels: (9 + .5) / (9 + 1)
    assert fit_logistic(z, np.ones(9, bool))(z) == pytest.approx(0.95)
    assert fit_logistic(z, np.zeros(9, bool))(z) == pytest.approx(0.05)
    assert fit_logistic(np.zeros((0, 2)), np.zeros(0, bool))(np.zeros((1, 2))) == pytest.approx(0.5)
    assert rate_on(LogisticMap((1.0,), 0.0, 0.7), np.zeros((0, 1))) == 0.7


def test_separable_and_constant_features_stay_finite() -> None:
    z = np.array([[-1.0, 3.0], [-2.0, 3.0], [1.0, 3.0], [2.0, 3.0]])
    found = fit_logistic(z, z[:, 0] > 0)
    assert np.isfinite([*found.weights, found.bias]).all()
    assert ((found(z) > 0.5) == (z[:, 0] > 0)).all()


def test_the_estimated_rate_stays_inside_its_limits() -> None:
    assert rate_on(LogisticMap((5.0,), 0.0, 0.5), np.full((100, 1), -50.0)) == pytest.approx(0.01)


def test_log_odds_of_certainty_are_finite_and_undone() -> None:
    assert sigmoid(log_odds(np.array([0.0, 0.25, 1.0]))) == pytest.approx([0, 0.25, 1], abs=2e-6)
    assert sigmoid(np.array([-1e4, 1e4])).tolist() == [0, 1]


def test_the_planted_softmax_temperature_is_found() -> None:
    rng = np.random.default_rng(3)
    honest = rng.normal(size=(20_000, 3))
    p = np.exp(honest) / np.exp(honest).sum(1, keepdims=True)
    labels = (p.cumsum(1) > rng.random((20_000, 1))).argmax(1)
    assert fit_softmax_temperature((honest * 2.5).astype(np.float32), labels) == pytest.approx(2.5, rel=0.06)
    assert fit_softmax_temperature(np.zeros((0, 3), np.float32), np.zeros(0, np.int64)) == 1
