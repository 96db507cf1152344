"""Settings of PatchDrop: which parts of an image to see at high resolution (arXiv 2003.00425)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from reward_data.types import Config
from rl4seg.configs.reward_tuning import Baseline

Family = Literal["small", "r32", "r18", "r34", "r50"]
Chooser = Literal["policy", "all", "none", "random", "centre", "frequent"]
"""Which patches are kept: as the policy says, all, none; or as many as the policy keeps: at random, those nearest to
the centre, those that the policy keeps most often."""

MODEL_FOLDER = "model"
"""Where a run keeps the model that it hands out."""


class ResNetConfig(Config):
    """A residual network (MONAI)."""

    family: Family = Field(
        default="small",
        description="small: 3 stages of 1 block; r32: 3 stages of 5, as published for 32 pixels; r18, r34, r50: as "
        "published for 224 pixels (7 x 7 first, stride 2, pooled).",
    )
    layers: tuple[int, ...] | None = Field(
        default=None, min_length=3, max_length=4, description="Blocks per stage; null: the family's."
    )
    widths: tuple[int, ...] | None = Field(
        default=None, min_length=3, max_length=4, description="Channels per stage; null: the family's."
    )
    kernel: int | None = Field(default=None, ge=1, le=11, description="First kernel; null: the family's.")
    stride: int | None = Field(default=None, ge=1, le=4, description="First stride; null: the family's.")
    norm: Literal["group", "batch"] = Field(
        default="group",
        description="Normalisation. batch is the published one; its running statistics are those of the images "
        "trained with, which go stale when patches are dropped. group keeps none.",
    )
    patch_stages: int = Field(
        default=0,
        ge=0,
        le=4,
        description="Stages that run patch by patch, on kept patches only, so that dropped ones cost nothing. 0: the "
        "whole image with dropped patches set to the mean colour, as published: no compute is saved.",
    )

    @model_validator(mode="after")
    def _stages_agree(self) -> ResNetConfig:
        given = [len(value) for value in (self.layers, self.widths) if value is not None]
        if any(count != given[0] for count in given):
            raise ValueError(f"layers {self.layers} and widths {self.widths} must have one entry per stage")
        return self


class KeepNetConfig(Config):
    """The policy: one keep-logit per patch from the low-resolution image."""

    head: Literal["dense", "grid"] = Field(
        default="dense",
        description="dense: a residual network whose last layer has one output per patch, as published; grid: a "
        "convolutional network pooled to the grid, which says of every patch the same about the same content.",
    )
    network: ResNetConfig = Field(default=ResNetConfig(), description="head=dense.")
    features: int = Field(default=32, ge=4, description="Channels, head=grid.")


class ClassifierTrainingConfig(Config):
    """Supervised training of a classifier (cross-entropy, AdamW, one-cycle learning rate)."""

    epochs: float = Field(default=20, gt=0, description="Passes over the training images.")
    steps: int | None = Field(
        default=None, ge=1, description="Optimiser steps; overrides epochs where given."
    )
    batch_size: int = Field(default=128, ge=1, description="Images per step.")
    learning_rate: float = Field(default=5e-3, gt=0, le=1, description="Peak of the one-cycle schedule.")
    weight_decay: float = Field(default=5e-2, ge=0, description="AdamW weight decay.")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="Cross-entropy label smoothing.")
    grad_norm: float = Field(default=1.0, gt=0, description="Largest gradient norm.")
    flip: bool = Field(default=True, description="Flip half of the images left to right.")
    shift: float = Field(
        default=0.125, ge=0, lt=1, description="Whole-pixel shift in +- this share of the image."
    )
    checkpoint_seconds: float = Field(
        default=20.0, ge=0, description="Time between checkpoints; 0 = every step."
    )


class KeepTrainingConfig(Config):
    """Training of a keep-or-drop policy by REINFORCE, alone or with the classifier."""

    epochs: float = Field(default=20, gt=0, description="Passes over the training images.")
    steps: int | None = Field(
        default=None, ge=1, description="Optimiser steps; overrides epochs where given."
    )
    batch_size: int = Field(default=256, ge=1, description="Images per step.")
    samples: int = Field(default=1, ge=1, description="M: keep maps sampled per image.")
    learning_rate: float = Field(default=1e-3, gt=0, le=1, description="AdamW, constant, policy.")
    classifier_rate: float = Field(default=1e-3, ge=0, le=1, description="The same, classifier (Ft-1, Ft-2).")
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW weight decay.")
    grad_norm: float = Field(default=1.0, gt=0, description="Largest gradient norm.")
    penalty: float = Field(
        default=-0.5, le=0, description="Reward of a wrong answer (-.5 pretraining; -10, -20 fine-tuning)."
    )
    alpha: float = Field(
        default=0.8, gt=0.5, le=1, description="Smoothing: p <- alpha p + (1 - alpha)(1 - p); 1 = none."
    )
    alpha_end: float | None = Field(
        default=None, gt=0.5, le=1, description="alpha at the last step, reached linearly; null = constant."
    )
    baseline: Baseline = Field(
        default="greedy", description="greedy: the thresholded policy's reward (self-critical, published)."
    )
    log_prob: Literal["sum", "mean"] = Field(
        default="mean", description="log pi of a keep map: mean over its patches (published) or their sum."
    )
    flip: bool = Field(default=True, description="Flip half of the images left to right.")
    shift: float = Field(
        default=0.0, ge=0, lt=1, description="Whole-pixel shift in +- this share of the image."
    )
    checkpoint_seconds: float = Field(
        default=20.0, ge=0, description="Time between checkpoints; 0 = every step."
    )

    @model_validator(mode="after")
    def _has_a_comparison(self) -> KeepTrainingConfig:
        if self.baseline == "leave_one_out" and self.samples < 2:
            raise ValueError("baseline=leave_one_out compares keep maps of one image: give samples=2 or more")
        if self.baseline == "batch_mean" and self.batch_size * self.samples < 2:
            raise ValueError("baseline=batch_mean needs two keep maps per step: give a larger batch_size")
        return self


class LatencyConfig(Config):
    """How the time per image is measured."""

    images: int = Field(default=256, ge=1, description="Held-out images that are timed.")
    batch_sizes: tuple[PositiveInt, ...] = Field(
        default=(1, 64), min_length=1, description="Images per call."
    )
    repeats: int = Field(default=3, ge=1, description="Rounds, the arms in turn; the median counts.")


class DropWindowsConfig(Config):
    """Which windows of a large image are seen at full resolution."""

    grid: tuple[PositiveInt, ...] = Field(
        default=(8, 8), min_length=1, description="Cells (windows) per axis."
    )
    margin: int = Field(
        default=16, ge=0, description="Pixels around a cell that the fine network sees as well."
    )
    coarse_shape: tuple[PositiveInt, ...] = Field(
        default=(128, 128), min_length=1, description="Pixels of the low-resolution image."
    )
    policy_share: float = Field(
        default=0.4,
        gt=0,
        lt=1,
        description="Share of the training groups that only the policy learns from: of images that the networks were "
        "trained on it would learn what the fine one remembers, not what it adds.",
    )
    random_draws: int = Field(default=8, ge=1, description="Draws of random windows that are averaged.")
    repeats: int = Field(
        default=3, ge=1, description="Rounds of timing, the arms in turn; the median counts."
    )
