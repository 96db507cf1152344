"""A router on disk, and in a model package that predicts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from reward_data.anatomy import RuleSet
from reward_data.errors import ArtifactError, ConfigError
from reward_data.preprocess import PreprocessConfig
from reward_data.types import LabelMap
from rl4seg.configs.predict import PredictConfig
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.export.package_export import export_package
from rl4seg.package import PackageSpec, load_package, write_spec
from rl4seg.paser.figures import BudgetCurve, Costs, RouterSpec
from rl4seg.paser.package import FOLDER, POLICY, SPEC, load_router, save_router, set_budget
from rl4seg.policies import save_model
from rl4seg.predictor import Predictor
from rl4seg.runtime import Runtime, start
from tests.rl4seg.paser.conftest import CLASSES, small_nets, small_router

CURVE = BudgetCurve(
    thresholds=(1e6, 0.0, -1e6), shares=(0.1, 0.5, 1.1), iou=(0.1, 0.2, 0.3), images=1, basis="a test"
)  # fmt: skip


@pytest.fixture
def runtime() -> Runtime:
    return start(RuntimeConfig(device="cpu", threads=1))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model package with a router of three untrained nets."""
    router = small_router(small_nets(), (3, 4))
    costs = Costs(parameters=(1, 2, 3), patch_macs=(1, 2, 3), whole_macs=(1, 2, 3), policy_macs=1)
    spec = RouterSpec(
        names=router.nets.names, routing=router.config, shares=router.costs, costs=costs, curve=CURVE
    )
    save_model(router.nets.models[0], tmp_path)
    save_router(router, spec, tmp_path / FOLDER)
    about = PackageSpec(
        name="test", iteration=0, labels=LabelMap(names=CLASSES), preprocess=PreprocessConfig(shape=(16, 16)),
        rules=RuleSet(classes=CLASSES),
    )  # fmt: skip
    write_spec(about, tmp_path)
    return tmp_path


@torch.no_grad()
def test_a_router_is_read_as_it_was_written(folder: Path, runtime: Runtime) -> None:
    images = torch.rand(2, 1, 16, 16)
    loaded, spec = load_router(folder / FOLDER, runtime)
    before, after = small_router(small_nets(), (3, 4))(images), loaded(images)
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    assert spec.curve == CURVE
    assert spec.routing == loaded.config


def test_a_package_with_a_router_predicts_and_keeps_a_budget(folder: Path, runtime: Runtime) -> None:
    image = np.random.default_rng(0).uniform(0, 255, (1, 16, 16)).astype(np.float32)
    masks = {}
    for budget in (None, 0.1, 1.0):
        predictor = Predictor(load_package(folder, runtime), runtime, PredictConfig(budget=budget))
        masks[budget] = predictor.predict(image).mask
    router = load_router(folder / FOLDER, runtime)[0]
    scaled = torch.from_numpy((image - image.min()) / (image.max() - image.min()))[None]
    smallest = router.alone(scaled, 0).argmax(1)[0].numpy()
    assert np.array_equal(masks[0.1], smallest)  # nothing to spend: the smallest net alone
    assert not np.array_equal(masks[None], smallest)
    assert np.array_equal(
        masks[1.0], masks[None]
    )  # 1.0 reaches .5 of the curve, where the threshold is 0, as trained


def test_budgets_that_cannot_be_kept_are_refused(folder: Path, runtime: Runtime) -> None:
    package = load_package(folder, runtime)
    with pytest.raises(ConfigError, match=r"budget=0\.05.*give 0\.100 or more"):
        Predictor(package, runtime, PredictConfig(budget=0.05))
    with pytest.raises(ConfigError, match="spends the same on every image"):
        set_budget(small_nets().models[0], 0.5)


def test_broken_routers_are_refused(folder: Path, runtime: Runtime) -> None:
    (folder / FOLDER / POLICY).write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match="not a readable checkpoint"):
        load_router(folder / FOLDER, runtime)
    (folder / FOLDER / SPEC).write_text("{}")
    with pytest.raises(ArtifactError, match="no readable router"):
        load_router(folder / FOLDER, runtime)


def test_a_router_is_no_single_graph_to_export(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is a PaSeR or PatchDrop model.*use it by rl4seg predict"):
        export_package(folder, tmp_path / "out", "torchscript")
    assert not (tmp_path / "out").exists()
