"""What the loop has to beat: the simple things that a user would try instead, from the same policy in as many steps.

Read it from the bottom: `rivals` is the whole list. Every rival is evaluated on the loop's own held-out cases; those
that are trained make exactly as many optimiser steps as the loop in all its iterations (`StepBudget`), with its batch
sizes, learning rate and gradient clipping, so that a difference between two rows is one of method, not of effort.
"""

from __future__ import annotations

from flows.arms import Start, adapt, measured
from flows.config import AutoIterationConfig
from flows.reporting.data import (
    LOGIT_BIAS,
    MEAN_TEACHER,
    POST_PROCESSING,
    PPO_OFF,
    SELF_TRAINING,
    STRONG_AUGMENTATION,
    TENT,
    UPPER_BOUND,
)
from flows.reporting.stage import PolicyRecord
from flows.rival_tasks import continue_supervised, train_teacher, train_tent
from flows.stages import current_environment
from flows.tasks import finetune_policy, predict_target, synthesize_rewards
from reward_data.distortions import (
    DamageConfig,
    DistortionConfig,
    ImageConfig,
    ModelConfig,
    MorphologyConfig,
    SwapConfig,
    WarpConfig,
)
from reward_data.synthesis import SynthesisConfig
from rl4seg.configs.augment import AugmentConfig
from rl4seg.configs.evaluation import Decision
from rl4seg.configs.ppo import PPOConfig
from rl4seg.configs.rivals import ContinuedConfig, StepBudget

VERDICT_ALONE = SynthesisConfig(
    agreement=0.0,
    corrections=False,
    distortions=DistortionConfig(
        swap=SwapConfig(enabled=False),
        model=ModelConfig(enabled=False),
        image=ImageConfig(enabled=False),
        morphology=MorphologyConfig(enabled=False),
        warp=WarpConfig(enabled=False),
        damage=DamageConfig(enabled=False),
    ),
)
"""Accepts every valid prediction and makes nothing else of it: pseudo-labels, not a reward dataset."""


def with_labels(
    config: AutoIterationConfig, batch_size: int, replay: int, augment: AugmentConfig | None
) -> ContinuedConfig:
    """Supervised fine-tuning with the loop's optimiser."""
    ppo = config.ppo
    return ContinuedConfig(
        batch_size=batch_size,
        replay=replay,
        learning_rate=ppo.learning_rate,
        grad_norm=ppo.grad_norm,
        augment=augment,
        checkpoint_seconds=ppo.checkpoint_seconds,
    )


def strong_augmentation(config: AutoIterationConfig, start: Start, budget: StepBudget) -> list[PolicyRecord]:
    """The source policy trained on with the source's labels, its images made to look like anybody's."""
    if start.source is None:
        here = current_environment()
        if here.console is not None and here.plan is None:
            here.console.print(f"{STRONG_AUGMENTATION}: left out, it needs a labelled source")
        return []
    # As many images per step as the loop's anchor and replay have together.
    images = config.ppo.anchor_batch + config.ppo.source_replay
    policy = continue_supervised.named(f"{STRONG_AUGMENTATION} · train")(
        with_labels(config, images, 0, config.rivals.strong_augment),
        budget, start.policy, start.source, None, start.target, config.seed,
    )  # fmt: skip
    return [measured(config, start, STRONG_AUGMENTATION, policy)]


def self_training(config: AutoIterationConfig, start: Start) -> PolicyRecord:
    """The source policy trained on its own valid predictions: made once, augmented, without replay of the source.

    It is the fine-tuning with the policy gradient off, all iterations' epochs in one go. Its config holds what that
    reads and no more, so that a setting of the policy gradient does not train it again.
    """
    ppo = config.ppo
    predictions = predict_target.named(f"{SELF_TRAINING} · predict")(start.policy, start.target)
    labels = synthesize_rewards.named(f"{SELF_TRAINING} · pseudo-labels")(
        VERDICT_ALONE, predictions, start.policy, start.target, start.rules, None, config.seed
    )
    training = PPOConfig(
        policy_weight=0.0,
        epochs=config.iterations * ppo.epochs,
        batch_size=ppo.batch_size,
        updates=ppo.updates,
        learning_rate=ppo.learning_rate,
        grad_norm=ppo.grad_norm,
        anchor_batch=ppo.anchor_batch,
        anchor_augment=ppo.anchor_augment,
        source_replay=0,
        checkpoint_seconds=ppo.checkpoint_seconds,
    )
    policy = finetune_policy.named(f"{SELF_TRAINING} · train")(
        training, start.policy, None, labels, start.target, None, start.rules, 1, config.seed
    )
    return measured(config, start, SELF_TRAINING, policy, reward_set=labels)


def mean_teacher(config: AutoIterationConfig, start: Start, budget: StepBudget) -> PolicyRecord:
    """Consistency with an averaged teacher on the target, with the source's labels where there are any."""
    replay = config.ppo.source_replay or config.ppo.anchor_batch
    policy = train_teacher.named(f"{MEAN_TEACHER} · train")(
        config.rivals.mean_teacher_training,
        with_labels(config, config.ppo.batch_size, replay, config.ppo.anchor_augment),
        budget, start.policy, start.target, start.source, config.seed,
    )  # fmt: skip
    return measured(config, start, MEAN_TEACHER, policy)


def upper_bound(config: AutoIterationConfig, start: Start, budget: StepBudget) -> PolicyRecord:
    """The source policy trained on with the target's own labels, and the loop's replay of the source."""
    ppo = config.ppo
    policy = continue_supervised.named(f"{UPPER_BOUND} · train")(
        with_labels(config, ppo.anchor_batch, ppo.source_replay, ppo.anchor_augment),
        budget, start.policy, start.target, start.source, start.target, config.seed,
    )  # fmt: skip
    return measured(config, start, UPPER_BOUND, policy)


def rivals(config: AutoIterationConfig, start: Start) -> list[PolicyRecord]:
    """Every rival that the config asks for, evaluated; what the loop is compared with beside source-only."""
    chosen, ppo, records = config.rivals, config.ppo, list[PolicyRecord]()
    budget = StepBudget.of(config.iterations, ppo)
    # Without any training: the source policy's logits or masks, changed.
    if chosen.logit_bias:
        bias = Decision(logit_bias=config.evaluation.logit_bias)
        records.append(measured(config, start, LOGIT_BIAS, start.policy, bias))
    if chosen.post_processing:
        records.append(measured(config, start, POST_PROCESSING, start.policy, Decision(post_process=True)))
    # Without any look at the target.
    if chosen.strong_augmentation:
        records += strong_augmentation(config, start, budget)
    # On the target's images.
    if chosen.tent:
        policy = train_tent.named(f"{TENT} · train")(
            chosen.tent_training, budget, start.policy, start.target, ppo.checkpoint_seconds, config.seed
        )
        records.append(measured(config, start, TENT, policy))
    if chosen.mean_teacher:
        records.append(mean_teacher(config, start, budget))
    if chosen.self_training:
        records.append(self_training(config, start))
    # The loop itself with the policy gradient switched off; it needs the anchor to learn from.
    if chosen.ppo_off and ppo.policy_weight and ppo.anchor_weight:
        records += adapt(config, start, PPO_OFF, ppo.model_copy(update={"policy_weight": 0.0}))
    # With what nobody has: the target's labels.
    if chosen.upper_bound:
        records.append(upper_bound(config, start, budget))
    return records
