"""Settings of the PPO fine-tuning and of its reward."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from reward_data.types import Config
from rl4seg.configs.augment import AugmentConfig, DegradeConfig
from rl4seg.configs.network import NetworkConfig


class RewardConfig(Config):
    """Weights of the reward's parts; the per-pixel reward is their sum."""

    verdict: float = Field(
        default=0.5,
        ge=0,
        description="Weight of the anatomical verdict (1 valid, 0 not), equal for all pixels of a mask.",
    )
    learned: float = Field(
        default=1.0, ge=0, description="Weight of the reward net's calibrated probability, per pixel."
    )


class ShrinkPerturb(Config):
    """w <- shrink w + N(0, sigma) before an iteration; normalisation layers are left alone."""

    shrink: float = Field(default=0.5, gt=0, le=1, description="Factor on the weights.")
    sigma: float = Field(default=0.01, ge=0, description="Standard deviation of the added noise.")


class PPOConfig(Config):
    """Fine-tuning of the policy. Defaults are the anchored, group-relative recipe; the paper has its own YAML."""

    epochs: int = Field(default=3, ge=1, description="Passes over the target images per iteration.")
    batch_size: int = Field(default=16, ge=1, description="Images per rollout.")
    updates: int = Field(default=3, ge=1, description="k: clipped updates per rollout.")
    samples: int = Field(default=4, ge=1, description="M: masks sampled per image.")
    first_argmax: bool = Field(default=True, description="Let the first mask of an image be the argmax.")
    noise_mix: float = Field(
        default=0.9,
        ge=0,
        le=1,
        description="Amplitude of the spatially correlated part of the sampling noise; the rest is white.",
    )
    noise_length: float = Field(
        default=0.06, gt=0, le=1, description="Correlation length as a share of the image side."
    )
    baseline: Literal["group", "critic"] = Field(
        default="group", description="Group-relative over the M masks, or a per-pixel critic."
    )
    critic: NetworkConfig = Field(
        default=NetworkConfig(), description="The critic's architecture (baseline=critic)."
    )
    reward: RewardConfig = Field(default=RewardConfig(), description="What a mask earns.")
    policy_weight: float = Field(
        default=1.0,
        ge=0,
        description="Weight of the policy gradient; 0 switches PPO off and leaves the anchor.",
    )
    advantage_scale: float = Field(default=0.3, gt=0, description="Factor on the advantage.")
    advantage_floor: float = Field(default=0.05, gt=0, description="Added to the group's standard deviation.")
    clip: float = Field(default=0.2, gt=0, lt=1, description="eps of the clipped surrogate.")
    learning_rate: float = Field(default=5e-4, gt=0, le=1, description="Adam, fresh in every iteration.")
    critic_learning_rate: float = Field(default=5e-4, gt=0, le=1, description="Adam of the critic.")
    grad_norm: float = Field(default=0.5, gt=0, description="Largest gradient norm.")
    entropy: float = Field(default=0.005, ge=0, description="Entropy bonus, divided by the iteration number.")
    divergence: float = Field(
        default=0.05,
        ge=0,
        description="Weight of the divergence from the reference, divided by the iteration number.",
    )
    divergence_in: Literal["loss", "reward"] = Field(
        default="loss", description="KL as a loss term, or log pi - log pi_ref taken off the reward."
    )
    anchor_weight: float = Field(
        default=1.0,
        ge=0,
        description="Weight of Dice + cross-entropy on the accepted predictions; 0 = no anchor.",
    )
    anchor_batch: int = Field(default=16, ge=1, description="Accepted images per update.")
    source_replay: int = Field(
        default=16,
        ge=0,
        description="Labelled source images beside the accepted ones in every update, where there is a source: what "
        "keeps self-training from drifting. 0 = none.",
    )
    anchor_augment: AugmentConfig | None = Field(
        default=AugmentConfig(degrade=DegradeConfig()), description="Augmentation of the anchor; null = none."
    )
    act_degrade: DegradeConfig | None = Field(
        default=DegradeConfig(share=1.0),
        description="The policy acts on a degraded view of the image, while the reward and the reference see the image "
        "itself (asymmetric actor-critic, arXiv 1710.06542); null = all see the image.",
    )
    accepted_images: Literal["left_to_anchor", "judged", "as_actions"] = Field(
        default="left_to_anchor",
        description="What the policy gradient does on images whose mask was accepted. left_to_anchor: nothing, the "
        "anchor teaches them and the reward acts where no truth is known; judged: as on all images; as_actions: the "
        "accepted mask is the action, with reward 1 (the paper).",
    )
    shrink_perturb: ShrinkPerturb | None = Field(
        default=None, description="Shrink and perturb before iterations 2, 3, ...; null = never."
    )
    checkpoint_seconds: float = Field(
        default=20.0, ge=0, description="Time between checkpoints; 0 = every round."
    )

    @model_validator(mode="after")
    def _something_to_learn(self) -> PPOConfig:
        if self.policy_weight == 0 and self.anchor_weight == 0:
            raise ValueError("policy_weight and anchor_weight are both 0: nothing would be learned")
        if self.policy_weight and self.accepted_images == "left_to_anchor" and self.anchor_weight == 0:
            raise ValueError(
                "accepted_images=left_to_anchor, but anchor_weight is 0: nothing would teach the accepted images; use "
                "accepted_images=judged, or give anchor_weight"
            )
        if self.policy_weight and self.baseline == "group" and self.samples < 2:
            raise ValueError(
                "baseline=group compares masks of one image: samples must be at least 2, or use critic"
            )
        return self

    @property
    def needs_reward_net(self) -> bool:
        """Whether a reward net is read at all."""
        return self.policy_weight > 0 and self.reward.learned > 0
