"""The shipped configs are whole, and what they say about themselves is there."""

from __future__ import annotations

import pytest

from flows.command_line import load
from flows.config import AutoIterationConfig
from flows.config_base import RunConfig
from flows.config_loader import load_config
from flows.presets import ROOTS, preset_path
from reward_data.errors import ConfigError

SHIPPED = sorted(p.relative_to(ROOTS[0]).with_suffix("").as_posix() for p in ROOTS[0].glob("*/*.yaml"))
NAMES = [name for name in SHIPPED if not name.startswith("ablation/")]  # those are studies, no runs


def test_the_configs_are_shipped() -> None:
    loop = (
        f"auto_iteration/{name}" for name in ("camus_a4c_to_a2c", "camus_a4c_to_a2c_shifted", "demo", "paper")
    )
    tuning = (f"reward_tuning/{name}" for name in ("demo", "micrographs"))
    names = ("cifar10", "cifar10_full", "demo", "large_images", "superalloy", "windows_demo")
    drop = (f"patchdrop/{name}" for name in names)
    routing = (f"paser/{name}" for name in ("demo", "superalloy"))
    assert ["ablate/demo", *loop, "compare/demo", *routing, *drop, *tuning] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_config_loads_and_its_header_says_what_for_on_what_how_and_what_came_out(name: str) -> None:
    config = load(name, [])
    assert isinstance(config, RunConfig)
    if isinstance(config, AutoIterationConfig):
        assert config.rule_set().classes == config.class_names
    header = preset_path(name).read_text().partition("\nname:")[0]
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
