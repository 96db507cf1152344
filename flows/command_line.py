"""What the commands of `rl4seg` share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from reward_data.errors import ConfigError

if TYPE_CHECKING:
    from flows.config_base import RunConfig

FROM = "from="
HELD_BACK = 0.2  # of the target's groups, for an ablation


def say(line: str) -> None:
    """Show a line at once."""
    typer.echo(line)


def load(config: str, overrides: list[str] | None) -> RunConfig:
    """A config by path or shipped name, with overrides, of the type that its pipeline has.

    Raises:
        ConfigError: everything that is wrong with it, at once.
    """
    from flows.config_loader import load_config
    from flows.pipelines import pipeline_for

    given = overrides or []
    return load_config(config, given, pipeline_for(config, given).config())


def as_comparison(config: str, overrides: list[str]) -> RunConfig:
    """The comparison of a run: its config with every rival on, in a folder of its own, NAME-compare.

    Raises:
        ConfigError: everything that is wrong with it, at once.
    """
    from flows.config_loader import load_config, read_unchecked
    from flows.pipelines import pipeline_named

    pipeline = pipeline_named("compare", "rl4seg compare")
    rest = [*_own_name(config, overrides, pipeline.name), *overrides]
    if read_unchecked(config, []).get("pipeline") != pipeline.name:
        rest.append(f"pipeline={pipeline.name}")
    return load_config(config, rest, pipeline.config())


def as_ablation(config: str, study: str, overrides: list[str]) -> RunConfig:
    """The study of a run, in a folder of its own, NAME-STUDY; a fifth of the target is held back if nothing is.

    Raises:
        ConfigError: everything that is wrong with it, at once.
    """
    from flows.ablation_config import load_study
    from flows.config_loader import load_config, read_unchecked
    from flows.pipelines import pipeline_named

    pipeline = pipeline_named("ablate", "rl4seg ablate")
    rest = [*_own_name(config, overrides, load_study(study).name), *overrides]
    target = read_unchecked(config, overrides).get("target")
    if isinstance(target, dict) and target.get("validation_fraction") == 0:
        rest.append(f"target.validation_fraction={HELD_BACK}")
        say(f"{HELD_BACK:.0%} of the target's training images are held back to choose by")
    return load_config(config, [*rest, f"study={study}", f"pipeline={pipeline.name}"], pipeline.config())


def _own_name(config: str, overrides: list[str], what: str) -> list[str]:
    """The override that keeps a run's folder from being that of the plain run."""
    from flows.config_loader import read_unchecked

    if any(item.partition("=")[0].strip() == "name" for item in overrides):
        return []
    name = str(read_unchecked(config, []).get("name", "run"))
    return [] if name.endswith(f"-{what}") else [f"name={name}-{what}"]


def restart_from(overrides: list[str] | None) -> tuple[str | None, list[str]]:
    """Take ``from=STAGE`` out of the overrides; returns the stage and the others.

    Raises:
        ConfigError: it is given twice, or is empty.
    """
    given = [item.removeprefix(FROM) for item in overrides or [] if item.startswith(FROM)]
    if len(given) > 1 or "" in given:
        raise ConfigError(
            f"got {', '.join(FROM + item for item in given)}, wanted one stage, e.g. from=ppo@2; "
            "rl4seg status RUN lists the stages' names"
        )
    return (given[0] if given else None), [item for item in overrides or [] if not item.startswith(FROM)]


def existing_folder(folder: Path | None) -> Path:
    """The folder, or the current one.

    Raises:
        ConfigError: it does not exist.
    """
    chosen = (folder or Path()).absolute()
    if not chosen.is_dir():
        raise ConfigError(f"--folder {folder}: no such folder; create it or give another")
    return chosen
