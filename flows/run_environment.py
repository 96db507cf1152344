"""The environment of a pipeline's run: its store, its run folder, its console."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

from flows.config_base import RunConfig
from flows.config_loader import dump_config
from flows.console import console
from flows.remote_store import open_store
from flows.run_folder import RunFolder
from flows.stages import StageEnvironment, current_environment, environment


@contextmanager
def run_environment(config: RunConfig) -> Iterator[StageEnvironment]:
    """Create the run folder and make its environment the one that stages use."""
    # The store first: where it cannot be used, the records of an earlier run stay as they are.
    store = open_store(config.store_folder, config.store_url)
    folder = RunFolder.create(config.run_folder, dump_config(config), config.seeds_used())
    out = console()
    out.print(f"{config.name}: run folder {folder.path}", highlight=False, soft_wrap=True)
    with environment(StageEnvironment(store, folder, out, config.runtime)) as active:
        yield active


@contextmanager
def part_environment(config: RunConfig, prefix: str) -> Iterator[StageEnvironment]:
    """The environment of one part of a run, e.g. of one seed: a run folder of its own, everything else is the run's.

    Args:
        config: what the part runs; its folder lies inside the run's.
        prefix: what its labels begin with on console, dashboard and in the run's lineage, e.g. "seed 0 · ".
    """
    here = current_environment()
    folder = None
    if here.run_folder is not None:
        yaml = dump_config(config)
        folder = RunFolder.create(config.run_folder, yaml, config.seeds_used(), here.run_folder, prefix)
    part = dataclasses.replace(here, run_folder=folder, prefix=here.prefix + prefix)
    with environment(part) as active:
        yield active
