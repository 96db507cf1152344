"""The arms of a run: policies made from the same start and measured on the same cases.

The loop is one arm; the controls and rivals that it is compared with are others. They share every stage that does not
differ: its second call is answered from the cache.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from flows.config import AutoIterationConfig
from flows.reporting.data import MAIN
from flows.reporting.stage import PolicyRecord
from flows.review import ask, relabelled, synthesized
from flows.review_tasks import Review
from flows.stop import Watch, collapsed
from flows.store import CaseSet, Policy, RewardNet, RewardSet, ShapePriorRef
from flows.tasks import evaluate_policy, finetune_policy, predict_target, train_reward
from reward_data.anatomy import RuleSet
from rl4seg.configs.evaluation import ARGMAX, Decision, Split
from rl4seg.configs.ppo import PPOConfig


@dataclass(frozen=True)
class Start:
    """What every arm starts from."""

    policy: Policy
    source: CaseSet | None
    target: CaseSet
    prior: ShapePriorRef | None
    rules: RuleSet
    split: Split = "test"  # which target images policies are scored on
    reviews: dict[int, Review] = field(default_factory=dict)  # by iteration; the loop fills it for all arms


def measured(
    config: AutoIterationConfig,
    start: Start,
    arm: str,
    policy: Policy,
    decision: Decision = ARGMAX,
    reward_set: RewardSet | None = None,
) -> PolicyRecord:
    """An arm that is one policy, evaluated; ``reward_set``: what it was trained on, whose time is its own."""
    evaluation = evaluate_policy.named(f"{arm} · evaluate")(
        config.evaluation, policy, start.policy, None, start.target, start.rules, decision, start.split,
    )  # fmt: skip
    return PolicyRecord(arm=arm, iteration=0, policy=policy, evaluation=evaluation, reward_set=reward_set)


def adapt(config: AutoIterationConfig, start: Start, arm: str, ppo: PPOConfig) -> list[PolicyRecord]:
    """The loop, once per arm: N iterations, each one evaluated; fewer where the collapse alarm rings.

    The main loop alone is watched: its controls make all N iterations, so that whichever one it hands out finds its
    like among them.

    The control with PPO off shares every stage that does not differ: its first predictions and reward dataset are
    the main loop's own, answered from the cache.
    """
    policy, reward_sets, records = start.policy, list[RewardSet](), list[PolicyRecord]()
    watch = Watch(config, start) if arm == MAIN and config.stop.enabled else None
    for i in range(1, config.iterations + 1):
        label = f"iteration {i}" if arm == MAIN else f"{arm} · iteration {i}"
        # 1. What does the policy say about the target today?
        predictions = predict_target.named(f"{label} · predict")(policy, start.target)
        # 2. Valid masks become pseudo ground truth with bad partners, invalid ones are corrected where possible.
        #    What an expert has said before counts for more than either.
        said = tuple(start.reviews[after] for after in sorted(start.reviews) if after < i)
        rewards = synthesized(config, start, f"{label} · synthesize", predictions, policy, said)
        reward_sets.append(rewards)
        # 3. Learn where masks are wrong, from all reward datasets so far; the control with PPO off has no use for it.
        reward_net: RewardNet | None = None
        if arm == MAIN:
            reward_net = train_reward.named(f"{label} · reward net")(
                config.reward_net, tuple(reward_sets), policy, start.source, config.class_names, config.seed,
            )  # fmt: skip
        # 4. Act, judge, improve.
        policy = finetune_policy.named(f"{label} · PPO")(
            ppo, policy, reward_net if ppo.needs_reward_net else None, rewards, start.target,
            start.source if ppo.source_replay else None, start.rules, i, config.seed,
        )  # fmt: skip
        # 5. Did it help? On images that no stage has trained on.
        evaluation = evaluate_policy.named(f"{label} · evaluate")(
            config.evaluation, policy, start.policy, reward_net, start.target, start.rules, split=start.split,
        )  # fmt: skip
        # 6. Has it collapsed? By signals that need no label, on held-back images; then there is no use in going on.
        judgement = watch.judge(label, policy, reward_net) if watch else None
        records.append(
            PolicyRecord(
                arm=arm,
                iteration=i,
                policy=policy,
                evaluation=evaluation,
                reward_net=reward_net,
                reward_set=rewards,
                judgement=judgement,
            )
        )
        if judgement is not None and collapsed(label, judgement):
            break
        # 7. Ask an expert about the masks that the reward net trusts least; the run may end here until he answers.
        if reward_net is not None and config.review.due(i, config.iterations):
            start.reviews[i] = ask(config, start, label, i, policy, reward_net, said)
            reward_sets = relabelled(label, reward_sets, (*said, start.reviews[i]))
    return records
