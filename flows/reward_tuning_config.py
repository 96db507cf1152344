"""The run config of reward tuning, and what of it can be known to be wrong before anything is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from flows.config import PolicyConfig
from flows.config_base import SeedsRunConfig, listed, located
from flows.labelled_data import check_labelled
from reward_data.anatomy import RuleSet, load_rules
from reward_data.class_statistics import check_weights, load_class_weights
from reward_data.errors import ConfigError
from reward_data.preprocess import PreprocessConfig
from reward_data.readers import DatasetConfig
from rl4seg.configs.reward_tuning import COMPUTED, Estimator, TuningConfig, TuningEvaluationConfig
from rl4seg.configs.supervised import SupervisedConfig

MAIN, START, RULE = "reward tuning", "before tuning", "expected Dice rule"
RIVAL_NAMES: dict[Estimator, str] = {
    "cross_entropy": "CE continued",
    "dice": "Dice loss",
    "lovasz": "Lovász",
    "weighted_ce": "reward-weighted CE",
    "reinforce": "REINFORCE",
}


class RewardTuningConfig(SeedsRunConfig):
    """Reward tuning: train a policy on labels, then tune it on the metric that matters."""

    pipeline: str = Field(default="reward-tuning", description="Which pipeline the config is for.")
    dataset: DatasetConfig = Field(description="Labelled images with a validation or a test split.")
    preprocess: PreprocessConfig = Field(description="From native images to the network's grid.")
    rules: str | RuleSet | None = Field(
        default=None,
        description="Anatomical rules, for the reward validity: a shipped name, the path of a YAML rule set, or the "
        "set itself; null = none.",
    )
    policy: PolicyConfig = Field(
        default=PolicyConfig(),
        description="The policy; with policy.checkpoint it is tuned from there instead of being trained first.",
    )
    pretraining: SupervisedConfig = Field(
        default=SupervisedConfig(), description="The supervised training before it."
    )
    tuning: TuningConfig = Field(default=TuningConfig(), description="The tuning.")
    variants: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="Further arms by name: what is different from `tuning`, e.g. "
        "{greedy: {reinforce: {baseline: greedy}}}.",
    )
    rivals: tuple[Estimator, ...] = Field(
        default=("cross_entropy", "dice", "lovasz"),
        description="What it is compared with, each from the same policy in as many steps with the same batches.",
    )
    decision_rule: bool = Field(
        default=True,
        description="Compare with the mask of highest expected Dice at prediction, which needs no training.",
    )
    _list = field_validator("rivals", mode="before")(listed)

    @model_validator(mode="after")
    def _arms_can_be_told_apart(self) -> Self:
        taken = {MAIN, START, RULE, *RIVAL_NAMES.values()}
        clash = [name for name in self.variants if name in taken or " · " in name or not name.strip()]
        if clash:
            raise ValueError(f"variants: {clash[0]!r} is no name for an arm; choose another")
        self.arms()
        return self

    def arms(self) -> dict[str, TuningConfig]:
        """The tuning of every trained arm, by name; the main one first.

        Raises:
            ValueError: a variant that is no tuning.
        """
        named = {MAIN: self.tuning}
        for name, changes in self.variants.items():
            try:
                named[name] = TuningConfig.model_validate(_merged(self.tuning.model_dump(), changes))
            except ValidationError as error:
                first = error.errors()[0]
                place = ".".join(str(part) for part in first["loc"])
                raise ValueError(f"variants.{name}.{place}: {first['msg']}") from error
        for rival in dict.fromkeys(self.rivals):
            named[RIVAL_NAMES[rival]] = self.tuning.model_copy(update={"estimator": rival})
        return named

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names, class 0 first."""
        return self.dataset.labels.names

    @property
    def evaluation(self) -> TuningEvaluationConfig:
        """What is measured of every arm."""
        return TuningEvaluationConfig(reward=self.tuning.reward, ignore_index=self.tuning.ignore_index)

    def rule_set(self) -> RuleSet | None:
        """The anatomical rules, checked against the classes; None where there are none.

        Raises:
            ConfigError: the rule set does not exist or speaks of other classes.
        """
        if self.rules is None:
            return None
        rules = load_rules(self.rules) if isinstance(self.rules, str) else self.rules
        if tuple(rules.classes) != self.class_names:
            raise ConfigError(
                f"rule set {rules.name!r} is for classes {list(rules.classes)}, the label map names "
                f"{list(self.class_names)}; choose another rule set by rules=PATH or change dataset.labels.names"
            )
        return rules

    def located(self) -> Self:
        """The same run for a process elsewhere: inputs by absolute path, rules and class weights themselves."""
        dataset = self.dataset.model_copy(update={"path": located(self.dataset.path)})
        policy = self.policy.model_copy(update={"checkpoint": located(self.policy.checkpoint)})
        is_file = isinstance(self.rules, str) and Path(self.rules).is_file()
        rules = self.rule_set() if is_file else self.rules
        tuning = TuningConfig.model_validate(_located(self.tuning.model_dump()))
        changes = {"tuning": with_weights(tuning, self.class_names), "variants": _located(self.variants)}
        return self.model_copy(update={"dataset": dataset, "policy": policy, "rules": rules, **changes})


