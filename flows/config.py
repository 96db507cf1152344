"""The run config of the auto-iteration flow: one frozen pydantic tree, which is also the dashboard's form."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from flows.config_base import RunConfig, located
from reward_data.anatomy import RuleSet, load_rules
from reward_data.errors import ConfigError
from reward_data.preprocess import PreprocessConfig
from reward_data.readers import DatasetConfig
from reward_data.review import ReviewConfig
from reward_data.synthesis import SynthesisConfig
from reward_data.types import Config
from rl4seg.configs.evaluation import EvaluationConfig
from rl4seg.configs.network import NetworkConfig
from rl4seg.configs.ppo import PPOConfig
from rl4seg.configs.reward_net import RewardNetConfig
from rl4seg.configs.rivals import RivalsConfig
from rl4seg.configs.stop import StopConfig
from rl4seg.configs.supervised import SupervisedConfig
from rl4seg.configs.trust import TrustConfig


class PolicyConfig(Config):
    """The policy that is adapted."""

    network: NetworkConfig = Field(default=NetworkConfig(), description="Its architecture.")
    checkpoint: str | None = Field(
        default=None,
        description="Start from this policy folder, or from a state dict (.safetensors, .pt) of `network`, instead of "
        "training on the source.",
    )


class AutoIterationConfig(RunConfig):
    """RL4Seg: adapt a segmentation policy to an unlabelled target domain."""

    pipeline: str = Field(default="auto-iteration", description="Which pipeline the config is for.")
    iterations: int = Field(default=4, ge=1, le=100, description="N: times around the loop.")
    source: DatasetConfig | None = Field(
        default=None, description="Labelled source domain; may be null where policy.checkpoint is given."
    )
    target: DatasetConfig = Field(
        description="Unlabelled target domain; labels, if any, are used to evaluate only."
    )
    preprocess: PreprocessConfig = Field(
        description="From native images to the network's grid, for both domains."
    )
    rules: str | RuleSet = Field(
        default="lv_myo",
        description="Anatomical rules: a shipped name, the path of a YAML rule set, or the set itself.",
    )
    policy: PolicyConfig = Field(default=PolicyConfig(), description="The policy.")
    source_training: SupervisedConfig = Field(
        default=SupervisedConfig(), description="Supervised source training."
    )
    shape_components: int = Field(
        default=60, ge=1, description="Principal components of the shape prior fitted on the source masks."
    )
    synthesis: SynthesisConfig = Field(
        default=SynthesisConfig(), description="How the reward dataset is made."
    )
    reward_net: RewardNetConfig = Field(default=RewardNetConfig(), description="The reward net.")
    ppo: PPOConfig = Field(default=PPOConfig(), description="The fine-tuning.")
    evaluation: EvaluationConfig = Field(default=EvaluationConfig(), description="What is measured.")
    stop: StopConfig = Field(
        default=StopConfig(), description="Which iteration is handed out, and the collapse alarm."
    )
    trust: TrustConfig = Field(
        default=TrustConfig(), description="Below which trust the model's masks are flagged."
    )
    review: ReviewConfig = Field(default=ReviewConfig(), description="The expert in the loop.")
    rivals: RivalsConfig = Field(default=RivalsConfig(), description="What the loop is compared with.")

    @model_validator(mode="before")
    @classmethod
    def _of_an_older_run(cls, data: Any) -> Any:
        """In the folders of older runs ``rivals`` has the name ``controls``."""
        if not isinstance(data, dict) or "controls" not in data or "rivals" in data:
            return data
        return {"rivals" if key == "controls" else key: value for key, value in data.items()}

    @model_validator(mode="after")
    def _has_a_start(self) -> AutoIterationConfig:
        if self.source is None and self.policy.checkpoint is None:
            raise ValueError(
                "no source and no policy.checkpoint: give a labelled source dataset or a trained policy to start from"
            )
        if self.source is not None and self.source.labels.names != self.target.labels.names:
            raise ValueError(
                f"source.labels.names {self.source.labels.names} and target.labels.names {self.target.labels.names} "
                "differ, but both domains need the same classes; merge what only one of them has by labels.merge"
            )
        return self

    @model_validator(mode="after")
    def _reviews_are_learned_from(self) -> Self:
        if self.review.enabled and self.review.after >= self.iterations:
            raise ValueError(
                f"review.after={self.review.after} of {self.iterations} iterations: nobody would learn from the "
                "review; give a smaller review.after or more iterations"
            )
        return self

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names, background first."""
        return self.target.labels.names

    def rule_set(self) -> RuleSet:
        """The anatomical rules, checked against the classes.

        Raises:
            ConfigError: the rule set does not exist or speaks of classes that the label map does not name.
        """
        rules = load_rules(self.rules) if isinstance(self.rules, str) else self.rules
        if tuple(rules.classes) != self.class_names:
            raise ConfigError(
                f"rule set {rules.name!r} is for classes {list(rules.classes)}, the label map names "
                f"{list(self.class_names)}; choose another rule set by rules=PATH or change target.labels.names"
            )
        return rules

    def located(self) -> Self:
        """The same run for a process elsewhere: inputs by absolute path, the rules themselves instead of their file."""
        source = self.source and self.source.model_copy(update={"path": located(self.source.path)})
        target = self.target.model_copy(update={"path": located(self.target.path)})
        policy = self.policy.model_copy(update={"checkpoint": located(self.policy.checkpoint)})
        is_file = isinstance(self.rules, str) and Path(self.rules).is_file()
        rules = self.rule_set() if is_file else self.rules
        return self.model_copy(update={"source": source, "target": target, "policy": policy, "rules": rules})
