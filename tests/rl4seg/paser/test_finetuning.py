"""Nets and policy in turn: who learns, on which pixels, and with the same bits after a kill."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from rl4seg.configs.paser import FinetuningConfig, PolicyTrainingConfig, RoutingRewardConfig
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.paser.finetuning import Finetuning, finetune_routing, routed_loss
from rl4seg.runtime import start
from tests.rl4seg.paser.conftest import small_nets, small_router

RUNTIME = RuntimeConfig(device="cpu", threads=1)
IMAGES = torch.rand((4, 1, 16, 18), generator=torch.Generator().manual_seed(0))
TRUTH = (3 * torch.rand((4, 16, 18), generator=torch.Generator().manual_seed(1))).long()


def work(steps: int = 6, margin: int = 0) -> Finetuning:
    router = small_router(small_nets(), (3, 4), margin=margin)
    config = FinetuningConfig(steps=steps, batch_size=2, checkpoint_seconds=0, net_learning_rate=1e-2)
    weights = torch.tensor([1.0, 2.0, 1.0])
    return Finetuning(router, RoutingRewardConfig(), PolicyTrainingConfig(), config, weights)


def weights_of(job: Finetuning) -> list[dict[str, Tensor]]:
    modules = [*(model.network for model in job.router.nets.models), job.router.policy]
    return [{name: value.clone() for name, value in module.state_dict().items()} for module in modules]


def test_the_smallest_net_stays_and_all_others_learn(tmp_path: Path) -> None:
    job = work()
    before = weights_of(job)
    history = finetune_routing(job, IMAGES, TRUTH, 0, start(RUNTIME), tmp_path)
    moved = [
        any(not torch.equal(old[name], new[name]) for name in old)
        for old, new in zip(before, weights_of(job), strict=True)
    ]
    assert moved == [False, True, True, True]
    assert len(history) == 6
    assert not any(name.endswith("running_mean") and not torch.equal(before[2][name], value)
                   for name, value in weights_of(job)[2].items())  # fmt: skip


def test_a_killed_finetuning_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole, killed, resumed = work(), work(), work()
    finetune_routing(whole, IMAGES, TRUTH, 0, start(RUNTIME), tmp_path / "whole")

    def progress(done: int, total: int, metrics: object = None) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune_routing(killed, IMAGES, TRUTH, 0, start(RUNTIME), tmp_path / "killed", progress)
    finetune_routing(resumed, IMAGES, TRUTH, 0, start(RUNTIME), tmp_path / "killed")
    for one, other in zip(weights_of(whole), weights_of(resumed), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


@torch.no_grad()
def test_a_net_is_judged_on_the_own_pixels_of_its_patches_alone() -> None:
    job, runtime = work(margin=2), start(RUNTIME)
    chosen = torch.tensor([[0, 5]])
    own = job.grid(IMAGES).own[5]
    base = routed_loss(job, 1, IMAGES, TRUTH, chosen, runtime)
    elsewhere, inside = TRUTH.clone(), TRUTH.clone()
    outside = torch.ones(16, 18, dtype=torch.bool)
    outside[own] = False
    elsewhere[0][outside] = 2 - elsewhere[0][outside]
    inside[0][own] = (inside[0][own] + 1) % 3
    assert torch.equal(routed_loss(job, 1, IMAGES, elsewhere, chosen, runtime), base)
    assert not torch.equal(routed_loss(job, 1, IMAGES, inside, chosen, runtime), base)
