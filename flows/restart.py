"""`from=ppo@2`: run a stage anew although its artifact stands, and with it everything that is made from it.

A stage's name is its label in short: "iteration 2 · PPO" is ``ppo@2``, "PPO off · iteration 2 · PPO" is
``ppo-off/ppo@2``, "source training" is ``source-training``. In a run of several seeds ``ppo@2`` is that stage of
all of them, ``seed-1/ppo@2`` of one. Whether a name exists is known before anything runs: the
flow is gone through once with stages that only tell their labels. An artifact built since the run began is not built
again: a run that is retried goes on where it was.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from flows.stages import Restart, current_environment, environment
from reward_data.errors import ConfigError

ConfigT = TypeVar("ConfigT")


def stage_name(label: str) -> str:
    """The short name of a stage by which ``from=`` and the dashboard's form know it."""
    parts, suffix = [], ""
    for part in label.split(" · "):
        iteration = re.fullmatch(r"iteration (\d+)", part)
        if iteration:
            suffix = f"@{iteration[1]}"
        else:
            parts.append(re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-"))
    return "/".join(parts) + suffix


def stage_names(stages: Callable[[ConfigT], object], config: ConfigT) -> list[str]:
    """The names of the stages that ``stages(config)`` would run, in order; none of them is run."""
    labels: list[str] = []
    with environment(dataclasses.replace(current_environment(), run_folder=None, plan=labels)):
        stages(config)
    return list(dict.fromkeys(stage_name(label) for label in labels))


@contextmanager
def restarted_from(name: str | None, stages: Callable[[ConfigT], object], config: ConfigT) -> Iterator[None]:
    """Stages called inside run anew from the one of this name on; None changes nothing.

    Raises:
        ConfigError: there is no such stage.
    """
    if name is None:
        yield
        return
    names = stage_names(stages, config)
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"did you mean from={close[0]}?" if close else "choose one of these"
        raise ConfigError(f"from={name}: no such stage; {hint} The stages of this run: {', '.join(names)}")
    restart = Restart(lambda label: stage_name(label) == name, _began())
    with environment(dataclasses.replace(current_environment(), restart=restart)):
        yield


def _began() -> float:
    """When the flow run was created (seconds since the epoch): the same in all of its tries."""
    if "prefect" in sys.modules:
        from prefect.context import FlowRunContext

        context = FlowRunContext.get()
        if context is not None and context.flow_run is not None and context.flow_run.created is not None:
            return context.flow_run.created.timestamp()
    return time.time()
