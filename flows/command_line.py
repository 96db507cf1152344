"""What the commands of `rl4seg` share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from reward_data.errors import ConfigError

if TYPE_CHECKING:
    from flows.config import AutoIterationConfig

FROM = "from="


def say(line: str) -> None:
    """Show a line at once."""
    typer.echo(line)


def load(config: str, overrides: list[str] | None) -> AutoIterationConfig:
    """A config by path or shipped name, with overrides.

    Raises:
        ConfigError: everything that is wrong with it, at once.
    """
    from flows.config import AutoIterationConfig
    from flows.config_loader import load_config

    return load_config(config, overrides or [], AutoIterationConfig)


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
