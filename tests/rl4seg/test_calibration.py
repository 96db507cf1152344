import pytest
import torch

from rl4seg.calibration import calibrated_probability, fit_softmax_temperature, fit_temperature
from rl4seg.metrics import reliability


def overconfident(temperature: float, count: int = 20_000) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    honest = torch.randn(count, generator=generator) * 1.5
    correct = torch.rand(count, generator=generator) < honest.sigmoid()
    return honest * temperature, correct


def test_the_planted_temperature_is_found() -> None:
    logits, correct = overconfident(4.2)
    assert fit_temperature(logits, correct) == pytest.approx(4.2, rel=0.06)


def test_calibration_lowers_ece_by_the_formula_that_is_used() -> None:
    logits, correct = overconfident(4.2)
    temperature = fit_temperature(logits, correct)
    before = reliability(calibrated_probability(logits, 1.0).numpy(), correct.numpy()).ece
    after = reliability(calibrated_probability(logits, temperature).numpy(), correct.numpy()).ece
    assert before > 0.1
    assert after < 0.02


def test_limits_and_nothing_to_fit() -> None:
    assert fit_temperature(torch.zeros(0), torch.zeros(0, dtype=torch.bool)) == 1.0
    perfect = torch.tensor([5.0, -5.0])
    assert fit_temperature(perfect, perfect > 0) == pytest.approx(0.05, rel=0.01)


def softmax_pixels(temperature: float, count: int = 20_000) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are ``temperature`` times too sure, and classes drawn from the honest softmax."""
    generator = torch.Generator().manual_seed(1)
    honest = torch.randn(count, 3, generator=generator)
    drawn = torch.multinomial(honest.softmax(1), 1, generator=generator)[:, 0]
    return honest * temperature, drawn


@pytest.mark.parametrize("planted", [0.5, 2.5])
def test_the_planted_softmax_temperature_is_found(planted: float) -> None:
    logits, classes = softmax_pixels(planted)
    assert fit_softmax_temperature(logits, classes) == pytest.approx(planted, rel=0.06)


def test_many_pixels_are_thinned_out_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, classes = softmax_pixels(2.5)
    monkeypatch.setattr("rl4seg.calibration.MOST_PIXELS", 5_000)  # every fourth
    assert fit_softmax_temperature(logits, classes) == fit_softmax_temperature(logits[::4], classes[::4])


def test_softmax_limits_and_nothing_to_fit() -> None:
    assert fit_softmax_temperature(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)) == 1.0
    sure = torch.tensor([[0.5, 0, 0], [0, 0.5, 0]])
    assert fit_softmax_temperature(sure, torch.tensor([0, 1])) == pytest.approx(0.05, rel=0.01)
    assert fit_softmax_temperature(sure, torch.tensor([1, 0])) == pytest.approx(20, rel=0.01)
