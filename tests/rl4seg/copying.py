"""A policy that copies: the class of a pixel is written in its intensity, 0, .5 or 1."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from reward_data.anatomy import RuleSet
from reward_data.preprocess import PreprocessConfig
from reward_data.rules import OnePiece
from reward_data.types import Float32, LabelMap, UInt8
from rl4seg.configs.network import NetworkConfig
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.package import ModelPackage, PackageSpec, TrustFlag
from rl4seg.policies import Model, ModelSpec
from rl4seg.reward_net import RewardModel
from rl4seg.runtime import Runtime, start

NAMES = ("background", "lv", "myo")
RULES = RuleSet(classes=NAMES, rules=(OnePiece(structure=("lv",)),))
RUNTIME: Runtime = start(RuntimeConfig(device="cpu", threads=1, batch_size=4))


class Copying(nn.Module):
    """Logits -40 (x - class / 2)^2. At x = class / 2 the softmax of that class is 1 / (1 + e^-10 + ...) = .99995."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        classes = torch.arange(3.0).reshape(1, 3, *[1] * (images.ndim - 2)) / 2
        return -40 * (images + self.shift - classes) ** 2


class Known(nn.Module):
    """A reward net of logit 0, that is probability .5, where the mask (channels 1.. of its input) says lv; else 20."""

    def forward(self, inputs: Tensor) -> Tensor:
        return 20 * (1 - inputs[:, 2:3])


def copying_package(
    shape: tuple[int, ...] = (16, 16),
    reward: bool = False,
    flag: float | None = None,
    preprocess: PreprocessConfig | None = None,
) -> ModelPackage:
    settings = preprocess or PreprocessConfig(shape=shape, intensity="none_clip01")
    model = Model(
        ModelSpec(network=NetworkConfig(), in_channels=1, class_names=NAMES, shape=settings.shape),
        Copying(),  # type: ignore[arg-type]
    )
    net = None
    if reward:
        spec = ModelSpec(
            network=NetworkConfig(), in_channels=4, class_names=("correct",), shape=settings.shape
        )
        net = RewardModel(Model(spec, Known()), 3, 1.0, RUNTIME)  # type: ignore[arg-type]
    trust = None
    if flag is not None:
        trust = TrustFlag(
            threshold=flag,
            dice_below=0.6,
            sensitivity=0.8,
            images=1,
            bad=0,
            found=None,
            flagged=0,
            basis="none",
        )
    spec_ = PackageSpec(
        name="copy", iteration=1, labels=LabelMap(names=NAMES), preprocess=settings, rules=RULES, trust=trust
    )
    return ModelPackage(spec_, model, net)


def image_of(labels: UInt8) -> Float32:
    """Shape: (*S) -> (1, *S)."""
    return (labels[None] / 2).astype(np.float32)


def ring(shape: tuple[int, ...], inner: float, outer: float) -> UInt8:
    """A disc of lv in a ring of myo, radii as shares of the smaller side."""
    grid = np.stack(np.meshgrid(*[np.arange(n) + 0.5 for n in shape], indexing="ij"))
    centre = np.array(shape).reshape(-1, *[1] * len(shape)) / 2
    distance = np.sqrt(((grid - centre) ** 2).sum(0)) / min(shape)
    return np.where(distance < inner, 1, np.where(distance < outer, 2, 0)).astype(np.uint8)
