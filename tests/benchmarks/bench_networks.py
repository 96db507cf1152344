"""Forward, training and reward-net steps at 256x256 on one thread: ``python -m tests.benchmarks.bench_networks``.

Reference: U-Net forward / forward+backward at batch 4: 10.1 / 3.2 images per core-s; reward-net step of 16: 5.0 core-s.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from rl4seg.configs.network import NetworkConfig
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.losses import correctness_loss, dice_cross_entropy
from rl4seg.networks import build_network
from rl4seg.runtime import start
from tests.benchmarks.bench_ppo import CLASSES, PAPER, SIDE


def core_seconds(work: Callable[[], object]) -> float:
    """Core time of the second call."""
    work()
    begun = time.process_time()
    work()
    return time.process_time() - begun


def measure(name: str, network: NetworkConfig, precision: str) -> None:
    """Print one line for one network in one precision."""
    runtime = start(RuntimeConfig.model_validate({"device": "cpu", "threads": 1, "precision": precision}))
    policy, reward = build_network(network, 1, CLASSES, 2), build_network(network, 1 + CLASSES, 1, 2)
    images, labels = torch.rand(4, 1, SIDE, SIDE), torch.zeros(4, SIDE, SIDE).long()
    inputs, correct = torch.rand(16, 1 + CLASSES, SIDE, SIDE), torch.ones(16, SIDE, SIDE)

    def forward() -> None:
        with torch.no_grad(), runtime.autocast():
            policy(images)

    def train() -> None:
        with runtime.autocast():
            logits = policy(images)
        dice_cross_entropy(logits, labels).backward()

    def reward_step() -> None:
        with runtime.autocast():
            logits = reward(inputs)[:, 0]
        correctness_loss(logits, correct).backward()

    print(
        f"{name}, {precision}, 256x256: forward {4 / core_seconds(forward):.1f}, forward+backward "
        f"{4 / core_seconds(train):.1f} images per core-s; reward-net step: {core_seconds(reward_step):.1f} core-s"
    )


def main() -> None:
    for name, network in (("U-Net of the paper", PAPER), ("folded BasicUNet", NetworkConfig())):
        for precision in ("float32", "bfloat16"):
            measure(name, network, precision)


if __name__ == "__main__":
    main()
