"""Smoothing, reward, advantage and gradient of the keep-or-drop policy against values worked out by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from rl4seg.patchdrop.bernoulli import greedy_keep, keep_logits, keep_reward, unique_policies
from rl4seg.reinforce import baseline_values, mask_log_prob, reinforce_loss


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_smoothing_by_hand() -> None:
    # alpha = .8: p = .9 -> .8 * .9 + .2 * .1 = .74; p = .5 -> .5; p = .01 -> .8 * .01 + .2 * .99 = .206
    logits = torch.tensor([[logit(0.9), 0.0, logit(0.01)]])
    smoothed = keep_logits(logits, 0.8).exp()
    torch.testing.assert_close(smoothed[:, 1], torch.tensor([[0.74, 0.5, 0.206]]))
    torch.testing.assert_close(smoothed.sum(1), torch.ones(1, 3))
    # alpha = 1 leaves p as it is
    torch.testing.assert_close(keep_logits(logits, 1.0).exp()[:, 1], torch.tensor([[0.9, 0.5, 0.01]]))
    # a logit of +-300 has p = 1 and 0 in float32: .8 and .2, no infinity, and a gradient that is finite
    far = torch.tensor([[300.0, -300.0]], requires_grad=True)
    kept = keep_logits(far, 0.8)
    torch.testing.assert_close(kept[:, 1].exp(), torch.tensor([[0.8, 0.2]]))
    kept.sum().backward()
    assert far.grad is not None
    assert far.grad.isfinite().all()
    for alpha in (0.5, 1.1):
        with pytest.raises(ValueError, match="alpha"):
            keep_logits(logits, alpha)


def test_the_threshold_is_one_half_and_smoothing_does_not_move_it() -> None:
    logits = torch.tensor([[-0.01, 0.0, 0.01]])
    assert greedy_keep(logits).tolist() == [[False, True, True]]
    smoothed = keep_logits(torch.tensor([[-0.01, 0.01]]), 0.8)
    assert (smoothed[:, 1] > smoothed[:, 0]).tolist() == [[False, True]]


def test_reward_by_hand() -> None:
    # P = 4. Right with 1 patch: 1 - 1/16 = .9375; right with all: 0; right with none: 1; wrong: the penalty.
    keep = torch.tensor([[[1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]]]).bool()
    quality = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    assert keep_reward(quality, keep, -0.5).tolist() == [[0.9375, 0.0, 1.0, -0.5]]
    # a mask of quality .75 with half of the windows: .75 * (1 - 1/4) - .25 * 10 = .5625 - 2.5
    assert keep_reward(torch.tensor([[0.75]]), keep[:, 3:], -10).tolist() == [[-1.9375]]
    with pytest.raises(ValueError, match="do not fit"):
        keep_reward(quality, keep[:, :2], -0.5)


def test_advantage_and_loss_by_hand() -> None:
    # One image, P = 2, p = (.9, .2), alpha = 1. The thresholded policy keeps patch 0: right, R = 1 - 1/4 = .75.
    # Sampled: keep both, right, R = 1 - 1 = 0. Advantage 0 - .75 = -.75.
    # log pi = log .9 + log .2 = -.105361 - 1.609438 = -1.714798; loss = -(-.75)(-1.714798) = -1.286099; mean of the
    # two patches, as published: half of it.
    logits = torch.tensor([[logit(0.9), logit(0.2)]])
    two, sampled = keep_logits(logits, 1.0), torch.tensor([[[1, 1]]])
    greedy = greedy_keep(logits)
    reward = keep_reward(torch.ones(1, 1), sampled.bool(), -0.5)
    own = keep_reward(torch.ones(1, 1), greedy[:, None], -0.5)[:, 0]
    assert own.tolist() == [0.75]
    baseline = baseline_values(reward, "greedy", own)
    assert (reward - baseline).tolist() == [[-0.75]]
    for reduction, wanted in (("sum", -1.286099), ("mean", -0.643049)):
        loss = reinforce_loss(mask_log_prob(two, sampled, reduction=reduction), reward, baseline)
        assert float(loss) == pytest.approx(wanted, abs=1e-5)


def world(maps: Tensor) -> Tensor:
    """The quality of every keep map of 3 patches: right where patch 1 is kept, or both others are. Shape: (M)."""
    kept = maps.bool()
    return (kept[:, 1] | (kept[:, 0] & kept[:, 2])).double()


@pytest.mark.parametrize("alpha", [1.0, 0.8])
@pytest.mark.parametrize("baseline", ["greedy", "none"])
def test_the_estimator_has_the_exact_gradient(alpha: float, baseline: str) -> None:
    # 3 patches, 8 keep maps: E[R] = sum_a pi(a) R(a) is differentiated as it stands; the estimator's expectation is the
    # sum over all maps of their probability times what the loss of that map alone gives.
    maps = torch.tensor(list(itertools.product((0, 1), repeat=3)))
    start = torch.tensor([[0.3, -0.7, 1.1]], dtype=torch.float64)
    reward = keep_reward(world(maps)[None], maps.bool()[None], -0.5)

    exact = start.clone().requires_grad_()
    pi = mask_log_prob(keep_logits(exact, alpha), maps[None]).exp()
    assert float(pi.detach().sum()) == pytest.approx(1)
    (pi * reward).sum().backward()

    estimate = torch.zeros_like(start)
    for number in range(8):
        logits = start.clone().requires_grad_()
        greedy = greedy_keep(logits.detach())
        own = keep_reward(world(greedy.long())[None], greedy[None], -0.5)[0]
        one = reward[:, number : number + 1]
        level = baseline_values(one, baseline, own)  # type: ignore[arg-type]
        log_prob = mask_log_prob(keep_logits(logits, alpha), maps[None, number : number + 1])
        reinforce_loss(log_prob, one, level).backward()
        assert logits.grad is not None
        estimate -= pi[0, number].detach() * logits.grad
    assert exact.grad is not None
    torch.testing.assert_close(estimate, exact.grad)
    assert float(exact.grad.abs().min()) > 1e-3  # the comparison is of something


def test_different_policies_are_counted() -> None:
    keep = torch.tensor([[1, 0], [1, 0], [0, 1], [0, 0]]).bool()
    assert unique_policies(keep) == 3
