"""Costs, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from reward_data.errors import ConfigError
from rl4seg.configs.paser import RoutingConfig
from rl4seg.paser.costs import macs, median_ms
from rl4seg.paser.figures import Costs

PUBLISHED = Costs(
    parameters=(16_600, 1_080_000, 17_300_000), patch_macs=(10, 140, 2240), whole_macs=(300, 2200, 36_000),
    policy_macs=250, patch_ms=(1.0, 3.0, 16.0),
)  # fmt: skip


def test_published_costs_are_shares_of_the_parameters() -> None:
    assert PUBLISHED.shares("parameters") == pytest.approx((0, 0.059, 0.940), abs=5e-4)


def test_other_costs_are_shares_too_and_the_smallest_net_is_free() -> None:
    assert PUBLISHED.shares("macs") == pytest.approx((0, 140 / 2390, 2240 / 2390))
    assert PUBLISHED.shares("latency") == pytest.approx((0, 0.15, 0.8))
    with pytest.raises(ValueError, match="not measured"):
        PUBLISHED.model_copy(update={"patch_ms": None}).shares("latency")


def test_gflop_of_routed_images() -> None:
    # 300 MAC for the whole image, 2 patches of 140 and 1 of 2240: 2 * 2820 operations
    assert PUBLISHED.gflop(np.array([[13, 2, 1]])) == pytest.approx(2e-9 * 2820)
    # 8 passes of 300 and the policy's 250
    assert PUBLISHED.overhead_gflop(8) == pytest.approx(2e-9 * 2650)
    assert PUBLISHED.overhead_gflop(8, policy=False) == pytest.approx(2e-9 * 2400)
    assert PUBLISHED.alone_gflop(0) == pytest.approx(2e-9 * 300)
    assert PUBLISHED.alone_gflop(2) == pytest.approx(2e-9 * 36_000)


def test_a_budget_that_cannot_be_kept_and_nets_out_of_order_are_refused() -> None:
    routing = RoutingConfig(grid=(4, 4), passes=8)
    least = (300 + 8 * 300 + 250) / 36_000  # .0819
    PUBLISHED.check_budget(routing, 0.082)
    with pytest.raises(
        ConfigError, match=rf"budget=0\.081: .* cost {least:.3f} of the largest.*give 0\.082 or more"
    ):
        PUBLISHED.check_budget(routing, 0.081)
    alike = PUBLISHED.model_copy(update={"whole_macs": (300, 350, 400)})
    with pytest.raises(ConfigError, match="take nets of more different sizes"):
        alike.check_budget(routing, 1.0)
    reverse = PUBLISHED.model_copy(update={"whole_macs": (36_000, 2200, 300)})
    with pytest.raises(ConfigError, match="list them by cost, the smallest first"):
        reverse.check_budget(routing, 0.5)


def test_multiply_adds_of_a_convolution() -> None:
    # 3 x 3 kernel, 1 -> 2 channels, 4 x 6 pixels of output: 9 * 2 * 24; then 2 -> 3 channels by 1 x 1: 6 * 24
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 3, 1))
    assert macs(network, torch.zeros(1, 1, 4, 6)) == 9 * 2 * 24 + 6 * 24


def test_the_time_is_the_median_of_the_calls_that_count() -> None:
    calls: list[int] = []
    assert median_ms(lambda: calls.append(1), 5, torch.device("cpu")) >= 0
    assert len(calls) == 5 + 2
