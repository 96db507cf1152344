"""A small two-structure dataset on disk: a disc (class 1) inside a ring (class 2), bright on dark."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reward_data.case_store import CaseStore, import_cases
from reward_data.preprocess import PreprocessConfig
from reward_data.types import Case, LabelMap

LABELS = LabelMap(names=("background", "disc", "ring"))


def disc_case(index: int, split: str, labelled: bool = True) -> Case:
    rng = np.random.default_rng([7, index])
    rows, columns = np.mgrid[:32, :32]
    distance = np.hypot(rows - rng.uniform(12, 20), columns - rng.uniform(12, 20))
    label = np.where(distance < 5, 1, np.where(distance < 9, 2, 0)).astype(np.uint8)
    image = np.array([20, 200, 110])[label] + rng.normal(0, 10, label.shape)
    return Case(
        id=f"case{index:03d}",
        group=f"patient{index // 2}",
        domain="discs",
        split=split,
        image=np.clip(image, 0, 255).astype(np.float32)[None],
        label=label if labelled else None,
        spacing_mm=(2.0, 2.0),
        affine=np.diag([2.0, 2.0, 1.0, 1.0]),
    )


@pytest.fixture(scope="session")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 training and 6 test cases on a 32 x 32 grid, the last test case without a label."""
    path = tmp_path_factory.mktemp("discs") / "cases.h5"
    cases = [disc_case(i, "train") for i in range(20)]
    cases += [disc_case(20 + i, "test", labelled=i < 5) for i in range(6)]
    import_cases(cases, len(cases), PreprocessConfig(shape=(32, 32)), LABELS, path)
    with CaseStore(path) as store:
        assert len(store) == 26
    return path
