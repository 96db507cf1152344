"""Routing and stitching are what running every net everywhere and choosing afterwards gives, or to rounding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rl4seg.paser.grid import PatchGrid
from rl4seg.paser.nets import Nets
from rl4seg.paser.router import Router
from tests.rl4seg.paser.conftest import small_nets, small_router


def chosen_afterwards(router: Router, images: Tensor, actions: Tensor) -> Tensor:
    """Every net on every patch; then, pixel by pixel, the answer of the net of the patch that owns the pixel."""
    everywhere = torch.stack([router.alone(images, net) for net in range(len(router.nets))])
    out = torch.empty_like(everywhere[0])
    grid = router.grid(tuple(images.shape[2:]))
    for image in range(len(images)):
        for patch, own in enumerate(grid.own):
            region = (image, slice(None), *own)
            out[region] = everywhere[(int(actions[image, patch]), *region)]
    return out


@pytest.mark.parametrize(
    ("shape", "grid", "margin"),
    [((16, 16), (4, 4), 0), ((17, 22), (3, 4), 0), ((17, 22), (3, 4), 2), ((9, 10, 12), (2, 2, 3), 1)],
)
@torch.no_grad()
def test_routing_is_exact(shape: tuple[int, ...], grid: tuple[int, ...], margin: int) -> None:
    router = small_router(small_nets(len(shape)), grid, margin=margin)
    images = torch.rand((3, 1, *shape), generator=torch.Generator().manual_seed(0))
    out, actions = router(images)
    assert len(actions.unique()) > 1, "the test needs patches of several nets"
    assert torch.equal(out, chosen_afterwards(router, images, actions))
    drawn = torch.randint(0, 3, actions.shape, generator=torch.Generator().manual_seed(2))
    small = router.look(images).logits
    assert torch.equal(router.decided(images, small, drawn), chosen_afterwards(router, images, drawn))


@torch.no_grad()
def test_networks_whose_kernels_depend_on_the_batch_agree_to_rounding() -> None:
    """MONAI's basic_unet on a CPU rounds otherwise for few patches than for many: by some 1e-7, no more."""
    router = small_router(small_nets(name="basic_unet"), (4, 4))
    images = torch.rand((3, 1, 64, 64), generator=torch.Generator().manual_seed(0))
    small = router.look(images).logits
    for seed in range(4):
        drawn = torch.randint(0, 3, (3, 16), generator=torch.Generator().manual_seed(seed))
        found, wanted = router.decided(images, small, drawn), chosen_afterwards(router, images, drawn)
        assert torch.allclose(found, wanted, rtol=0, atol=2e-6)
        assert torch.equal(found.argmax(1), wanted.argmax(1))


@torch.no_grad()
def test_an_image_is_routed_and_answered_the_same_in_every_batch(nets: Nets) -> None:
    router = small_router(nets, (3, 3))
    images = torch.rand((4, 1, 20, 20), generator=torch.Generator().manual_seed(0))
    out, actions = router(images)
    for place in range(4):
        alone, chosen = router(images[place : place + 1])
        assert torch.equal(chosen[0], actions[place])
        assert torch.allclose(alone[0], out[place], atol=1e-5)  # torch rounds one image otherwise than many


@torch.no_grad()
def test_a_net_runs_on_its_own_patches_and_on_no_others(nets: Nets) -> None:
    router = small_router(nets, (4, 4))
    seen: dict[int, list[tuple[int, ...]]] = {net: [] for net in range(3)}
    for net, model in enumerate(nets.models):
        model.network.register_forward_pre_hook(
            lambda _, inputs, net=net: seen[net].append(tuple(inputs[0].shape))
        )
    images = torch.rand(2, 1, 16, 16)
    actions = torch.zeros((2, 16), dtype=torch.long)
    small = nets.whole(images)
    router.decided(images, small, actions)
    assert seen == {0: [(2, 1, 16, 16)], 1: [], 2: []}  # nothing but the smallest net on the whole
    actions[0, 3], actions[1, 5], actions[1, 6] = 2, 2, 2
    router.decided(images, small, actions)
    assert seen[1] == []
    assert seen[2] == [(3, 1, 4, 4)]  # once, its three patches together


def test_answers_are_probabilities(nets: Nets) -> None:
    out, _ = small_router(nets, (4, 4))(torch.rand(1, 1, 16, 16))
    assert torch.allclose(out.exp().sum(1), torch.ones(1, 16, 16), atol=1e-5)


def test_many_patches_go_through_in_parts_with_the_same_answer(nets: Nets) -> None:
    images, grid = torch.rand(2, 1, 16, 16), PatchGrid((16, 16), (4, 4))
    every = grid.every(2)
    whole, parts = (nets.on_patches(1, images, grid, every, batch) for batch in (64, 5))
    assert torch.equal(whole, parts)
