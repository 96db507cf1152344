"""A problem with a known optimum: patches that only the large net can solve, and that the policy has to find."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rl4seg.configs.network import NetworkConfig
from rl4seg.configs.paser import PolicyTrainingConfig, RoutingConfig
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.paser.nets import Nets
from rl4seg.paser.policy import choices, new_policy
from rl4seg.paser.policy_training import train_routing
from rl4seg.paser.reward import gains, rewards
from rl4seg.paser.router import Router
from rl4seg.paser.table import routing_table
from rl4seg.policies import Model, ModelSpec
from rl4seg.runtime import start

SIDE, PATCH = 4, 8
COSTS = (0.0, 0.059, 0.940)  # published


class Rule(nn.Module):
    """Bright pixels are class 1. A net that ``knows`` sees that in striped patches it is the other way round."""

    def __init__(self, knows: bool) -> None:
        super().__init__()
        self.knows = knows

    def forward(self, images: Tensor) -> Tensor:
        """Shape: (n, 1, H, W) -> (n, 2, H, W)."""
        bright = images[:, 0] > 0.5
        if self.knows:
            bright = bright ^ (images[:, 0, :, ::2].mean((1, 2)) < 0.3)[:, None, None]
        sure = torch.where(bright, 2.0, -2.0)
        return torch.stack([-sure, sure], 1)


def planted(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images (I, 1, 32, 32), truth (I, 32, 32), and which patches are planted (I, 16): a fifth, with dark stripes."""
    generator = torch.Generator().manual_seed(seed)
    special = torch.rand((count, SIDE, SIDE), generator=generator) < 0.2
    where = special.repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)
    images = torch.rand((count, SIDE * PATCH, SIDE * PATCH), generator=generator)
    images[:, :, ::2] = torch.where(where[:, :, ::2], 0.05, images[:, :, ::2])
    truth = (images > 0.5) ^ where
    return images[:, None], truth.long(), special.flatten(1)


def nets() -> Nets:
    spec = ModelSpec(network=NetworkConfig(), in_channels=1, class_names=("dark", "bright"), shape=(32, 32))
    rules = [Model(spec, Rule(knows)) for knows in (False, False, True)]  # type: ignore[arg-type]
    return Nets(("tiny", "medium", "large"), tuple(rules))


@pytest.mark.learning
@pytest.mark.parametrize("baseline", ["leave_one_out", "none"])
def test_planted_patches_are_routed_to_the_net_that_solves_them(baseline: str, tmp_path: Path) -> None:
    runtime = start(RuntimeConfig(device="cpu", threads=1))
    config = RoutingConfig(grid=(SIDE, SIDE), passes=0, resolution=4, width=12)
    router = Router(nets(), new_policy(config, 2, 1, 3, 0), config, COSTS)
    images, truth, _ = planted(60, 0)
    table = routing_table(router, [(images, truth)])
    gain = gains(table.counts, "patch_iou")
    # A planted patch is all wrong with the small nets and all right with the large one: reward
    # .75 - .25 * .94 = .515; elsewhere a larger net costs and gives nothing.
    earned = rewards(gain, COSTS, 0.25)
    training = PolicyTrainingConfig.model_validate(
        {"steps": 500, "baseline": baseline, "entropy_bonus": 0.001}
    )
    history = train_routing(
        router.policy, torch.from_numpy(table.read), torch.from_numpy(earned), training, 0, runtime, tmp_path
    )
    assert history[-1]["reward"] > history[0]["reward"]
    images, _, special = planted(40, 1)
    chosen = choices(router.logits(router.look(images)), torch.tensor(COSTS))
    large = chosen == 2
    assert large[special].float().mean() >= 0.95
    assert large[~special].float().mean() <= 0.05
