"""Reward tuning as a flow: train a policy on labels, then tune it on the metric that matters.

Read it from the bottom: `reward_tuning` is the whole story,

    import -> train (or load) -> tune on the reward -> evaluate, the same for every rival -> package
           -> report

Every arm starts from the same policy and sees the same batches in as many steps. Every call below is a cached stage:
run the flow a second time and each one answers from the artifact store.
"""

from __future__ import annotations

from flows import preflight, reward_tuning_config
from flows.config_loader import dump_config
from flows.handing_out import ModelBasis, publish_package, publish_report
from flows.prefect_settings import flow
from flows.restart import restarted_from
from flows.reward_tuning_config import MAIN, RULE, START, RewardTuningConfig, with_weights
from flows.reward_tuning_tasks import (
    TunedRecord,
    TuningReport,
    evaluate_tuned_policy,
    package_tuned,
    tune_on_reward,
    write_tuning_report,
)
from flows.run_environment import run_environment
from flows.store import CaseSet, Policy
from flows.tasks import import_dataset, load_checkpoint, train_supervised
from rl4seg.configs.reward_tuning import DecisionRule, TaskRewardConfig


def starting_policy(config: RewardTuningConfig, prefix: str, cases: CaseSet, seed: int) -> Policy:
    """The policy to tune: the user's checkpoint, or one trained on the labels."""
    if config.policy.checkpoint is not None:
        checkpoint = preflight.user_checkpoint(config.policy.checkpoint)
        return load_checkpoint(checkpoint, config.policy.network, cases)
    training = train_supervised.named(f"{prefix}pretraining")
    return training(config.pretraining, config.policy.network, cases, seed)


def own_rewards(config: TaskRewardConfig) -> dict[str, str]:
    """Digests of the reward functions that are not of this project; a cached result depends on them."""
    from rl4seg.reward_registry import reward_sources

    return reward_sources(config)


def tuned_arms(config: RewardTuningConfig, cases: CaseSet, seed: int) -> list[TunedRecord]:
    """Every arm of one seed, evaluated."""
    prefix, rules = f"seed {seed} · " if len(config.all_seeds()) > 1 else "", config.rule_set()

    def measured(arm: str, policy: Policy, trained: bool, rule: DecisionRule = "argmax") -> TunedRecord:
        evaluation = evaluate_tuned_policy.named(f"{prefix}{arm} · evaluate")(
            config.evaluation, own_rewards(config.tuning.reward), policy, cases, rules, rule
        )
        return TunedRecord(arm=arm, seed=seed, policy=policy, evaluation=evaluation, trained=trained)

    # Where everybody starts, and what a better decision makes of it without any training.
    start = starting_policy(config, prefix, cases, seed)
    records = [measured(START, start, False)]
    if config.decision_rule:
        records.append(measured(RULE, start, False, "expected_dice"))
    # The reward and its rivals: the same policy, batches, optimiser and number of steps, another loss.
    for arm, tuning in config.arms().items():
        settings = with_weights(tuning, config.class_names)
        policy = tune_on_reward.named(f"{prefix}{arm} · tune")(
            settings, own_rewards(tuning.reward), start, cases, rules, seed
        )
        records.append(measured(arm, policy, True))
        if arm == MAIN and config.decision_rule:
            records.append(measured(f"{MAIN} + {RULE}", policy, False, "expected_dice"))
    return records


def tuning(config: RewardTuningConfig) -> TuningReport:
    """Every stage of a run, from the dataset to the report; the tuned policy of the first seed is handed out."""
    cases = import_dataset.named("import")(*preflight.dataset_inputs(config.dataset), config.preprocess)
    records = [record for seed in config.all_seeds() for record in tuned_arms(config, cases, seed)]
    tuned = next(record for record in records if record.arm == MAIN)
    basis = ModelBasis(labels=config.dataset.labels, preprocess=config.preprocess, rules=config.rule_set())
    publish_package(package_tuned(basis, tuned.policy, cases), config.name)
    report = write_tuning_report(config.name, dump_config(config), tuple(records))
    publish_report(report)
    return report


@flow(
    name="reward-tuning",
    flow_run_name="reward-tuning {config.name}",
    persist_result=False,
    validate_parameters=True,
)
def reward_tuning(config: RewardTuningConfig, restart_from: str | None = None) -> TuningReport:
    """Tune a segmentation policy on a task reward and compare it with its rivals; the result is the report's artifact.

    Args:
        config: What to run.
        restart_from: A stage that runs anew with all that follow from it, e.g. reward-tuning/tune; empty = none.
    """
    with run_environment(config):
        reward_tuning_config.check(config)
        with restarted_from(restart_from, tuning, config):
            return tuning(config)
