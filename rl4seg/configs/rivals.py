"""Settings of the rivals: the simple things that a user would try instead of the loop, at equal gradient steps."""

from __future__ import annotations

from pydantic import Field

from reward_data.types import Config
from rl4seg.configs.augment import AugmentConfig, DegradeConfig
from rl4seg.configs.ppo import PPOConfig
from rl4seg.data import batches_per_epoch

STRONG = AugmentConfig(
    rotation_degrees=30, scale=0.3, shift=0.15, brightness=0.3, contrast=0.5, gamma=0.6, noise=0.15,
    degrade=DegradeConfig(),
)  # fmt: skip
"""With degraded images: without them mean Dice .725 and validity .52 on a small phantom, with them .775 and .69."""


class StepBudget(Config):
    """How many optimiser steps the loop makes in all its iterations; every trained rival makes as many."""

    iterations: int = Field(ge=1, description="N: times around the loop.")
    epochs: int = Field(ge=1, description="Passes over the target images per iteration.")
    batch_size: int = Field(ge=1, description="Target images per round.")
    updates: int = Field(ge=1, description="Optimiser steps per round.")

    @classmethod
    def of(cls, iterations: int, ppo: PPOConfig) -> StepBudget:
        """The budget of a loop."""
        return cls(iterations=iterations, epochs=ppo.epochs, batch_size=ppo.batch_size, updates=ppo.updates)

    def steps(self, target_images: int) -> int:
        """iterations x epochs x ceil(target images / batch) x updates."""
        return (
            self.iterations * self.epochs * batches_per_epoch(target_images, self.batch_size) * self.updates
        )


class ContinuedConfig(Config):
    """Supervised fine-tuning of a trained policy by Dice + cross-entropy, with the loop's optimiser (fresh Adam)."""

    batch_size: int = Field(ge=1, description="Labelled images per step.")
    replay: int = Field(ge=0, description="Images of the second, replayed dataset beside them; 0 = none.")
    learning_rate: float = Field(gt=0, le=1, description="Adam, constant.")
    grad_norm: float = Field(gt=0, description="Largest gradient norm.")
    augment: AugmentConfig | None = Field(description="Augmentation; null = none.")
    checkpoint_seconds: float = Field(ge=0, description="Time between checkpoints; 0 = every step.")


class TentConfig(Config):
    """TENT (Wang et al. 2021, arXiv 2006.10726, section 4): Adam at 1e-3 outside ImageNet, no weight decay."""

    learning_rate: float = Field(default=1e-3, gt=0, le=1, description="Adam, constant.")


class MeanTeacherConfig(Config):
    """Mean Teacher (Tarvainen & Valpola 2017, arXiv 1703.01780), with the confidence mask of arXiv 1706.05208."""

    ema: float = Field(
        default=0.99,
        ge=0,
        lt=1,
        description="Share of the teacher that a step keeps (.99 in the paper while the student still moves quickly).",
    )
    consistency: float = Field(
        default=10.0,
        ge=0,
        description="Weight of the squared difference of the class probabilities beside Dice + cross-entropy.",
    )
    ramp: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="Share of the steps over which that weight rises as exp(-5 (1 - t)^2) (paper); 0 = at once.",
    )
    confidence: float = Field(
        default=0.8,
        ge=0,
        lt=1,
        description="Pixels count where the teacher's largest class probability is at least this; 0 = all.",
    )


class RivalsConfig(Config):
    """What the loop is compared with. Each costs the time of what it trains, in as many steps as the loop."""

    logit_bias: bool = Field(
        default=True, description="The source policy with a bias on the foreground logits."
    )
    post_processing: bool = Field(
        default=False, description="The source policy with the largest piece per class kept and holes filled."
    )
    strong_augmentation: bool = Field(
        default=False,
        description="The source policy trained on with strong augmentation of the source; needs a source.",
    )
    self_training: bool = Field(
        default=False,
        description="The source policy trained on its own valid predictions, made once, with augmentation.",
    )
    ppo_off: bool = Field(
        default=True, description="The same loop, the same steps, without the policy gradient."
    )
    tent: bool = Field(
        default=False, description="Entropy minimisation of the normalisation layers' scale and shift (TENT)."
    )
    mean_teacher: bool = Field(
        default=False,
        description="Consistency with an averaged teacher on target images, labels of the source.",
    )
    upper_bound: bool = Field(
        default=False, description="The source policy trained on with the target's own labels; needs them."
    )
    strong_augment: AugmentConfig = Field(default=STRONG, description="What strong_augmentation draws.")
    tent_training: TentConfig = Field(default=TentConfig(), description="How TENT is trained.")
    mean_teacher_training: MeanTeacherConfig = Field(
        default=MeanTeacherConfig(), description="How the mean teacher is trained."
    )

    def all(self, upper_bound: bool) -> RivalsConfig:
        """The same settings with every rival on; the upper bound as said, as it needs target labels."""
        switches = {name: True for name, field in type(self).model_fields.items() if field.annotation is bool}
        return self.model_copy(update=switches | {"upper_bound": upper_bound})
