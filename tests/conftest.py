"""Fixtures of all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# the same examples in every run; HYPOTHESIS_PROFILE=default draws new ones
settings.register_profile("rl4seg", derandomize=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "rl4seg"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The development data folder: environment RL4SEG_DATA, else shared/data beside the repository."""
    folder = Path(os.environ.get("RL4SEG_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"real data: no folder {folder}; set RL4SEG_DATA to it")
    return folder
