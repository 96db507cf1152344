"""The shipped configs are whole, and what they say about themselves is there."""

from __future__ import annotations

import pytest

from flows.config import AutoIterationConfig
from flows.config_loader import load_config
from flows.presets import ROOTS, preset_path
from reward_data.errors import ConfigError

NAMES = sorted(p.relative_to(ROOTS[0]).with_suffix("").as_posix() for p in ROOTS[0].glob("*/*.yaml"))


def test_the_three_configs_are_shipped() -> None:
    assert NAMES == ["auto_iteration/camus_a4c_to_a2c", "auto_iteration/demo", "auto_iteration/paper"]


@pytest.mark.parametrize("name", NAMES)
def test_a_config_loads_and_its_header_says_what_for_on_what_how_and_what_came_out(name: str) -> None:
    config = load_config(name, [], AutoIterationConfig)
    assert config.rule_set().classes == config.class_names
    header = preset_path(name).read_text().partition("name:")[0]
    for entry in ("# Purpose", "# Hardware", "# Command", "# Gave"):
        assert entry in header


def test_the_paper_is_the_paper_and_the_demo_the_anchored_recipe() -> None:
    paper, demo = (
        load_config(f"auto_iteration/{name}", [], AutoIterationConfig).ppo for name in ("paper", "demo")
    )
    assert (paper.baseline, paper.samples, paper.updates, paper.anchor_weight) == ("critic", 1, 5, 0)
    assert (paper.reward.learned, paper.reward.verdict, paper.divergence_in) == (1, 0, "reward")
    assert (demo.baseline, demo.samples, demo.updates, demo.anchor_weight) == ("group", 4, 3, 1)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no shipped config 'x'.*auto_iteration/demo"):
        preset_path("x")
