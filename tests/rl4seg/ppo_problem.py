"""A segmentation problem whose best mask is known: class 1 where the image is bright. The reward says so per pixel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reward_data.anatomy import RuleSet
from rl4seg.configs.network import NetworkConfig
from rl4seg.configs.ppo import PPOConfig, RewardConfig
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.ppo import Learner
from rl4seg.reward_net import RewardModel
from rl4seg.runtime import start
from rl4seg.target_data import Minibatch

RUNTIME = start(RuntimeConfig(device="cpu", threads=1))
RULES = RuleSet(name="anything", classes=("background", "bright"), rules=())
NETWORK = NetworkConfig(features=(4, 4, 8, 8, 8, 4), fold=1)


class Pixelwise(nn.Module):
    """A policy or critic over single pixels; with a batch norm on request."""

    def __init__(self, outputs: int, norm: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [
            nn.Conv2d(1, 8, 1),
            nn.BatchNorm2d(8) if norm else nn.Identity(),
            nn.Tanh(),
            nn.Conv2d(8, outputs, 1),
        ]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits


class TruthReward(RewardModel):
    """Knows the truth; counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def score(self, images: Tensor, masks: Tensor) -> Tensor:
        self.calls += 1
        return (masks == (images > 0.5)).float()


def batch(seed: int, count: int = 8) -> Minibatch:
    images = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return Minibatch(
        images, [(1.0, 1.0)] * count, torch.zeros(count, dtype=torch.bool), torch.zeros(count, 8, 8).long()
    )


def learner(config: PPOConfig, norm: bool = False) -> Learner:
    policy, reference = Pixelwise(2, norm).eval(), Pixelwise(2, norm).eval().requires_grad_(False)
    critic = Pixelwise(1).eval() if config.baseline == "critic" else None
    networks = [policy, *([critic] if critic else [])]
    optimiser = torch.optim.Adam([p for n in networks for p in n.parameters()], config.learning_rate)
    return Learner(config, 1, policy, reference, critic, TruthReward(), RULES, optimiser, RUNTIME)


def config(baseline: str, **changes: object) -> PPOConfig:
    plain = {
        "baseline": baseline,
        "reward": RewardConfig(verdict=0, learned=1),
        "advantage_scale": 1.0,
        "learning_rate": 0.02,
        "samples": 4 if baseline == "group" else 1,
        "first_argmax": False,
        "noise_mix": 0.0,
        "divergence": 0.0,
        "entropy": 0.0,
        "act_degrade": None,
    }
    return PPOConfig.model_validate(plain | changes)


def accuracy(policy: nn.Module) -> float:
    images = batch(999, 32).images
    return float((policy(images).argmax(1) == (images[:, 0] > 0.5)).float().mean())
