"""The shipped run configs: `configs/` of the checkout, or where an installed wheel has put it."""

from __future__ import annotations

import sys
from pathlib import Path

from reward_data.errors import ConfigError

ROOTS = (Path(__file__).resolve().parents[1] / "configs", Path(sys.prefix) / "share" / "rl4seg" / "configs")


def preset_path(name: str) -> Path:
    """The path of a shipped config such as ``auto_iteration/demo``.

    Raises:
        ConfigError: no such config is shipped.
    """
    for root in ROOTS:
        path = root / f"{name}.yaml"
        if path.is_file():
            return path
    known = sorted(
        {str(p.relative_to(root).with_suffix("")) for root in ROOTS for p in root.glob("*/*.yaml")}
    )
    raise ConfigError(f"no shipped config {name!r}; there are: {', '.join(known) or 'none'}")
