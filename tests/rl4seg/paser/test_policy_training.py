"""REINFORCE of the routing policy: its gradient is that of the expected reward, and it finds a known optimum."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from rl4seg.configs.paser import ExplorationConfig, PolicyTrainingConfig, RoutingConfig
from rl4seg.configs.reward_tuning import Baseline
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.paser.policy import new_policy, per_patch
from rl4seg.paser.policy_training import act, policy_loss, train_routing
from rl4seg.runtime import Runtime, start

LOGITS = torch.log(torch.tensor([[0.5, 0.3, 0.2]]))
REWARDS = torch.tensor([[0.0, 0.2, 0.6]])


@pytest.fixture
def runtime() -> Runtime:
    return start(RuntimeConfig(device="cpu", threads=1))


def mean_gradient(alpha: float, baseline: Baseline, importance: bool = True) -> Tensor:
    """Mean of the gradient of the loss over 100 steps of 400 patches that are all alike."""
    exploration = ExplorationConfig(importance=importance)
    generator = torch.Generator().manual_seed(0)
    logits = LOGITS.clone().requires_grad_()
    for _ in range(100):
        actions, weight = act(logits.expand(400, 3), 4, exploration, alpha, generator)
        loss, _ = policy_loss(logits.expand(400, 3), REWARDS.expand(400, 3), actions, weight, baseline, 0.0)
        loss.backward()
    assert logits.grad is not None
    return logits.grad[0] / 100


# E[R] = .3 * .2 + .2 * .6 = .18; d E[R] / d logit_a = pi_a (R_a - E[R]): .5 * -.18, .3 * .02, .2 * .42
WANTED = -torch.tensor([-0.09, 0.006, 0.084])


@pytest.mark.parametrize("baseline", ["none", "leave_one_out", "greedy", "batch_mean"])
@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_the_gradient_is_that_of_the_expected_reward(alpha: float, baseline: Baseline) -> None:
    assert mean_gradient(alpha, baseline).tolist() == pytest.approx(WANTED.tolist(), abs=0.006)


def test_random_actions_without_their_weight_have_another_gradient() -> None:
    # uniform actions, mean reward .8 / 3: (R_a - .2667) / 3
    wanted = [-(reward - 0.8 / 3) / 3 for reward in (0.0, 0.2, 0.6)]
    got = mean_gradient(0.0, "leave_one_out", importance=False)
    assert got.tolist() == pytest.approx(wanted, abs=0.003)


def test_the_entropy_bonus_makes_log_probabilities_of_rewards(runtime: Runtime, tmp_path: Path) -> None:
    # at the optimum of E[R] + tau H, log pi(a) - log pi(0) = (R_a - R_0) / tau: 2 and 6 for tau = .1
    config = RoutingConfig(grid=(2, 2), resolution=1, width=4, inputs=("image",))
    policy = new_policy(config, 3, 1, 3, 0)
    read, rewards = torch.ones(8, 2, 2, 2), REWARDS.expand(8, 4, 3)
    training = PolicyTrainingConfig(
        steps=400, batch_size=8, samples=32, entropy_bonus=0.1, entropy_start=0.1, weight_decay=0
    )
    train_routing(policy, read, rewards, training, 0, runtime, tmp_path)
    with torch.no_grad():
        logits = per_patch(policy(read))[0, 0]
    assert (logits - logits[0])[1:].tolist() == pytest.approx([2, 6], abs=0.35)


def test_alpha_grows_linearly() -> None:
    exploration = ExplorationConfig()
    assert [exploration.alpha(step, 11) for step in (0, 5, 10)] == pytest.approx([0.7, 0.825, 0.95])


def test_a_whole_batch_explores_or_none_of_it() -> None:
    logits = torch.tensor([[50.0, 0.0]]).expand(200, 2)
    generator = torch.Generator().manual_seed(0)
    shares = [act(logits, 2, ExplorationConfig(), 0.5, generator)[0].float().mean().item() for _ in range(40)]
    assert all(share == 0 or share == pytest.approx(0.5, abs=0.1) for share in shares)
    assert 10 < sum(share == 0 for share in shares) < 30


def test_a_killed_training_ends_with_the_same_bits(runtime: Runtime, tmp_path: Path) -> None:
    config = RoutingConfig(grid=(2, 2), resolution=1, width=4, inputs=("image",))
    read, rewards = torch.rand(6, 2, 2, 2), torch.rand(6, 4, 2)
    training = PolicyTrainingConfig(steps=8, batch_size=2, checkpoint_seconds=0)

    def trained(folder: Path, kill_at: int | None) -> dict[str, Tensor]:
        policy = new_policy(config, 3, 1, 2, 0)

        def progress(done: int, total: int, metrics: object = None) -> None:
            if done == kill_at:
                raise KeyboardInterrupt

        train_routing(policy, read, rewards, training, 3, runtime, folder, progress)
        return policy.state_dict()

    whole = trained(tmp_path / "whole", None)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "killed", 5)
    resumed = trained(tmp_path / "killed", None)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
