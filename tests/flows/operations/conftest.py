"""What the operations' tests share: the tiny config, one undisturbed run of it, and one `rl4seg up`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.flows import tiny
from tests.flows.operations import pool

# One iteration with a reward net that trains for some seconds: long enough to be killed in.
REWARD_NET = "iteration 1 · reward net"
LONG = ("iterations=1", "reward_net.steps=120", "rivals.ppo_off=false")


@dataclass(frozen=True)
class Job:
    """A config to run, and what an undisturbed run of it gave."""

    config: Path
    overrides: tuple[str, ...]
    digests: dict[str, str]
    keys: dict[str, str]
    output: Path

    def arguments(self, output: Path) -> tuple[str, ...]:
        """Overrides for a run with a store of its own, which has what comes before the reward net already."""
        for label in list(self.keys)[: list(self.keys).index(REWARD_NET)]:
            key = self.keys[label]
            shutil.copytree(self.output / "store" / key, output / "store" / key, dirs_exist_ok=True)
        return (*self.overrides, f"output={output}")


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The tiny config, run once by `rl4seg run`, without a pool."""
    folder: Path = tmp_path_factory.mktemp("job")
    config = tiny.write_config(folder / "data")
    output = folder / "undisturbed"
    with pool.place(folder / "place") as here:
        here.call("run", str(config), *LONG, f"output={output}")
    keys = {row["label"]: row["key"] for row in pool.lineage(output)}
    return Job(config, LONG, pool.digests(output), keys, output)


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pool.Place]:
    """`rl4seg up` with one worker on the CPU."""
    with pool.place(tmp_path_factory.mktemp("running")) as here:
        here.up()
        yield here
