"""HTML templates of the report, the comparison and the uncertainty page, and the style that they share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template


def template(
    name: str,
    functions: Mapping[str, Any] | None = None,
    filters: Mapping[str, Any] | None = None,
) -> Template:
    """The template ``name`` of this folder. ``functions``, ``filters``: what it may call, by name."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals |= functions or {}
    environment.filters |= filters or {}
    return environment.get_template(name)
