"""The lean PPO step: ``python -m tests.benchmarks.bench_ppo``. Time, passes and peak memory, one thread, 256x256.

The reference figure of a step (k = 5, batch 4, critic form, 7.8 M parameters) is 23.5 core-s and 2.32 GB.
"""

from __future__ import annotations

import resource
import time
from collections import Counter

import torch

from reward_data.anatomy import load_rules
from rl4seg.configs.network import NetworkConfig
from rl4seg.configs.ppo import PPOConfig, RewardConfig
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.networks import build_network
from rl4seg.policies import Model, ModelSpec
from rl4seg.ppo import Learner
from rl4seg.reward_net import RewardModel
from rl4seg.runtime import start
from rl4seg.target_data import Minibatch

PAPER = NetworkConfig(name="unet", features=(16, 32, 64, 128, 256, 512), fold=1, residual_units=2)
BATCH, SIDE, CLASSES = 4, 256, 3


def learner(network: NetworkConfig, precision: str) -> tuple[Learner, Counter[str]]:
    """A critic-form learner whose networks count their passes."""
    runtime = start(RuntimeConfig.model_validate({"device": "cpu", "threads": 1, "precision": precision}))
    config = PPOConfig(
        baseline="critic", samples=1, first_argmax=False, noise_mix=0, updates=5, anchor_weight=0,
        reward=RewardConfig(verdict=0, learned=1), critic=network,
    )  # fmt: skip
    policy, reference, critic, reward = (
        build_network(network, channels, outputs, 2, (seed,)).eval()
        for seed, (channels, outputs) in enumerate([(1, CLASSES), (1, CLASSES), (1, 1), (1 + CLASSES, 1)])
    )
    passes: Counter[str] = Counter()
    for module in (policy, reference, critic, reward):
        module.register_forward_hook(lambda *_: passes.update(["forward"]))
    for module in (policy, critic):
        last = list(module.parameters())[-1]
        last.register_post_accumulate_grad_hook(lambda _: passes.update(["backward"]))
    for frozen in (reference, reward):
        frozen.requires_grad_(False)
    spec = ModelSpec(network=network, in_channels=1 + CLASSES, class_names=("correct",), shape=(SIDE, SIDE))
    judge = RewardModel(Model(spec, reward), CLASSES, 1.0, runtime)
    optimiser = torch.optim.Adam([*policy.parameters(), *critic.parameters()], 5e-4)
    rules = load_rules("lv_myo")
    return Learner(config, 1, policy, reference, critic, judge, rules, optimiser, runtime), passes


def main() -> None:
    images = torch.rand(BATCH, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    none = torch.zeros(BATCH, dtype=torch.bool)
    batch = Minibatch(images, [(1.0, 1.0)] * BATCH, none, torch.zeros(BATCH, SIDE, SIDE).long())
    rows = [
        ("folded BasicUNet, float32", NetworkConfig(), "float32"),
        ("U-Net of the paper, float32", PAPER, "float32"),
    ]
    rows.append(("U-Net of the paper, bfloat16", PAPER, "bfloat16"))
    for name, network, precision in rows:
        subject, passes = learner(network, precision)
        subject.round(batch, [], torch.Generator().manual_seed(0))
        passes.clear()
        begun = time.process_time()
        subject.round(batch, [], torch.Generator().manual_seed(1))
        seconds = time.process_time() - begun
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"PPO step, k=5, batch 4, 256x256, {name}: {seconds:.1f} core-s, peak memory so far {peak:.2f} GB"
        )
        print(f"  passes: {passes['forward']} forward, {passes['backward']} backward (wanted <= 12, <= 10)")


if __name__ == "__main__":
    main()
