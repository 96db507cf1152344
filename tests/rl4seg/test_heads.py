from typing import Any

import pytest
import torch
from monai.networks.nets import DynUNet
from torch import Tensor, nn

from reward_data.errors import ConfigError
from rl4seg.configs.reward_tuning import HeadsConfig
from rl4seg.heads import MainOutput, heads_loss, main_output, named_outputs, resized

COARSE, FINE = torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 8, 8)


def mean(logits: Tensor) -> Tensor:
    return logits.mean()


def loss(outputs: dict[str, Tensor], config: HeadsConfig, auxiliary: Any = None) -> float:
    return heads_loss(outputs, config, (8, 8), lambda x: x.mean() + 10, auxiliary)[0].item()


@pytest.mark.parametrize(
    ("outputs", "names"),
    [
        (FINE, ["0"]),
        ([FINE, COARSE], ["0", "1"]),
        ((FINE,), ["0"]),
        ({"out": FINE, "aux": COARSE, "none": None}, ["out", "aux"]),
        (torch.stack([FINE, FINE + 1, FINE + 2], 1), ["0", "1", "2"]),
    ],
)
def test_whatever_a_network_returns_becomes_logits_by_name(outputs: Any, names: list[str]) -> None:
    found = named_outputs(outputs, 2)
    assert list(found) == names
    assert all(value.ndim == 4 for value in found.values())
    assert not found[names[0]].any()  # the first is FINE everywhere


@pytest.mark.parametrize(
    "outputs", [3.0, [], {"out": "text"}, [FINE[0]], {"out": FINE, "features": FINE[0, 0]}]
)
def test_anything_else_is_one_clear_error(outputs: Any) -> None:
    with pytest.raises(ConfigError, match="wanted class logits"):
        named_outputs(outputs, 2)


def test_the_loss_is_the_weighted_sum_by_hand() -> None:
    # main: mean 0 + 10, weight 1; aux: mean 1 + 10, weight .4
    outputs = {"out": FINE, "aux": COARSE}
    assert loss(outputs, HeadsConfig()) == pytest.approx(10 + 0.4 * 11)
    assert loss(outputs, HeadsConfig(main="aux")) == pytest.approx(11 + 0.4 * 10)
    assert loss(outputs, HeadsConfig(weights={"aux": 0.5, "out": 2})) == pytest.approx(20 + 5.5)
    assert loss(outputs, HeadsConfig(others=0)) == pytest.approx(10)
    # another loss for the auxiliary head: 1
    assert loss(outputs, HeadsConfig(), mean) == pytest.approx(10 + 0.4 * 1)


def test_every_output_is_seen_on_the_grid_of_the_truth() -> None:
    seen: list[tuple[int, ...]] = []

    def shape_of(logits: Tensor) -> Tensor:
        seen.append(tuple(logits.shape))
        return logits.mean()

    heads_loss({"out": FINE, "aux": COARSE}, HeadsConfig(), (8, 8), shape_of)
    assert seen == [(2, 3, 8, 8)] * 2
    ramp = torch.tensor([0.0, 1.0]).reshape(1, 1, 2)
    # linear, pixel centres: at -.25, .25, .75, 1.25 of the coarse pixels, the ends held
    torch.testing.assert_close(resized(ramp, (4,)), torch.tensor([[[0.0, 0.25, 0.75, 1.0]]]))
    assert resized(torch.zeros(1, 2, 2, 2, 2), (4, 4, 4)).shape == (1, 2, 4, 4, 4)


def test_an_unknown_output_and_weights_of_zero_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"no output 'main', the network has \['out'\]"):
        main_output({"out": FINE}, HeadsConfig(main="main"))
    with pytest.raises(ConfigError, match="no output 'aux'"):
        loss({"out": FINE}, HeadsConfig(weights={"aux": 1}))
    with pytest.raises(ConfigError, match="weight 0"):
        loss({"out": FINE}, HeadsConfig(weights={"out": 0}))
    with pytest.raises(ValueError, match="0 or more"):
        HeadsConfig(weights={"aux": -1})


class TwoHeads(nn.Module):
    """A backbone with a decode head and a coarse auxiliary one, as segmentation libraries build them."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(1, 4, 3, padding=1)
        self.decode, self.auxiliary = nn.Conv2d(4, 3, 1), nn.Conv2d(4, 3, 2, stride=2)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.backbone(images).relu()
        return {"out": self.decode(features), "aux": self.auxiliary(features)}


def test_a_decode_head_learns_by_any_loss_without_a_copy_of_it() -> None:
    torch.manual_seed(0)
    network = TwoHeads()
    seen, images = MainOutput(network), torch.rand(2, 1, 8, 8)
    assert torch.equal(seen(images), network(images)["out"])
    heads_loss(seen.outputs(images), HeadsConfig(), (8, 8), lambda x: x.square().mean())[0].backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in network.parameters())
    network.zero_grad()
    heads_loss(seen.outputs(images), HeadsConfig(others=0), (8, 8), lambda x: x.square().mean())[0].backward()
    assert network.auxiliary.weight.grad is None or not network.auxiliary.weight.grad.any()


def test_deep_supervision_of_monai() -> None:
    network = DynUNet(
        2, 1, 3, [3, 3, 3], [1, 2, 2], [2, 2], filters=[4, 8, 8], deep_supervision=True, deep_supr_num=1
    )
    images = torch.rand(2, 1, 16, 16)
    assert list(named_outputs(network.train()(images), 2)) == ["0", "1"]
    assert MainOutput(network.eval())(images).shape == (2, 3, 16, 16)
