import pytest
import torch
from pydantic import ValidationError
from torch import nn

from rl4seg.configs.network import NetworkConfig
from rl4seg.networks import (
    build_network,
    fold_pixels,
    most_probable,
    norm_parameter_names,
    reestimate_statistics,
    shrink_and_perturb,
    unfold_pixels,
)

SMALL = (4, 4, 8, 8, 8, 4)


def test_folding_is_pixel_unshuffle_in_two_dimensions() -> None:
    images = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
    assert torch.equal(fold_pixels(images, 2), nn.functional.pixel_unshuffle(images, 2))
    features = torch.arange(2 * 12 * 2 * 3.0).reshape(2, 12, 2, 3)
    assert torch.equal(unfold_pixels(features, 2), nn.functional.pixel_shuffle(features, 2))


def test_folding_round_trip_in_three_dimensions() -> None:
    images = torch.randn(2, 3, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(unfold_pixels(fold_pixels(images, 2), 2), images)


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (NetworkConfig(features=SMALL), (50, 33)),
        (NetworkConfig(name="unet", features=(4, 8, 8), fold=1, residual_units=1), (31, 64)),
        (NetworkConfig(name="dynunet", features=(4, 8, 8), fold=2), (40, 40)),
        (NetworkConfig(name="segresnet", features=(8, 8), fold=1, norm="group"), (24, 40)),
        (NetworkConfig(features=SMALL), (32, 32, 32)),
    ],
)
def test_logits_have_the_size_of_any_image(config: NetworkConfig, shape: tuple[int, ...]) -> None:
    network = build_network(config, 2, 3, len(shape)).eval()
    assert network(torch.zeros(1, 2, *shape)).shape == (1, 3, *shape)


def test_equal_seeds_equal_weights_and_the_callers_random_state_is_left_alone() -> None:
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    a, b, c = (build_network(NetworkConfig(features=SMALL), 1, 2, 2, (seed,)) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(2), wanted)
    weights = [next(iter(n.parameters())) for n in (a, b, c)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_basic_unet_wants_six_features() -> None:
    with pytest.raises(ValidationError, match="6 features, got 3"):
        NetworkConfig(features=(4, 8, 8))


def trained_batch_norm() -> tuple[nn.Module, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    network = build_network(NetworkConfig(features=SMALL, norm="batch"), 1, 2, 2)
    batches = [torch.rand(4, 1, 32, 32, generator=generator) * 3 + 1 for _ in range(3)]
    reestimate_statistics(network, batches)
    return network.eval(), batches


def test_shrink_and_perturb_leaves_normalisation_alone() -> None:
    network, _ = trained_batch_norm()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    shrink_and_perturb(network, 0.5, 0.0, torch.Generator().manual_seed(0))
    keep = norm_parameter_names(network)
    assert keep
    for name, value in network.named_parameters():
        assert torch.allclose(value, before[name] if name in keep else before[name] / 2)


def test_statistics_follow_the_shrunken_weights() -> None:
    # with stale statistics the activations of a halved network are far from standard; re-estimated they are not
    network, batches = trained_batch_norm()
    layer = next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    stale = layer.running_mean.clone()
    shrink_and_perturb(network, 0.5, 0.0, torch.Generator().manual_seed(0))
    reestimate_statistics(network, batches)
    assert torch.allclose(layer.running_mean, stale / 2, atol=1e-4)
    assert not network.training


def test_the_most_probable_class_is_the_argmax_and_of_equals_the_first() -> None:
    values = torch.randn(2, 5, 7, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(most_probable(values), values.argmax(1))
    assert most_probable(torch.tensor([[[0.0], [1.0], [1.0]]])).tolist() == [[1]]
