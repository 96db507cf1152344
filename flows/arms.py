"""The arms of a run: policies made from the same start and measured on the same cases.

The loop is one arm; the controls and rivals that it is compared with are others. They share every stage that does not
differ: its second call is answered from the cache.
"""

from __future__ import annotations

from dataclasses import dataclass

from flows.config import AutoIterationConfig
from flows.reporting.data import MAIN
from flows.reporting.stage import PolicyRecord
from flows.store import CaseSet, Policy, RewardNet, RewardSet, ShapePriorRef
from flows.tasks import evaluate_policy, finetune_policy, predict_target, synthesize_rewards, train_reward
from reward_data.anatomy import RuleSet
from rl4seg.configs.ppo import PPOConfig


@dataclass(frozen=True)
class Start:
    """What every arm starts from."""

    policy: Policy
    source: CaseSet | None
    target: CaseSet
    prior: ShapePriorRef | None
    rules: RuleSet


def measured(
    config: AutoIterationConfig, start: Start, arm: str, policy: Policy, logit_bias: float = 0.0
) -> PolicyRecord:
    """An arm that is one policy, evaluated."""
    evaluation = evaluate_policy.named(f"{arm} · evaluate")(
        config.evaluation, policy, start.policy, None, start.target, start.rules, logit_bias,
    )  # fmt: skip
    return PolicyRecord(arm=arm, iteration=0, policy=policy, evaluation=evaluation)


def adapt(config: AutoIterationConfig, start: Start, arm: str, ppo: PPOConfig) -> list[PolicyRecord]:
    """The loop, once per arm: N iterations, each one evaluated.

    The control with PPO off shares every stage that does not differ: its first predictions and reward dataset are
    the main loop's own, answered from the cache.
    """
    policy, reward_sets, records = start.policy, list[RewardSet](), list[PolicyRecord]()
    for i in range(1, config.iterations + 1):
        label = f"iteration {i}" if arm == MAIN else f"{arm} · iteration {i}"
        # 1. What does the policy say about the target today?
        predictions = predict_target.named(f"{label} · predict")(policy, start.target)
        # 2. Valid masks become pseudo ground truth with bad partners, invalid ones are corrected where possible.
        rewards = synthesize_rewards.named(f"{label} · synthesize")(
            config.synthesis, predictions, policy, start.target, start.rules, start.prior, config.seed,
        )  # fmt: skip
        reward_sets.append(rewards)
        # 3. Learn where masks are wrong, from all reward datasets so far; the control with PPO off has no use for it.
        reward_net: RewardNet | None = None
        if arm == MAIN:
            reward_net = train_reward.named(f"{label} · reward net")(
                config.reward_net, tuple(reward_sets), config.class_names, config.seed,
            )  # fmt: skip
        # 4. Act, judge, improve.
        policy = finetune_policy.named(f"{label} · PPO")(
            ppo, policy, reward_net if ppo.needs_reward_net else None, rewards, start.target,
            start.source if ppo.source_replay else None, start.rules, i, config.seed,
        )  # fmt: skip
        # 5. Did it help? On images that no stage has trained on.
        evaluation = evaluate_policy.named(f"{label} · evaluate")(
            config.evaluation, policy, start.policy, reward_net, start.target, start.rules,
        )  # fmt: skip
        records.append(
            PolicyRecord(
                arm=arm,
                iteration=i,
                policy=policy,
                evaluation=evaluation,
                reward_net=reward_net,
                reward_set=rewards,
            )
        )
    return records
