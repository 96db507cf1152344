"""GPU room: the reinforcement-learning core over torch and MONAI; usable as a library without Prefect.

from rl4seg import load_policy
"""

from __future__ import annotations

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    """``load_policy``, whose imports take seconds, only where somebody asks for it."""
    if name == "load_policy":
        return importlib.import_module("rl4seg.library").load_policy
    raise AttributeError(f"module 'rl4seg' has no attribute {name!r}")