def with_weights(tuning: TuningConfig, class_names: tuple[str, ...]) -> TuningConfig:
    """The same tuning with the class weights themselves instead of the file that they are in.

    Raises:
        ConfigError: the file cannot be read, or there is not one weight per class.
    """
    weights = tuning.class_weights
    if weights is None or weights == COMPUTED:
        return tuning
    found = load_class_weights(Path(weights)) if isinstance(weights, str) else weights
    return tuning.model_copy(update={"class_weights": check_weights(found, class_names)})


def _located(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with the files that they name by absolute path: class weights, and rewards as file.py:function."""
    found = dict(settings)
    for name, value in settings.items():
        if name == "mix" and isinstance(value, dict):
            places = [reward.rpartition(":") for reward in value]
            named = [f"{located(file)}:{function}" if file else function for file, _, function in places]
            found[name] = dict(zip(named, value.values(), strict=True))
        elif name == "class_weights" and isinstance(value, str):
            found[name] = located(value)
        elif isinstance(value, dict):
            found[name] = _located(value)
    return found


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes``, key by key; the mix of rewards, weights by name, is replaced as a whole."""
    merged = dict(base)
    for name, value in changes.items():
        both = isinstance(value, dict) and isinstance(base.get(name), dict) and name not in ("mix", "weights")
        merged[name] = _merged(base[name], value) if both else value
    return merged


def check(config: RewardTuningConfig) -> None:
    """Refuse a run that cannot work, with one message.

    Raises:
        ConfigError: a checkpoint that does not exist; rules, class weights or an ignored value that do not fit the
            classes; a reward that cannot be found, or that fails when it is tried.
        DataError: a dataset that is missing or empty, or without labels to train on.
    """
    rules = config.rule_set()
    weights = config.pretraining.class_weights
    if weights is not None:
        check_weights(weights, config.class_names)
    checkpoint = config.policy.checkpoint
    if checkpoint is not None and not Path(checkpoint).exists():
        raise ConfigError(
            f"policy.checkpoint={checkpoint}: no such file or folder; give a policy folder or a state dict, or "
            "policy.checkpoint=null to train one"
        )
    check_labelled(config.dataset)
    for tuning in config.arms().values():
        with_weights(tuning, config.class_names)
        _try_rewards(tuning, config, rules)


def _try_rewards(tuning: TuningConfig, config: RewardTuningConfig, rules: RuleSet | None) -> None:
    from rl4seg.reward_registry import RewardMix, reward_context

    context = reward_context(tuning.reward, config.class_names, [], tuning.ignore_index, rules)
    RewardMix(tuning.reward).try_out(context, config.preprocess.shape)
