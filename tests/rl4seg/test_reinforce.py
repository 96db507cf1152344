"""REINFORCE against the exact gradient of the expected reward, by enumeration of all masks of a tiny image."""

import itertools

import pytest
import torch
from torch import Tensor

from rl4seg.configs.reward_tuning import Baseline, ReinforceConfig
from rl4seg.reinforce import baseline_values, mask_log_prob, reinforce_loss, sample
from rl4seg.task_rewards import RewardContext, miou

BASELINES: tuple[Baseline, ...] = ("leave_one_out", "greedy", "batch_mean", "none")
IMAGES, SAMPLES, TRIALS = 2, 4, 6000
CONTEXT = RewardContext(("background", "thing"), [(1.0, 1.0)] * IMAGES)
TRUTH = torch.tensor([[[0, 1], [1, 1]], [[0, 0], [1, 0]]])
LOGITS = torch.tensor([0.3, -0.2, 0.5, 0.1, -0.4, 0.8, 0.0, -0.6, 0.9, 0.2, -0.3, 0.4, -0.1, 0.6, -0.5, 0.7])


def logits() -> Tensor:
    return LOGITS.reshape(IMAGES, 2, 2, 2).double()


def exact_gradient() -> Tensor:
    """Gradient of mean_i sum_a pi(a | x_i) R_i(a) over all 16 masks of 2 x 2 pixels."""
    leaf = logits().requires_grad_()
    masks = (
        torch.tensor(list(itertools.product((0, 1), repeat=4))).reshape(1, 16, 2, 2).repeat(IMAGES, 1, 1, 1)
    )
    probability = mask_log_prob(leaf, masks).exp()
    assert torch.allclose(probability.sum(1), torch.ones(IMAGES, dtype=torch.float64))
    (probability * miou(masks, TRUTH, CONTEXT)).sum(1).mean().backward()
    assert leaf.grad is not None
    return leaf.grad


def estimates(baseline: Baseline) -> Tensor:
    """One estimate of the gradient per trial. Shape: (TRIALS, IMAGES, 2, 2, 2)."""
    leaf = logits().repeat(TRIALS, 1, 1, 1).requires_grad_()
    config = ReinforceConfig(samples=SAMPLES, baseline=baseline)
    masks = sample(leaf, config, torch.Generator().manual_seed(5))
    reward = miou(masks, TRUTH.repeat(TRIALS, 1, 1), CONTEXT).double().reshape(TRIALS, IMAGES, SAMPLES)
    greedy = miou(logits().argmax(1)[:, None], TRUTH, CONTEXT)[:, 0].double()
    log_prob = mask_log_prob(leaf, masks).reshape(TRIALS, IMAGES, SAMPLES)
    losses = [reinforce_loss(lp, r, baseline_values(r, baseline, greedy)) for lp, r in zip(log_prob, reward)]
    (-torch.stack(losses).sum()).backward()
    assert leaf.grad is not None
    return leaf.grad.reshape(TRIALS, IMAGES, 2, 2, 2)


@pytest.mark.parametrize("baseline", BASELINES)
def test_the_mean_estimate_is_the_gradient_of_the_expected_reward(baseline: Baseline) -> None:
    exact, found = exact_gradient(), estimates(baseline)
    mean, error = found.mean(0), found.std(0) / TRIALS**0.5
    assert ((mean - exact).abs() < 4.5 * error).all()
    # The size along the true direction. With a mask in its own baseline it would be .75 (leave one out, M = 4) or
    # .875 (batch mean, B M = 8); with a wrong sign -1. The bound is several standard errors and still tells them apart.
    along = (found * exact).flatten(1).sum(1) / exact.square().sum()
    assert along.std() / TRIALS**0.5 < 0.02
    assert along.mean().item() == pytest.approx(1.0, abs=0.06)


def test_leave_one_out_has_the_lower_variance() -> None:
    variance = {name: estimates(name).var(0).sum().item() for name in BASELINES}
    assert variance["leave_one_out"] < 0.5 * variance["none"]
    assert variance["greedy"] < variance["none"]
    assert variance["batch_mean"] < 0.5 * variance["none"]


