"""Small phantom runs for `tests.benchmarks.stop_rule`: normal ones and planted collapses, every iteration measured.

Each run goes through all of its iterations, whatever the alarm would say, and leaves label-free signals (held-back
target images) beside the Dice of the test images, per iteration, in ``runs/stop_rule/results/NAME.json``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import rl4seg.ppo
import rl4seg.reward_net
from flows import preflight
from flows.arms import Start, adapt, measured
from flows.auto_iteration import source_policy
from flows.config import AutoIterationConfig
from flows.reporting.data import MAIN
from flows.reporting.stage import PolicyRecord
from flows.stages import StageEnvironment, environment
from flows.store import ArtifactStore
from flows.tasks import evaluate_policy, fit_shape_prior, import_dataset
from reward_data.case_store import CaseStore
from reward_data.errors import DataError
from reward_data.shape_prior import ShapePrior
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.reward_net import RewardModel
from rl4seg.rewards import mask_rewards
from rl4seg.stop_rule import Signals
from rl4seg.stop_signals import mean_areas, measure, read_observation

ROOT = Path("runs/stop_rule")
CPU = RuntimeConfig(device="cpu", threads=1)


@dataclass(frozen=True)
class Scenario:
    """One run: its config's ``changes``, and the ``plant`` that makes it collapse, if any."""

    name: str
    seed: int
    changes: dict[str, Any] = field(default_factory=dict)
    plant: str = ""
    shift: float = 1.0

    @property
    def broken(self) -> bool:
        """Whether it is made to collapse."""
        return bool(self.plant)


def config_of(scenario: Scenario) -> AutoIterationConfig:
    """64 x 64 px, few images, a small network, few steps: about a minute a run on one core."""
    network = {"features": (8, 8, 12, 16, 16, 8), "fold": 2}
    base: dict[str, Any] = {
        "name": "stop-rule",
        "seed": scenario.seed,
        "iterations": 4,
        "source": {"format": "phantom", "validation_fraction": 0.1,
                   "phantom": {"cases": 120, "seed": 100 + scenario.seed}},
        "target": {"format": "phantom", "domain": "target", "validation_fraction": 0.3,
                   "phantom": {"domain": "target", "cases": 160, "seed": 200 + scenario.seed, "shift": scenario.shift,
                               "test_fraction": 0.375}},
        "preprocess": {"shape": (64, 64)},
        "policy": {"network": network},
        "source_training": {"steps": 250},
        "shape_components": 40,
        "reward_net": {"network": network, "steps": 80, "degraded": 8, "learning_rate": 8e-3},
        "synthesis": {"distortions": {"model": {"enabled": False}, "image": {"enabled": False}}},
        "ppo": {"epochs": 2, "anchor_batch": 8, "source_replay": 8},
    }  # fmt: skip
    for path, value in scenario.changes.items():
        place = base
        *parents, name = path.split(".")
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = value
    return AutoIterationConfig.model_validate(base)


NORMAL: dict[str, tuple[float, dict[str, Any]]] = {
    "mild": (0.6, {}),
    "hard": (1.0, {"ppo.learning_rate": 1e-3}),
    "no anchor": (0.8, {"ppo.anchor_weight": 0.0, "ppo.accepted_images": "judged", "ppo.learning_rate": 2e-4}),
    "quick": (0.8, {"ppo.learning_rate": 3e-3}),
}  # fmt: skip
"""Runs that nobody broke: shift of the target and what differs from the config. Some degrade by themselves."""

LEARNED = {
    "ppo.anchor_weight": 0.0,
    "ppo.accepted_images": "judged",
    "ppo.reward": {"verdict": 0.0, "learned": 1.0},
}
PLANTS: dict[str, dict[str, Any]] = {
    "inverted reward": LEARNED,
    "random reward": LEARNED,
    "background reward": {"ppo.anchor_weight": 0.0, "ppo.accepted_images": "judged"},
    "learning rate .05": {"ppo.learning_rate": 0.05},
}
CHOOSING, SCORING = (0, 1), (2, 3)


def scenarios(seeds: Sequence[int]) -> list[Scenario]:
    """All runs of some seeds, the normal ones first."""
    normal = [
        Scenario(f"{name} {seed}", seed, changes, "", shift)
        for seed in seeds
        for name, (shift, changes) in NORMAL.items()
    ]
    broken = [
        Scenario(f"{name} {seed}", seed, {"iterations": 3, **changes}, name, 0.8)
        for seed in seeds
        for name, changes in PLANTS.items()
    ]
    return normal + broken


# --- what breaks a run -----------------------------------------------------------------------------------------------


def _inverted(load: Callable[..., RewardModel]) -> Callable[..., RewardModel]:
    """A reward net that takes right for wrong."""

    def loaded(*arguments: Any) -> RewardModel:
        reward = load(*arguments)
        reward.temperature = -reward.temperature
        return reward

    return loaded


