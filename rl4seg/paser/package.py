"""A router on disk, and as the network of a model package, so that whatever predicts can use it.

router.json            `RouterSpec`
0/, 1/, ...            the nets, the smallest first (`rl4seg.policies`)
policy.safetensors     the routing policy
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import cast

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from reward_data.errors import ArtifactError, ConfigError
from rl4seg.networks import SegmentationNetwork
from rl4seg.paser.figures import RouterSpec
from rl4seg.paser.nets import load_nets, save_nets
from rl4seg.paser.policy import new_policy
from rl4seg.paser.router import Router
from rl4seg.policies import Model
from rl4seg.runtime import Runtime
from rl4seg.weights import load_weights, save_weights

SPEC, POLICY, FOLDER = "router.json", "policy.safetensors", "paser"


def save_router(router: Router, spec: RouterSpec, folder: Path) -> None:
    """Write a router; equal ones give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    save_nets(router.nets, folder)
    save_weights(router.policy, folder / POLICY)
    (folder / SPEC).write_text(spec.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_router_spec(folder: Path) -> RouterSpec:
    """The description alone.

    Raises:
        ArtifactError: there is none of this version.
    """
    try:
        return RouterSpec.model_validate_json((folder / SPEC).read_text(encoding="utf-8"))
    except (OSError, ValidationError, json.JSONDecodeError) as error:
        raise ArtifactError(
            f"{folder / SPEC}: no readable router ({error}); copy the whole folder again"
        ) from error


def load_router(folder: Path, runtime: Runtime) -> tuple[Router, RouterSpec]:
    """Read what `save_router` wrote, everything in eval mode on the runtime's device.

    Raises:
        ArtifactError: a file is missing or unreadable.
    """
    spec = read_router_spec(folder)
    nets = load_nets(spec.names, [folder / str(place) for place in range(len(spec.names))], runtime)
    first = nets.models[0].spec
    policy = new_policy(spec.routing, len(first.class_names), first.in_channels, len(nets))
    load_weights(policy, folder / POLICY, "Copy the whole folder again")
    policy.to(runtime.device).eval()
    return Router(nets, policy, spec.routing, spec.shares, spec.threshold), spec


class RoutedNetwork(nn.Module):
    """A router where a segmentation network is expected: log-probabilities for logits.

    Shape: (B, C, *S) -> (B, K, *S).
    """

    def __init__(self, router: Router, spec: RouterSpec) -> None:
        super().__init__()
        self.router, self.spec = router, spec
        self.nets = nn.ModuleList([model.network for model in router.nets.models])
        self.policy = router.policy
        self.register_buffer(
            "standing", torch.tensor([router.threshold])
        )  # so that weights tell routers apart

    def forward(self, images: Tensor) -> Tensor:
        """Log-probabilities of the stitched answer."""
        return self.router(images)[0]

    def within(self, budget: float) -> None:
        """Move the policy to a budget, a share of the largest net's GFLOP.

        Raises:
            ConfigError: the router was not calibrated, or the budget is below the least.
        """
        if self.spec.curve is None:
            raise ConfigError(
                "this router was not calibrated for budgets; leave --budget out, or run its config again"
            )
        self.router = dataclasses.replace(self.router, threshold=self.spec.curve.threshold(budget))


def routed_model(model: Model, folder: Path, runtime: Runtime) -> Model:
    """The model of a package whose network is the router in ``folder``; its spec is that of the smallest net."""
    router, spec = load_router(folder, runtime)
    return Model(model.spec, cast(SegmentationNetwork, RoutedNetwork(router, spec)))


def set_budget(model: Model, budget: float | None) -> None:
    """Move a router to a budget, as calibrated; None leaves it where it is.

    Raises:
        ConfigError: the model is no router, or one that cannot keep the budget.
    """
    if budget is None:
        return
    network: nn.Module = model.network
    if not isinstance(network, RoutedNetwork):
        raise ConfigError(
            "this model spends the same on every image, or decides by itself; leave --budget out, or give a PaSeR run"
        )
    network.within(budget)
