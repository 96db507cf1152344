"""What every pipeline's run config has."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field

from reward_data.types import Config
from rl4seg.configs.runtime import RuntimeConfig


class RunConfig(Config):
    """Name, folders, seed and machine of a run."""

    name: str = Field(
        default="run",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Name of the run and of its folder.",
    )
    output: str = Field(default="runs", description="Folder of the run folders.")
    store: str | None = Field(
        default=None, description="Folder of the artifact store, shared by runs; null = `store` in `output`."
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="The one seed of the run.")
    runtime: RuntimeConfig = Field(default=RuntimeConfig(), description="Device, precision, threads.")

    @property
    def run_folder(self) -> Path:
        """Where the run's config, lineage and report are."""
        return Path(self.output) / self.name

    @property
    def store_folder(self) -> Path:
        """Where artifacts are."""
        return Path(self.store) if self.store else Path(self.output) / "store"

    def located(self) -> Self:
        """The same run for a process elsewhere: inputs that exist here by absolute path. Overridden by pipelines."""
        return self


def located(path: str | None) -> str | None:
    """The absolute path of what exists here; anything else as it is."""
    return str(Path(path).absolute()) if path is not None and Path(path).exists() else path
