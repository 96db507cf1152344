"""Monte-Carlo dropout: on in its passes, off everywhere else, the same for an image in every batch."""

from __future__ import annotations

import math

import pytest
import torch

from rl4seg.paser.nets import Nets
from rl4seg.paser.uncertainty import dropout_layers, dropped, entropy, uncertainty


def test_entropy_is_a_share_of_the_largest() -> None:
    probabilities = torch.tensor([[1.0, 0.25], [0.0, 0.25], [0.0, 0.5]])[None]
    # 2 * .25 log 4 + .5 log 2 = 1.0397 nats of log 3
    wanted = (0.5 * math.log(4) + 0.5 * math.log(2)) / math.log(3)
    assert entropy(probabilities)[0].tolist() == pytest.approx([0, wanted])


@torch.no_grad()
def test_dropout_is_off_outside_its_passes(nets: Nets) -> None:
    network, images = nets.models[0].network, torch.rand(2, 1, 16, 16)
    before = network(images)
    with dropped(network, 0):
        inside = network(images)
        assert not any(module.training for module in network.modules())  # batch norm keeps its statistics
    assert len(dropout_layers(network)) > 0
    assert not torch.equal(inside, before)
    assert torch.equal(network(images), before)


@torch.no_grad()
def test_passes_differ_and_repeat(nets: Nets) -> None:
    network, images = nets.models[0].network, torch.rand(1, 1, 16, 16)

    def answer(number: int) -> torch.Tensor:
        with dropped(network, number):
            out: torch.Tensor = network(images)
            return out

    assert torch.equal(answer(3), answer(3))
    assert not torch.equal(answer(3), answer(4))


@torch.no_grad()
def test_the_uncertainty_is_the_entropy_of_the_mean_of_the_passes(nets: Nets) -> None:
    network, images = nets.models[0].network, torch.rand(2, 1, 16, 16)
    plain = network(images).softmax(1)
    answers = []
    for number in range(3):
        with dropped(network, number):
            answers.append(network(images).softmax(1))
    wanted = entropy(torch.stack(answers).mean(0))
    assert torch.allclose(uncertainty(network, images, plain, 3), wanted, atol=1e-6)
    assert torch.equal(uncertainty(network, images, plain, 0), entropy(plain))


def test_masks_drop_the_rate_and_scale_the_rest(nets: Nets) -> None:
    layer = dropout_layers(nets.models[0].network)[0]
    with dropped(nets.models[0].network, 0):
        out = layer(torch.ones(2, 50, 20, 20))
    kept = out[0] != 0
    assert torch.equal(out[0], out[1])  # one mask for all images
    assert kept.float().mean().item() == pytest.approx(0.7, abs=0.01)
    assert torch.allclose(out[0][kept], torch.tensor(1 / 0.7))
