"""What `rl4seg predict` is asked to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from reward_data.errors import ConfigError
from reward_data.types import Config
from rl4seg.configs.predict import PredictConfig
from rl4seg.configs.runtime import RuntimeConfig

Kind = Literal["errors", "overlays"]
KINDS: tuple[Kind, ...] = ("errors", "overlays")


class PredictRequest(Config):
    """A model, what it is to be used on, where the results go, and how they are made."""

    model: Path = Field(description="Run, model package or exported bundle.")
    source: Path = Field(description="Image, folder of images, or CSV table.")
    output: Path = Field(description="Folder of the results.")
    iteration: int | None = Field(default=None, ge=0, description="Of a run; null = the policy handed out.")
    options: PredictConfig = Field(default=PredictConfig(), description="How masks are made.")
    runtime: RuntimeConfig = Field(default=RuntimeConfig(batch_size=16), description="Where they are made.")
    save: tuple[Kind, ...] = Field(default=KINDS, description="What is written beside masks and tables.")
    overwrite: bool = Field(
        default=False, description="Remove the results of another model or other options."
    )


def request_from(model: Path, source: Path, output: Path, **given: Any) -> PredictRequest:
    """The request of the command line; options that are None keep their defaults.

    Args:
        given: iteration, tta, tto, window, scale, post_process, budget, device, precision, batch_size, threads,
            save (words with commas), overwrite.

    Raises:
        ConfigError: a value that does not exist.
    """
    known = {name: value for name, value in given.items() if value is not None}
    runtime = {
        name: known[name] for name in ("device", "precision", "batch_size", "threads") if name in known
    }
    window = {
        option: known[name] for name, option in (("window", "mode"), ("scale", "scale")) if name in known
    }
    options: dict[str, Any] = {
        "augmented": {"draws": known.get("tta", 0)},
        "optimised": {"rounds": known.get("tto", 0)},
        "window": window,
        "post_process": known.get("post_process", False),
        "budget": known.get("budget"),
    }
    content: dict[str, Any] = {
        "model": model,
        "source": source,
        "output": output,
        "options": options,
        "runtime": {"batch_size": 16, **runtime},
        **{name: known[name] for name in ("iteration", "overwrite") if name in known},
        **({"save": _kinds(known["save"])} if "save" in known else {}),
    }
    try:
        return PredictRequest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{place}={first.get('input')!r}: {first['msg']}") from error


def _kinds(words: str) -> tuple[str, ...]:
    """``masks`` may be named: they are always written."""
    chosen = tuple(word.strip() for word in words.split(",") if word.strip())
    unknown = [word for word in chosen if word not in ("masks", *KINDS)]
    if unknown:
        raise ConfigError(f"--save {words}: no kind {unknown[0]!r}; wanted any of masks, {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in chosen)
