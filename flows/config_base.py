"""What every pipeline's run config has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator

from reward_data.types import Config
from rl4seg.configs.runtime import RuntimeConfig

SECRET_IN_URL = r"://(?:[^/@]*:(?!\d+/)[^@]*@|.*\?)"
"""What a URL of a store must not have: a password before the host, or a query, where tokens are."""


def listed(values: Any) -> Any:
    """``0,1,2``, as the command line has it, or a single number, as a list; anything else as it is."""
    if isinstance(values, str):
        return [part.strip() for part in values.split(",") if part.strip()]
    return [values] if isinstance(values, int) else values


def different_seeds(seeds: tuple[int, ...]) -> tuple[int, ...]:
    """The seeds, checked.

    Raises:
        ValueError: one of them is there twice, or is no seed.
    """
    if len(set(seeds)) < len(seeds) or not all(0 <= seed < 2**31 for seed in seeds):
        raise ValueError("different seeds from 0 to 2147483647, each of them once")
    return seeds


class RunConfig(Config):
    """Pipeline, name, folders, seed and machine of a run. Every pipeline gives ``pipeline`` its own default."""

    pipeline: str = Field(default="", description="Which pipeline the config is for; it has one value only.")
    name: str = Field(
        default="run",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Name of the run and of its folder.",
    )
    output: str = Field(default="runs", description="Folder of the run folders.")
    store: str | None = Field(
        default=None,
        description="Artifact store, shared by runs: a folder, or an fsspec URL without a password, such as "
        "s3://BUCKET/PREFIX, shared by machines and mirrored in `store` in `output`; null = `store` in `output`.",
        json_schema_extra={"pattern": f"^(?!.*{SECRET_IN_URL})"},
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="The one seed of the run.")
    runtime: RuntimeConfig = Field(default=RuntimeConfig(), description="Device, precision, threads.")

    @field_validator("pipeline")
    @classmethod
    def _is_the_own_one(cls, pipeline: str) -> str:
        own = cls.model_fields["pipeline"].default
        if pipeline != own:
            raise ValueError(
                f"this is read as a config of the pipeline {own}; give pipeline={own} or leave it out"
            )
        return pipeline

    @field_validator("store")
    @classmethod
    def _holds_no_secret(cls, store: str | None) -> str | None:
        if store is not None and re.search(SECRET_IN_URL, store):
            raise ValueError(
                "a URL without a password and without a query, as parameters of runs are kept and shown; give "
                "credentials by the environment or the configuration file of the driver where the stages run"
            )
        return store

    @property
    def run_folder(self) -> Path:
        """Where the run's config, lineage and report are."""
        return Path(self.output) / self.name

    @property
    def store_folder(self) -> Path:
        """Where artifacts are worked on, on this machine."""
        return Path(self.store) if self.store and "://" not in self.store else Path(self.output) / "store"

    @property
    def store_url(self) -> str | None:
        """Where they are shared between machines, if that is not a folder."""
        return self.store if self.store and "://" in self.store else None

    def seeds_used(self) -> dict[str, int]:
        """What seeds.json says. Overridden where a run has more than one seed."""
        return {"seed": self.seed}

    def located(self) -> Self:
        """The same run for a process elsewhere: inputs that exist here by absolute path. Overridden by pipelines."""
        return self


class SeedsRunConfig(RunConfig):
    """A run that can be a study of several seeds."""

    seeds: tuple[int, ...] = Field(
        default=(), description="Seeds of a study, each with its own trainings; empty = `seed` alone."
    )

    _from_text = field_validator("seeds", mode="before")(listed)
    _are_different = field_validator("seeds")(different_seeds)

    def all_seeds(self) -> tuple[int, ...]:
        """The seeds that run."""
        return self.seeds or (self.seed,)

    def seeds_used(self) -> dict[str, int]:
        """What seeds.json says."""
        return {f"seed-{seed}": seed for seed in self.seeds} or {"seed": self.seed}


def located(path: str | None) -> str | None:
    """The absolute path of what exists here; anything else as it is."""
    return str(Path(path).absolute()) if path is not None and Path(path).exists() else path