def test_baselines_by_hand() -> None:
    reward = torch.tensor([[1.0, 0.4, 0.1], [0.0, 0.5, 1.0]])
    # the mean of the two others of the row: (.4 + .1) / 2, (1 + .1) / 2, (1 + .4) / 2; ...
    wanted = torch.tensor([[0.25, 0.55, 0.7], [0.75, 0.5, 0.25]])
    torch.testing.assert_close(baseline_values(reward, "leave_one_out"), wanted)
    # the sum is 3, so the mean of the five others is (3 - R) / 5
    wanted = torch.tensor([[0.4, 0.52, 0.58], [0.6, 0.5, 0.4]])
    torch.testing.assert_close(baseline_values(reward, "batch_mean"), wanted)
    greedy = baseline_values(reward, "greedy", torch.tensor([0.3, 0.9]))
    torch.testing.assert_close(greedy, torch.tensor([[0.3] * 3, [0.9] * 3]))
    assert not baseline_values(reward, "none").any()


@pytest.mark.parametrize(
    ("shape", "baseline"), [((2, 1), "leave_one_out"), ((1, 1), "batch_mean"), ((2, 2), "greedy")]
)
def test_a_baseline_without_anything_to_compare_with_is_refused(
    shape: tuple[int, int], baseline: Baseline
) -> None:
    with pytest.raises(ValueError, match="baseline"):
        baseline_values(torch.rand(shape), baseline)


def test_one_mask_per_image_is_compared_with_the_other_images() -> None:
    found = baseline_values(torch.tensor([[0.2], [0.6], [1.0]]), "batch_mean")
    torch.testing.assert_close(found, torch.tensor([[0.8], [0.6], [0.4]]))


def test_loss_by_hand() -> None:
    # -(.5 * -1 + -.5 * -2) / 2
    log_prob = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    loss = reinforce_loss(log_prob, torch.tensor([[1.0, 0.5]]), torch.tensor([[0.5, 1.0]]))
    assert loss.item() == pytest.approx(-0.25)
    loss.backward()
    torch.testing.assert_close(log_prob.grad, torch.tensor([[-0.25, 0.25]]))  # up where the reward is above
    with pytest.raises(ValueError, match="differ"):
        reinforce_loss(log_prob, torch.zeros(2), torch.zeros(1, 2))


def test_log_probability_is_a_sum_or_a_mean_over_the_counted_pixels() -> None:
    # even odds: log .5 per pixel
    logits, masks = torch.zeros(1, 2, 2, 2), torch.tensor([[[[0, 1], [1, 1]]]])
    half, counted = torch.tensor(0.5).log().item(), torch.tensor([[[True, True], [True, False]]])
    for reduction, seen, wanted in (
        ("sum", None, 4),
        ("sum", counted, 3),
        ("mean", None, 1),
        ("mean", counted, 1),
    ):
        assert mask_log_prob(logits, masks, seen, reduction).item() == pytest.approx(wanted * half)
    assert mask_log_prob(logits, masks, torch.zeros_like(counted), "mean").item() == 0
    # a pixel of odds 3 to 1 in the third axis of a volume
    volume = torch.tensor([0.0, 3.0]).log().clamp(min=-50).reshape(1, 2, 1, 1, 1)
    assert mask_log_prob(volume, torch.ones(1, 1, 1, 1, 1, dtype=torch.long)).item() == pytest.approx(
        0, abs=1e-6
    )
    with pytest.raises(ValueError, match="do not fit"):
        mask_log_prob(logits, masks[0])


@pytest.mark.parametrize("mix", [0.0, 0.9])
def test_samplers_keep_the_probability_of_every_pixel(mix: float) -> None:
    config = ReinforceConfig(samples=2, noise_mix=mix, noise_length=0.2)
    probability = torch.tensor([0.2, 0.5, 0.3])
    logits = probability.log().reshape(1, 3, 1, 1).expand(4000, 3, 6, 6)
    masks = sample(logits, config, torch.Generator().manual_seed(0))
    found = torch.bincount(masks.flatten(), minlength=3) / masks.numel()
    torch.testing.assert_close(found, probability, atol=0.02, rtol=0)
    neighbours = (masks[..., 1:] == masks[..., :-1]).float().mean().item()
    by_chance = 0.2**2 + 0.5**2 + 0.3**2  # .38 where pixels are drawn by themselves
    assert neighbours == pytest.approx(by_chance, abs=0.02) if mix == 0 else neighbours > by_chance + 0.2
