"""Settings of supervised training."""

from __future__ import annotations

from pydantic import Field

from reward_data.types import Config
from rl4seg.configs.augment import AugmentConfig


class SupervisedConfig(Config):
    """Supervised training (Dice + cross-entropy, AdamW, one-cycle learning rate)."""

    epochs: int = Field(default=25, ge=1, description="Passes over the training images.")
    steps: int | None = Field(
        default=None, ge=1, description="Optimiser steps; overrides epochs where given."
    )
    batch_size: int = Field(default=16, ge=1, description="Images per step.")
    learning_rate: float = Field(default=3e-3, gt=0, le=1, description="Peak of the one-cycle schedule.")
    weight_decay: float = Field(default=1e-2, ge=0, description="AdamW weight decay.")
    dice_weight: float = Field(
        default=1.0, ge=0, description="Weight of soft Dice beside cross-entropy; 0 = CE alone."
    )
    class_weights: tuple[float, ...] | None = Field(
        default=None, description="Cross-entropy weight per class, background first; null = equal."
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="Cross-entropy label smoothing.")
    grad_norm: float = Field(default=1.0, gt=0, description="Largest gradient norm.")
    augment: AugmentConfig | None = Field(default=AugmentConfig(), description="Augmentation; null = none.")
    checkpoint_seconds: float = Field(
        default=20.0, ge=0, description="Time between checkpoints; 0 = every step."
    )
