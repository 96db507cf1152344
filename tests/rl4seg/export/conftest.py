"""A small model package that segments something: bright on dark, by a network trained for a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from reward_data.anatomy import RuleSet
from reward_data.preprocess import PreprocessConfig
from reward_data.types import LabelMap
from rl4seg.configs.network import NetworkConfig
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.package import ModelPackage, PackageSpec, TrustFlag, save_package
from rl4seg.policies import Model, ModelSpec, new_model
from rl4seg.reward_net import RewardModel
from rl4seg.runtime import start

NAMES = ("background", "grey", "bright")
SHAPE = (32, 32)
NETWORK = NetworkConfig(features=(8, 8, 8, 8, 8, 8))
FLAG = TrustFlag(
    threshold=0.5, dice_below=0.7, sensitivity=0.9, images=10, bad=2, found=1.0, flagged=0.2, basis="none"
)


def tiny_package(shape: tuple[int, ...] = SHAPE, reward: bool = True, **preprocess: object) -> ModelPackage:
    """Weights as drawn: masks mean nothing, but they have every class, and cross the image in fine lines."""
    settings = PreprocessConfig(shape=shape, **preprocess)
    channels = 1
    policy = new_model(ModelSpec(network=NETWORK, in_channels=channels, class_names=NAMES, shape=shape), 1)
    judge = new_model(
        ModelSpec(network=NETWORK, in_channels=channels + len(NAMES), class_names=("correct",), shape=shape),
        2,
    )
    _balance(policy, shape)
    runtime = start(RuntimeConfig(device="cpu", precision="float32", threads=1))
    spec = PackageSpec(
        name="tiny",
        iteration=2,
        labels=LabelMap(names=NAMES),
        preprocess=settings,
        rules=RuleSet(classes=NAMES),
        trust=FLAG,
        training={
            "source": {"cases": 20},
            "figures": {"split": "test", "dice_mean": [0.75, 0.1], "validity": 0.5},
        },
    )
    return ModelPackage(spec, policy, RewardModel(judge, len(NAMES), 1.7, runtime) if reward else None)


@torch.no_grad()
def _balance(model: Model, shape: tuple[int, ...]) -> None:
    """Shift the last layer's bias so that on noise every class has the same mean logit."""
    model.network.eval()
    noise = torch.rand(4, 1, *shape, generator=torch.Generator().manual_seed(0))
    last = [part for part in model.network.modules() if isinstance(part, torch.nn.Conv2d | torch.nn.Conv3d)][
        -1
    ]
    assert last.bias is not None
    last.weight.mul_(5)
    means = model.network(noise).mean(tuple(i for i in range(2 + len(shape)) if i != 1))
    last.bias.sub_(means.repeat_interleave(len(last.bias) // len(NAMES)))


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package folder."""
    folder = tmp_path_factory.mktemp("package") / "policy"
    save_package(tiny_package(), folder)
    return folder


def smooth_image(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """A smooth picture from 0 to 200, stored (x, y[, z])."""
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.random(shape), [2 if size > 8 else 0 for size in shape])
    return (200 * (field - field.min()) / np.ptp(field)).astype(np.float32)
