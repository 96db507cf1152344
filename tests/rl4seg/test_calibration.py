import pytest
import torch

from rl4seg.calibration import calibrated_probability, fit_temperature
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
