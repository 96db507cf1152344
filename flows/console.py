"""The console that the command line prints on."""

from __future__ import annotations

from rich.console import Console

WIDE = 120


def console() -> Console:
    """The terminal as it is; a file or pipe is taken to be wide enough that no table is cut."""
    found = Console()
    return found if found.is_terminal else Console(width=max(found.width, WIDE))
