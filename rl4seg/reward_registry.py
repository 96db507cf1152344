"""Finding the rewards that a config names, trying them before any training, and mixing them.

A reward is known by its name here (`rl4seg.task_rewards.REWARDS`), by the name of an entry point of the group
``rl4seg.rewards`` of any installed package, or as ``module:function`` or ``file.py:function``.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from reward_data.anatomy import RuleSet
from reward_data.errors import ConfigError
from rl4seg.configs.reward_tuning import TaskRewardConfig
from rl4seg.task_rewards import REWARDS, RewardContext, TaskReward

GROUP = "rl4seg.rewards"


def find_reward(name: str) -> TaskReward:
    """The reward of a name.

    Raises:
        ConfigError: there is none, it cannot be imported, or it is no function.
    """
    if ":" in name:
        place, _, attribute = name.rpartition(":")
        return _callable(getattr(_module(place, name), attribute, None), name)
    if name in REWARDS:
        return REWARDS[name]
    offered = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name in offered:
        try:
            return _callable(offered[name].load(), name)
        except Exception as error:  # whatever the other package raises when it is imported
            raise ConfigError(
                f"reward {name!r}: entry point {offered[name].value} cannot be loaded ({error!r}); mend that package"
            ) from error
    known = [*REWARDS, *offered]
    close = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise ConfigError(
        f"no reward {name!r}, wanted one of {', '.join(known)}, or your own as module:function{hint}"
    )


def _module(place: str, name: str) -> ModuleType:
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        spec = importlib.util.spec_from_file_location(Path(place).stem, place)
        if spec is None or spec.loader is None:
            raise ImportError("not a Python file")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except Exception as error:  # whatever one's own file raises when it is run
        raise ConfigError(
            f"reward {name!r}: {place} cannot be imported ({error!r}); give module:function of an installed module, or "
            "path/to/file.py:function"
        ) from error
    return module


def _callable(found: Any, name: str) -> TaskReward:
    if not callable(found):
        raise ConfigError(
            f"reward {name!r}: got {found!r}, wanted a function (masks, truth, context) -> (B, M) in [0, 1]"
        )
    reward: TaskReward = found
    return reward


def reward_sources(config: TaskRewardConfig) -> dict[str, str]:
    """sha256 of the source file of every reward that is not of this project: what a cached result depends on.

    Raises:
        ConfigError: as `find_reward`.
    """
    found = {name: find_reward(name) for name in config.mix if name not in REWARDS}
    sources = {name: inspect.getsourcefile(inspect.unwrap(reward)) for name, reward in found.items()}
    return {
        name: hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
        for name, file in sources.items()
    }


def checked(name: str, returned: Any, masks: Tensor) -> Tensor:
    """What a reward returned, refused unless it is a finite (B, M) in [0, 1].

    Raises:
        ConfigError: it is something else; ``name`` is the reward's.
    """
    wanted = f"wanted a tensor {tuple(masks.shape[:2])} (B, M) in [0, 1]"
    if not isinstance(returned, Tensor):
        raise ConfigError(
            f"reward {name!r} returned a {type(returned).__name__}, {wanted}; mend the function"
        )
    if returned.shape != masks.shape[:2]:
        raise ConfigError(
            f"reward {name!r} returned shape {tuple(returned.shape)} for masks {tuple(masks.shape)}, {wanted}; "
            "mend the function"
        )
    value: Tensor = returned.detach().to(masks.device, torch.float32)
    if not bool(value.isfinite().all()):
        where = (~value.isfinite()).nonzero()[0].tolist()
        raise ConfigError(
            f"reward {name!r} returned {value[tuple(where)].item()} for image {where[0]}, mask {where[1]} of the "
            f"batch, {wanted}; give it a value where it is not defined, such as .5"
        )
    low, high = value.min().item(), value.max().item()
    if low < -1e-6 or high > 1 + 1e-6:
        raise ConfigError(f"reward {name!r} returned values in {low:.4g} .. {high:.4g}, {wanted}; rescale it")
    return value


class RewardMix:
    """sum_k w_k R_k / sum_k w_k of the rewards that a config names; every value checked as it comes.

    Raises:
        ConfigError: a reward that cannot be found.
    """

    def __init__(self, config: TaskRewardConfig) -> None:
        self.config = config
        self.parts = {name: (find_reward(name), weight) for name, weight in config.mix.items()}

    @torch.no_grad()
    def __call__(self, masks: Tensor, truth: Tensor, context: RewardContext) -> Tensor:
        """Shape: masks (B, M, *S), truth (B, *S) -> (B, M) float in [0, 1]."""
        total = torch.zeros(masks.shape[:2], device=masks.device)
        for name, (reward, weight) in self.parts.items():
            total += weight * checked(name, reward(masks, truth, context), masks)
        return total / sum(weight for _, weight in self.parts.values())

    def try_out(self, context: RewardContext, shape: tuple[int, ...]) -> None:
        """Call every reward once on a tiny batch: two images, two masks each, random ones and one-class ones.

        Args:
            context: as in the training, but for the spacing, which is 1 mm here.
            shape: spatial shape of the images; the tiny ones have as many axes, of 12 pixels at the most.

        Raises:
            ConfigError: a reward fails, writes into its arguments, or returns anything but finite (2, 2) in [0, 1].
        """
        tiny = tuple(min(size, 12) for size in shape)
        trial = RewardContext(**{**vars(context), "spacing_mm": [(1.0,) * len(shape)] * 2})
        generator = torch.Generator().manual_seed(0)
        masks = torch.randint(0, context.num_classes, (2, 2, *tiny), generator=generator)
        truth = torch.randint(0, context.num_classes, (2, *tiny), generator=generator)
        masks[1, 1], truth[1] = 0, 0  # classes that are nowhere
        for name, (reward, _) in self.parts.items():
            own, its_truth = masks.clone(), truth.clone()
            try:
                value = reward(own, its_truth, trial)
            except ConfigError:
                raise
            except Exception as error:  # whatever one's own function raises
                raise ConfigError(
                    f"reward {name!r} failed on masks {tuple(masks.shape)} and truth {tuple(truth.shape)}: {error!r}; "
                    "mend the function"
                ) from error
            checked(name, value, masks)
            if not (torch.equal(own, masks) and torch.equal(its_truth, truth)):
                raise ConfigError(
                    f"reward {name!r} changed the masks that it was given; let it work on a copy"
                )


def reward_context(
    config: TaskRewardConfig,
    class_names: tuple[str, ...],
    spacing_mm: list[tuple[float, ...]],
    ignore_index: int | None,
    rules: RuleSet | None = None,
) -> RewardContext:
    """The context of a batch, from the settings."""
    return RewardContext(
        class_names,
        spacing_mm,
        ignore_index,
        rules,
        config.background,
        config.boundary_tolerance,
        config.hausdorff_range,
    )
