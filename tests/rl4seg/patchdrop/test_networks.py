"""Classifiers that truly skip: dropped pixels have no say, and dropped patches cost nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from reward_data.errors import ConfigError
from rl4seg.configs.patchdrop import KeepNetConfig, ResNetConfig
from rl4seg.patchdrop.networks import (
    DropClassifier,
    KeepNetwork,
    build_resnet,
    check_fits,
    has_running_statistics,
)

GREY = ((0.5,), (0.25,))


def classifier(patch_stages: int, grid: tuple[int, ...] = (4, 4), **settings: object) -> DropClassifier:
    config = ResNetConfig.model_validate({"widths": (8, 8, 8), "patch_stages": patch_stages, **settings})
    return DropClassifier(config, grid, GREY, 3, 0).eval()


def images(count: int = 3, *shape: int) -> torch.Tensor:
    return torch.rand(count, 1, *(shape or (32, 32)), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("patch_stages", [0, 1, 2])
def test_pixels_of_dropped_patches_have_no_say(patch_stages: int) -> None:
    network, seen = classifier(patch_stages), images()
    keep = torch.zeros(3, 16, dtype=torch.bool)
    keep[:, 5] = True  # row 1, column 1: pixels 8..15
    other = images(3) + 0.3
    other[..., 8:16, 8:16] = seen[..., 8:16, 8:16]
    with torch.no_grad():
        torch.testing.assert_close(network(seen, keep), network(other, keep))
        assert not torch.allclose(network(seen, keep), network(seen + 0.3, keep))
        torch.testing.assert_close(network(seen), network(seen, torch.ones(3, 16, dtype=torch.bool)))


def test_every_image_has_its_own_patches() -> None:
    # in a batch the kept patches of all images go through the stem together: none may end in another image
    network, seen = classifier(2), images()
    keep = torch.tensor([[True] * 16, [False] * 16, [True, False] * 8])
    with torch.no_grad():
        together = network(seen, keep)
        alone = torch.cat([network(seen[i : i + 1], keep[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("patch_stages", [0, 2])
def test_several_maps_of_an_image_have_the_answers_that_each_has_alone(patch_stages: int) -> None:
    network, seen = classifier(patch_stages), images()
    keep = torch.rand(3, 4, 16, generator=torch.Generator().manual_seed(0)) < 0.4
    keep[0, 0] = False
    with torch.no_grad():
        alone = torch.stack([network(seen, part) for part in keep.unbind(1)], 1)
        torch.testing.assert_close(network.of_maps(seen, keep), alone)


def macs(network: nn.Module, kept: int | None) -> float:
    keep = None
    if kept is not None:
        keep = torch.zeros(1, 16, dtype=torch.bool)
        keep[:, :kept] = True
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(images(1), keep)
    return counter.get_total_flops() / 2


def test_cost_falls_with_dropped_patches_where_patches_run_by_themselves() -> None:
    patchwise, whole = classifier(2, stride=2), classifier(0, stride=2)
    assert macs(whole, 1) == macs(whole, 16)  # as published: nothing is saved
    # the stem of one of 16 patches, by hand: first convolution 16 pixels x 9 x 8 channels = 1152; stage 1 two of
    # 16 x 9 x 64 = 18432; stage 2 at 4 pixels: two of 4 x 9 x 64 = 4608, and a 1 x 1 shortcut of 4 x 64 = 256
    per_patch = 1152 + 18432 + 4608 + 256
    assert macs(patchwise, 16) - macs(patchwise, 4) == 12 * per_patch
    assert macs(patchwise, None) == macs(patchwise, 16)
    assert macs(patchwise, 4) < 0.4 * macs(patchwise, 16)


def test_families_have_the_published_depths() -> None:
    def layers(config: ResNetConfig) -> int:
        network = build_resnet(config, 3, 10, 2, 0)
        convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
        return len(convolutions) + 1  # and the last, linear one

    assert layers(ResNetConfig(family="r32")) == 32
    assert layers(ResNetConfig(family="r34")) == 34
    # r50: one 7 x 7, 16 bottlenecks of which the 3 x 3 is counted here, the linear one: 18, the others are 1 x 1
    assert layers(ResNetConfig(family="r50")) == 18
    # r34: 21.8 million parameters with 1000 classes, as torchvision's
    count = sum(p.numel() for p in build_resnet(ResNetConfig(family="r34"), 3, 1000, 2, 0).parameters())
    assert count == 21_797_672


def test_group_normalisation_is_everywhere_and_batch_is_what_was_asked_for() -> None:
    assert not has_running_statistics(build_resnet(ResNetConfig(), 1, 2, 2, 0))
    assert has_running_statistics(build_resnet(ResNetConfig(norm="batch"), 1, 2, 2, 0))


@pytest.mark.parametrize("head", ["dense", "grid"])
def test_the_policy_has_a_logit_per_patch(head: str) -> None:
    config = KeepNetConfig.model_validate({"head": head, "features": 8})
    policy = KeepNetwork(config, (2, 4), GREY, 0).eval()
    with torch.no_grad():
        assert policy(images(2, 8, 16)).shape == (2, 8)


def test_volumes() -> None:
    network = classifier(1, (2, 2, 2))
    policy = KeepNetwork(KeepNetConfig(head="grid", features=4), (2, 2, 2), GREY, 0).eval()
    with torch.no_grad():
        keep = policy(images(2, 4, 4, 4)) > 0
        assert network(images(2, 16, 16, 16), keep).shape == (2, 3)


def test_equal_seeds_equal_weights() -> None:
    one, same, other = (build_resnet(ResNetConfig(), 1, 2, 2, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["conv1.weight"], other["conv1.weight"])


def test_networks_that_do_not_fit_the_patches_are_refused() -> None:
    check_fits(ResNetConfig(patch_stages=2, stride=2), (4, 4), (32, 32), "networks.high")
    for config, message in (
        (ResNetConfig(patch_stages=4), "has 3 stages"),
        # 8 pixels: 7 x 7 stride 2 -> 4, pool -> 2, stages 2, 3, 4 would halve to 1, .5, ..
        (ResNetConfig(family="r18", patch_stages=4), r"networks.high.patch_stages=4: a patch of 8 x 8"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_fits(config, (4, 4), (32, 32), "networks.high")
