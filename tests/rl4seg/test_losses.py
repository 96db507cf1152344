import math

import pytest
import torch
from torch import Tensor

from rl4seg import losses


def column(*values: float) -> Tensor:
    return torch.tensor(values).reshape(1, 1, -1)


def test_clipped_policy_loss_by_hand() -> None:
    # ratios 1.5, 0.5, 1.1; advantages 2, 2, -1; eps .2
    # min(1.5*2, 1.2*2) = 2.4; min(.5*2, .8*2) = 1.0; min(-1.1, -1.1) = -1.1  -> mean 2.3/3, loss negative of it
    log_prob = column(math.log(1.5), math.log(0.5), math.log(1.1))
    loss = losses.clipped_policy_loss(log_prob, column(0, 0, 0), column(2, 2, -1), 0.2)
    assert loss.item() == pytest.approx(-2.3 / 3, abs=1e-6)


def test_clipped_policy_loss_negative_advantage_is_not_clipped_upwards() -> None:
    # ratio 1.5, A = -1: min(-1.5, -1.2) = -1.5, so a bad action that became likelier is fully punished
    loss = losses.clipped_policy_loss(column(math.log(1.5)), column(0.0), column(-1.0), 0.2)
    assert loss.item() == pytest.approx(1.5, abs=1e-6)


def test_clipped_policy_loss_gradient_at_ratio_one_is_minus_advantage() -> None:
    # d/dlogp of -(r A)/n at r = 1 is -A/n
    log_prob = column(0.0, 0.0).requires_grad_()
    losses.clipped_policy_loss(log_prob, log_prob, column(3.0, -1.0), 0.2).backward()
    assert log_prob.grad is not None
    assert log_prob.grad.flatten().tolist() == pytest.approx([-1.5, 0.5])


def test_advantage_and_old_log_prob_carry_no_gradient() -> None:
    advantage, old = column(1.0).requires_grad_(), column(0.0).requires_grad_()
    losses.clipped_policy_loss(column(0.1).requires_grad_(), old, advantage, 0.2).backward()
    assert advantage.grad is None
    assert old.grad is None


def test_policy_loss_counts_only_weighted_pixels() -> None:
    loss = losses.clipped_policy_loss(column(0, 0), column(0, 0), column(4, 100), 0.2, column(1, 0))
    assert loss.item() == pytest.approx(-4)


def test_policy_loss_is_zero_where_nothing_counts() -> None:
    assert losses.clipped_policy_loss(column(0.0), column(0.0), column(5.0), 0.2, column(0.0)).item() == 0


def test_shapes_are_guarded() -> None:
    with pytest.raises(ValueError, match=r"shapes differ.*advantage"):
        losses.clipped_policy_loss(column(0, 0), column(0, 0), column(1), 0.2)


def test_group_relative_advantage_by_hand() -> None:
    # scores 1, 0: mean .5, population std .5 -> +-.5/(.5 + .05)
    gain = losses.group_relative_advantage(torch.tensor([[1.0, 0.0]]), 0.05)
    assert gain[0].tolist() == pytest.approx([0.5 / 0.55, -0.5 / 0.55])


def test_group_relative_advantage_of_equal_scores_is_zero() -> None:
    assert losses.group_relative_advantage(torch.full((2, 4), 0.7)).abs().max().item() == pytest.approx(
        0, abs=1e-6
    )
    assert losses.group_relative_advantage(torch.tensor([[0.3]])).item() == 0


def test_entropy_and_kl_by_hand() -> None:
    # uniform over 3: ln 3. p = (.5, .5), q = (.25, .75): .5 ln 2 + .5 ln(2/3) = .1438
    assert losses.categorical_entropy(torch.zeros(1, 3, 2, 2)).flatten()[0].item() == pytest.approx(
        math.log(3)
    )
    p, q = torch.tensor([0.5, 0.5]).log().reshape(1, 2, 1), torch.tensor([0.25, 0.75]).log().reshape(1, 2, 1)
    assert losses.categorical_kl(p, q).item() == pytest.approx(
        0.5 * math.log(2) + 0.5 * math.log(2 / 3), abs=1e-6
    )
    assert losses.categorical_kl(p, p).item() == pytest.approx(0, abs=1e-7)


def test_approximate_kl_and_clip_fraction_by_hand() -> None:
    # r = 1.5: .5 - ln 1.5; r = 1: 0
    new, old = column(math.log(1.5), 0.0), column(0.0, 0.0)
    assert losses.approximate_kl(new, old).item() == pytest.approx((0.5 - math.log(1.5)) / 2, abs=1e-6)
    assert losses.clip_fraction(new, old, 0.2).item() == 0.5


def test_explained_variance() -> None:
    reward = column(0.0, 1.0, 0.0, 1.0)
    assert losses.explained_variance(reward, reward).item() == pytest.approx(1)
    assert losses.explained_variance(torch.full_like(reward, 0.5), reward).item() == pytest.approx(0)
    assert losses.explained_variance(reward, torch.ones_like(reward)).item() == 0


def test_value_loss_by_hand_and_detached_reward() -> None:
    value, reward = column(0.5, 1.0).requires_grad_(), column(1.0, 1.0).requires_grad_()
    loss = losses.value_loss(value, reward)
    loss.backward()
    assert loss.item() == pytest.approx(0.125)
    assert reward.grad is None


def test_soft_dice_by_hand() -> None:
    # two pixels, two classes, uniform probability, target (1, 0): overlap .5, sizes 1 + 1 -> Dice .5
    loss = losses.soft_dice_loss(torch.zeros(1, 2, 2), torch.tensor([[1, 0]]))
    assert loss.item() == pytest.approx(0.5, abs=1e-4)


def test_cross_entropy_takes_logits_not_probabilities() -> None:
    # logits (0, ln 3): p1 = .75; CE of class 1 is -ln .75 (softmax applied twice would give another number)
    logits = torch.tensor([[0.0, math.log(3)]]).reshape(1, 2, 1)
    loss = losses.dice_cross_entropy(logits, torch.tensor([[1]]), dice_weight=0)
    assert loss.item() == pytest.approx(-math.log(0.75), abs=1e-6)


def test_class_weights_and_label_smoothing_by_hand() -> None:
    # weighted mean: (1 * ln 2 + 3 * ln 2) / 4 = ln 2 for uniform logits, so use unequal ones
    logits = torch.tensor([[[0.0, 0.0], [math.log(3), 0.0]]])  # pixel 0: p1 = .75, pixel 1: p1 = .5
    target = torch.tensor([[0, 1]])
    weighted = losses.dice_cross_entropy(logits, target, 0, torch.tensor([1.0, 3.0]))
    assert weighted.item() == pytest.approx((-math.log(0.25) + 3 * math.log(2)) / 4, abs=1e-6)
    # smoothing .2 over 2 classes: target (.1, .9) against p = (.25, .75)
    smooth = losses.dice_cross_entropy(logits[:, :, :1], torch.tensor([[1]]), 0, label_smoothing=0.2)
    assert smooth.item() == pytest.approx(-0.9 * math.log(0.75) - 0.1 * math.log(0.25), abs=1e-6)


def test_correctness_loss_by_hand() -> None:
    loss = losses.correctness_loss(torch.tensor([[0.0, math.log(3)]]), torch.tensor([[True, False]]))
    assert loss.item() == pytest.approx((math.log(2) - math.log(0.25)) / 2, abs=1e-6)
