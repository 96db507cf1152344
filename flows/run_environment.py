"""The environment of a pipeline's run: its store, its run folder, its console."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flows.config_base import RunConfig
from flows.config_loader import dump_config
from flows.console import console
from flows.remote_store import open_store
from flows.run_folder import RunFolder
from flows.stages import StageEnvironment, environment


@contextmanager
def run_environment(config: RunConfig) -> Iterator[StageEnvironment]:
    """Create the run folder and make its environment the one that stages use."""
    # The store first: where it cannot be used, the records of an earlier run stay as they are.
    store = open_store(config.store_folder, config.store_url)
    folder = RunFolder.create(config.run_folder, dump_config(config), {"seed": config.seed})
    out = console()
    out.print(f"{config.name}: run folder {folder.path}", highlight=False, soft_wrap=True)
    with environment(StageEnvironment(store, folder, out, config.runtime)) as active:
        yield active
