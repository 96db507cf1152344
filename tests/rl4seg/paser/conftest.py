"""Small networks and images for PaSeR."""

from __future__ import annotations

import pytest
import torch

from rl4seg.configs.network import NetworkConfig
from rl4seg.configs.paser import RoutingConfig
from rl4seg.paser.nets import Nets
from rl4seg.paser.policy import new_policy
from rl4seg.paser.router import Router
from rl4seg.policies import ModelSpec, new_model

CLASSES = ("matrix", "small", "large")


def small_nets(dims: int = 2, count: int = 3, norm: str = "batch", name: str = "unet") -> Nets:
    """Untrained nets of different sizes; the first has dropout."""
    models = []
    for place in range(count):
        network = NetworkConfig.model_validate(
            {
                "name": name if place else "unet",
                "features": (4, 8 + 4 * place) if name == "unet" or not place else (8, 8, 16, 16, 32, 8),
                "fold": 1,
                "norm": norm,
                "dropout": 0.0 if place else 0.3,
            }
        )
        spec = ModelSpec(network=network, in_channels=1, class_names=CLASSES, shape=(16,) * dims)
        models.append(new_model(spec, 5, place))
    return Nets(tuple(f"net {place}" for place in range(count)), tuple(models)).eval()


def small_router(nets: Nets, grid: tuple[int, ...], passes: int = 2, margin: int = 0) -> Router:
    """A router whose policy has drawn weights, so that it chooses each net somewhere."""
    config = RoutingConfig(grid=grid, passes=passes, resolution=2, width=6, margin=margin)
    policy = new_policy(config, len(CLASSES), 1, len(nets), 3).eval()
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        policy.choice.weight.copy_(400 * torch.randn(policy.choice.weight.shape, generator=generator))
    router = Router(nets, policy, config, tuple([0.0, 0.1, 0.9][: len(nets)]))
    images = torch.rand((4, 1, *[16] * len(grid)), generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        assert policy.choice.bias is not None
        policy.choice.bias.copy_(-router.logits(router.look(images)).mean((0, 1)))
    return router


@pytest.fixture
def nets() -> Nets:
    return small_nets()
