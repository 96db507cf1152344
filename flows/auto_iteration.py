"""RL4Seg as a flow: adapt a segmentation policy to an unlabelled target domain.

Read it from the bottom: `auto_iteration` is the whole story, `adapt` is the loop

    predict -> synthesize -> train the reward net -> PPO -> evaluate -> again

Every call below is a cached stage: run the flow a second time and each one answers from the artifact store; kill it
and the same command goes on at the stage that was running.
"""

from __future__ import annotations

from dataclasses import dataclass

from flows import preflight
from flows.config import AutoIterationConfig
from flows.config_loader import dump_config
from flows.prefect_settings import flow
from flows.reporting.data import LOGIT_BIAS, MAIN, PPO_OFF, SOURCE_ONLY, UPPER_BOUND
from flows.reporting.stage import PolicyRecord, write_report
from flows.restart import restarted_from
from flows.run_environment import run_environment
from flows.store import CaseSet, Policy, Report, RewardNet, RewardSet, ShapePriorRef
from flows.tasks import (
    evaluate_policy,
    finetune_policy,
    fit_shape_prior,
    import_dataset,
    load_checkpoint,
    predict_target,
    synthesize_rewards,
    train_reward,
    train_supervised,
)
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


def source_policy(config: AutoIterationConfig, source: CaseSet | None, target: CaseSet) -> Policy:
    """The policy to adapt: the user's checkpoint, or one trained on the labelled source."""
    if config.policy.checkpoint is not None:
        checkpoint = preflight.user_checkpoint(config.policy.checkpoint)
        return load_checkpoint(checkpoint, config.policy.network, target)
    assert source is not None  # a config without source and checkpoint is refused when it is read
    return train_supervised(config.source_training, config.policy.network, source, config.seed)


def baselines(config: AutoIterationConfig, start: Start) -> list[PolicyRecord]:
    """What the loop has to beat, and what it cannot be expected to beat."""

    def measured(arm: str, policy: Policy, logit_bias: float = 0.0) -> PolicyRecord:
        evaluation = evaluate_policy.named(f"{arm} · evaluate")(
            config.evaluation, policy, start.policy, None, start.target, start.rules, logit_bias,
        )  # fmt: skip
        return PolicyRecord(arm=arm, iteration=0, policy=policy, evaluation=evaluation)

    records = [measured(SOURCE_ONLY, start.policy)]
    if config.controls.logit_bias:
        records.append(measured(LOGIT_BIAS, start.policy, config.evaluation.logit_bias))
    if config.controls.upper_bound:
        best = train_supervised.named("upper bound · training on target labels")(
            config.source_training, config.policy.network, start.target, config.seed,
        )  # fmt: skip
        records.append(measured(UPPER_BOUND, best))
    return records


def adaptation(config: AutoIterationConfig) -> Report:
    """Every stage of a run, from the datasets to the report."""
    # Both domains, imported once onto the network's grid.
    source = None
    if config.source is not None:
        source = import_dataset.named("import source")(
            *preflight.dataset_inputs(config.source), config.preprocess
        )
    target = import_dataset.named("import target")(
        *preflight.dataset_inputs(config.target), config.preprocess
    )
    # Where everybody starts.
    prior = fit_shape_prior(config.shape_components, source) if source else None
    start = Start(source_policy(config, source, target), source, target, prior, config.rule_set())
    records = baselines(config, start)
    # The loop, and the same loop with the policy gradient switched off.
    records += adapt(config, start, MAIN, config.ppo)
    if config.controls.ppo_off and config.ppo.policy_weight and config.ppo.anchor_weight:
        records += adapt(config, start, PPO_OFF, config.ppo.model_copy(update={"policy_weight": 0.0}))
    return write_report(
        config.name, dump_config(config), tuple(records), target, config.evaluation.montage_cases
    )


@flow(
    name="auto-iteration",
    flow_run_name="auto-iteration {config.name}",
    persist_result=False,
    validate_parameters=True,
)
def auto_iteration(config: AutoIterationConfig, restart_from: str | None = None) -> Report:
    """Adapt a segmentation policy to an unlabelled target domain; the result is the report's artifact.

    Args:
        config: What to run.
        restart_from: A stage that runs anew with all that follow from it, e.g. ppo@2; empty = none.
    """
    with run_environment(config) as environment:
        preflight.check(config)
        with restarted_from(restart_from, adaptation, config):
            return environment.publish(adaptation(config))
