import pytest
import torch

from rl4seg.rollout import action_log_prob, gumbel_from_normal, sample_masks, smooth_normal


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_action_log_prob_picks_the_class() -> None:
    logits = torch.tensor([0.2, 0.3, 0.5]).log().reshape(1, 3, 1, 1).expand(1, 3, 2, 2)
    actions = torch.tensor([[[[0, 1], [2, 2]]]])
    got = action_log_prob(logits, actions).exp().flatten().tolist()
    assert got == pytest.approx([0.2, 0.3, 0.5, 0.5], abs=1e-6)


@pytest.mark.parametrize("mix", [0.0, 0.9])
def test_every_pixel_follows_the_policy_whatever_the_correlation(mix: float) -> None:
    # 4,000 draws of p = (.2, .3, .5): standard error of a share is below .008, so .03 is almost four of them
    logits = torch.tensor([0.2, 0.3, 0.5]).log().reshape(1, 3, 1, 1).expand(1, 3, 4, 4)
    masks = sample_masks(logits, 4000, mix, 1.0, generator(), first_argmax=False)
    for value, wanted in enumerate((0.2, 0.3, 0.5)):
        shares = (masks == value).float().mean((0, 1))
        assert (shares - wanted).abs().max().item() < 0.03


def test_smooth_noise_is_standard_and_correlated() -> None:
    noise = smooth_normal((2000, 16, 16), 0.9, 2.0, generator())
    assert noise.var(0).mean().item() == pytest.approx(1, abs=0.03)
    neighbours = (noise[:, :, 1:] * noise[:, :, :-1]).mean().item()
    assert neighbours > 0.7
    white = smooth_normal((2000, 16, 16), 0.0, 2.0, generator())
    assert abs((white[:, :, 1:] * white[:, :, :-1]).mean().item()) < 0.02


def test_gumbel_has_its_mean() -> None:
    # the mean of a standard Gumbel is Euler's constant
    assert gumbel_from_normal(torch.randn(200_000, generator=generator())).mean().item() == pytest.approx(
        0.5772, abs=0.01
    )


def test_first_mask_may_be_the_argmax_and_seeds_repeat() -> None:
    logits = torch.randn(2, 3, 8, 8, generator=generator(1))
    a = sample_masks(logits, 3, 0.9, 1.0, generator(5), True)
    b = sample_masks(logits, 3, 0.9, 1.0, generator(5), True)
    assert torch.equal(a, b)
    assert torch.equal(a[:, 0], logits.argmax(1))
    assert not torch.equal(a[:, 1], a[:, 2])


def test_three_dimensions() -> None:
    logits = torch.randn(1, 2, 4, 6, 8, generator=generator())
    assert sample_masks(logits, 2, 0.5, 1.0, generator(), False).shape == (1, 2, 4, 6, 8)
