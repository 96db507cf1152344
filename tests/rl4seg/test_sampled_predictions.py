import numpy as np
import pytest
import torch

from reward_data.errors import ConfigError
from rl4seg.augment import BatchAugmentation, apply_to_images
from rl4seg.configs.augment import AugmentConfig
from rl4seg.configs.network import NetworkConfig
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.configs.uncertainty import MILD
from rl4seg.policies import Model, ModelSpec, new_model
from rl4seg.runtime import start
from rl4seg.sampled_predictions import (
    augmented,
    averaged,
    draw_per_image,
    dropout_on,
    ensemble,
    probabilities_of,
    trained_with_dropout,
    undo_affine,
    with_dropout,
)

RUNTIME = start(RuntimeConfig(device="cpu", threads=1))
STILL = AugmentConfig(rotation_degrees=0, scale=0, shift=0, brightness=0, contrast=0, gamma=0, noise=0)


def model(name: str = "basic_unet", dropout: float = 0.0, shape: tuple[int, ...] = (32, 32)) -> Model:
    features = (4, 4, 8, 8, 8, 4) if name == "basic_unet" else (8, 8, 8)
    network = NetworkConfig.model_validate(
        {"name": name, "features": features, "dropout": dropout, "fold": 1}
    )
    spec = ModelSpec(network=network, in_channels=1, class_names=("background", "disc", "ring"), shape=shape)
    return new_model(spec, 0)


def images(count: int = 2, shape: tuple[int, ...] = (32, 32)) -> torch.Tensor:
    return torch.rand(count, 1, *shape, generator=torch.Generator().manual_seed(1))


def test_weighted_mean_and_mutual_information_by_hand() -> None:
    # one pixel; sure of class 0 with weight 1, of class 1 with weight 3: mean (.25, .75), information its entropy
    one = torch.ones(1, 1, 1, 1)
    first, second = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1), torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1)
    found = averaged([(first, one), (second, 3 * one)])
    assert found.probabilities.flatten().tolist() == pytest.approx([0.25, 0.75])
    assert found.information.item() == pytest.approx(-(0.25 * np.log(0.25) + 0.75 * np.log(0.75)), abs=1e-6)
    with pytest.raises(ValueError, match="no samples"):
        averaged([])


@pytest.mark.parametrize("shape", [(32, 32), (16, 16, 16)])
def test_a_warp_is_undone(shape: tuple[int, ...]) -> None:
    grid = torch.stack(torch.meshgrid(*(torch.linspace(0, 3, n) for n in shape), indexing="ij"))
    smooth = torch.sin(grid.sum(0))[None, None] / 4 + 0.5
    record = draw_per_image(
        MILD.model_copy(update={"noise": 0.0}), smooth, [torch.Generator().manual_seed(4)]
    )
    plain = BatchAugmentation(
        record.theta, torch.zeros(1), torch.ones(1), torch.ones(1), torch.zeros_like(smooth)
    )
    back, weight = undo_affine(plain, apply_to_images(plain, smooth))
    inner = (slice(None), slice(None), *(slice(n // 4, -n // 4) for n in shape))
    assert weight[inner].min() == pytest.approx(1)
    assert (back - smooth)[inner].abs().max() < 0.02


def test_what_left_the_image_has_no_weight() -> None:
    # a shift by half of the image: one half is never seen
    theta = torch.tensor([[[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]])
    none = torch.zeros(1)
    record = BatchAugmentation(theta, none, none + 1, none + 1, torch.zeros(1, 1, 8, 8))
    _, weight = undo_affine(record, torch.rand(1, 3, 8, 8))
    assert weight[..., :3].max() == 0
    assert weight[..., 5:].min() == pytest.approx(1)


def test_augmentation_that_changes_nothing_gives_the_plain_prediction() -> None:
    net, batch = model(), images()
    found = augmented(net, batch, [0, 1], STILL, 3, 0, RUNTIME)
    assert torch.allclose(found.probabilities, probabilities_of(net, batch, RUNTIME), atol=1e-5)
    assert found.information.max() < 1e-5


@pytest.mark.parametrize("method", ["augmentation", "dropout"])
def test_draws_belong_to_the_case_not_to_the_batch(method: str) -> None:
    net, batch = model(), images()

    def run(cases: list[int], seed: int = 5) -> torch.Tensor:
        chosen = batch[cases]
        if method == "augmentation":
            return augmented(net, chosen, cases, MILD, 2, seed, RUNTIME).probabilities
        return with_dropout(net, chosen, cases, 2, 0.2, seed, RUNTIME).probabilities

    together, swapped = run([0, 1]), run([1, 0])
    assert torch.equal(together, run([0, 1]))
    assert torch.allclose(together, swapped.flip(0), atol=1e-6)
    assert torch.allclose(together[1:], run([1]), atol=1e-6)
    assert not torch.allclose(together, run([0, 1], seed=6), atol=1e-4)


@pytest.mark.parametrize("name", ["basic_unet", "unet", "dynunet", "segresnet"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_dropout_works_for_every_network_and_leaves_it_as_it_was(name: str, dropout: float) -> None:
    net, batch = model(name, dropout), images(1)
    net.network.eval()
    before = {key: value.clone() for key, value in net.network.state_dict().items()}
    plain, random_state = probabilities_of(net, batch, RUNTIME), torch.get_rng_state()
    found = with_dropout(net, batch, [0], 4, 0.2, 0, RUNTIME)
    assert trained_with_dropout(net) == (dropout > 0)
    assert found.information.max() > 1e-6
    assert torch.equal(probabilities_of(net, batch, RUNTIME), plain)
    assert all(torch.equal(value, before[key]) for key, value in net.network.state_dict().items())
    assert not any(module.training for module in net.network.modules())
    assert not any(module._forward_hooks for module in net.network.modules())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_dropout_is_off_again_after_an_error() -> None:
    net = model()
    with pytest.raises(RuntimeError, match="planted"), dropout_on(net, 0.5, []):
        raise RuntimeError("planted")
    assert not any(module._forward_hooks for module in net.network.modules())


def test_the_share_dropped_and_the_scale_are_right() -> None:
    net = model()
    net.network = torch.nn.Sequential(torch.nn.ReLU())  # type: ignore[assignment]
    with dropout_on(net, 0.25, [torch.Generator().manual_seed(0)]):
        out = net.network(torch.ones(1, 4, 100, 100))
    # kept values are 1 / .75; a quarter of 40,000 is dropped, give or take four standard deviations (87 each)
    assert out.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (out == 0).sum().item() == pytest.approx(10_000, abs=350)


def test_whole_channels_are_dropped_where_they_were_in_training() -> None:
    net = model()
    net.network = torch.nn.Sequential(torch.nn.Dropout2d(0.5)).eval()  # type: ignore[assignment]
    with dropout_on(net, 0.1, [torch.Generator().manual_seed(0)]):
        out = net.network(torch.ones(1, 64, 4, 4))
    assert set(out.sum((2, 3)).flatten().tolist()) == {0.0, 32.0}


def test_nothing_to_drop_after_is_refused() -> None:
    net = model()
    net.network = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 1))  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="dropout_passes=0"), dropout_on(net, 0.1, []):
        pass


def test_an_ensemble_of_one_is_that_one() -> None:
    net, batch = model(), images()
    found = ensemble([net, net], batch, RUNTIME)
    assert torch.allclose(found.probabilities, probabilities_of(net, batch, RUNTIME), atol=1e-6)
    assert found.information.max() < 1e-5