def _random(load: Callable[..., RewardModel]) -> Callable[..., RewardModel]:
    """A reward net whose last layer has been drawn anew: its training is lost."""

    def loaded(*arguments: Any) -> RewardModel:
        reward = load(*arguments)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in reward.model.network.parameters():
                if parameter.ndim > 1:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.std())
        reward.temperature = 1.0
        return reward

    return loaded


def _for_background(config: Any, images: torch.Tensor, masks: torch.Tensor, *rest: Any) -> Any:
    """The empty mask as attractor: background earns 1, foreground nothing."""
    _, valid = mask_rewards(config.model_copy(update={"learned": 0.0}), images, masks, *rest)
    return (masks == 0).float(), valid


@contextmanager
def planted(plant: str) -> Iterator[None]:
    """The core with this fault in it, while the block lasts."""
    load = rl4seg.reward_net.load_reward_model
    patches = {
        "inverted reward": (rl4seg.reward_net, "load_reward_model", _inverted(load)),
        "random reward": (rl4seg.reward_net, "load_reward_model", _random(load)),
        "background reward": (rl4seg.ppo, "mask_rewards", _for_background),
    }
    if plant not in patches:
        yield
        return
    with mock.patch.object(*patches[plant]):
        yield


# --- a run -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """Signals and test Dice and validity of the iterations 0, 1, ..."""

    scenario: Scenario
    signals: tuple[Signals, ...]
    dice: tuple[float, ...]
    test_validity: tuple[float, ...]


def run(scenario: Scenario) -> Result:
    """The finished run, from its file where there is one."""
    path = ROOT / "results" / f"{scenario.name}.json"
    if not path.is_file():
        # A plant is invisible to stage keys: it has a store of its own.
        store = ArtifactStore(ROOT / "store")
        with environment(StageEnvironment(store, runtime=CPU)):
            start = _start(config_of(scenario))
        if scenario.plant:
            store = _beside(store, scenario.plant, start)
        with environment(StageEnvironment(store, runtime=CPU)), planted(scenario.plant):
            content = _measure(config_of(scenario), start, store)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1))
    content = json.loads(path.read_text())
    signals = tuple(Signals.model_validate(each) for each in content["signals"])
    return Result(scenario, signals, tuple(content["dice"]), tuple(content["validity"]))


def _start(config: AutoIterationConfig) -> Start:
    assert config.source is not None
    source = import_dataset(*preflight.dataset_inputs(config.source), config.preprocess)
    target = import_dataset(*preflight.dataset_inputs(config.target), config.preprocess)
    prior = fit_shape_prior(config.shape_components, source)
    return Start(source_policy(config, source, target), source, target, prior, config.rule_set())


def _beside(store: ArtifactStore, plant: str, start: Start) -> ArtifactStore:
    """A store for the runs with a plant that has the start already."""
    other = ArtifactStore(ROOT / f"store {plant}".replace(" ", "-"))
    for ref in (start.policy, start.source, start.target, start.prior):
        if ref is not None and not (other.root / ref.key).exists():
            shutil.copytree(store.root / ref.key, other.root / ref.key)
    return other


def _as_far_as_it_goes(config: AutoIterationConfig, start: Start) -> list[PolicyRecord]:
    """The loop's iterations until a policy is so broken that nothing can be learned from its predictions."""
    records: list[PolicyRecord] = []
    for number in range(1, config.iterations + 1):
        try:
            records = adapt(config.model_copy(update={"iterations": number}), start, MAIN, config.ppo)
        except DataError:
            break
    return records


def _measure(config: AutoIterationConfig, start: Start, store: ArtifactStore) -> dict[str, Any]:
    config = config.model_copy(update={"stop": config.stop.model_copy(update={"enabled": False})})
    source, target, prior = start.source, start.target, start.prior
    assert source is not None
    assert prior is not None
    records = [measured(config, start, "source-only", start.policy), *_as_far_as_it_goes(config, start)]
    judge = records[1].reward_net
    classes = config.class_names[1:]
    validated = [
        evaluate_policy(config.evaluation, r.policy, start.policy, judge, target, start.rules, split="val")
        for r in records
    ]
    seen = [read_observation(store.path(each), classes) for each in validated]
    with CaseStore(store.path(source) / "cases.h5") as cases:
        areas = mean_areas(cases.labels(cases.indices("train", labelled=True)), classes)
    shapes = ShapePrior.load(store.path(prior) / "shape_prior.npz")
    signals = [measure(i, each, seen[0], areas, shapes) for i, each in enumerate(seen)]
    summaries = [json.loads((store.path(r.evaluation) / "summary.json").read_text()) for r in records]
    return {
        "signals": [each.model_dump() for each in signals],
        "dice": [summary["dice_mean"][0] for summary in summaries],
        "validity": [summary["validity"] for summary in summaries],
    }
