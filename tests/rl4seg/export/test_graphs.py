"""TorchScript and ONNX: the same masks, any number of images at a time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from reward_data.errors import ArtifactError, ConfigError
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.export import export_package, onnx_graph
from rl4seg.export.torchscript import _write
from rl4seg.package import load_package, save_package
from rl4seg.policies import TorchSegmenter
from rl4seg.runtime import start
from tests.rl4seg.export.conftest import NETWORK, SHAPE, smooth_image, tiny_package


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """50 images on the network's grid. Shape: (50, 1, 32, 32) in [0, 1]."""
    return np.stack([smooth_image(seed, SHAPE)[None] / 200 for seed in range(50)])


@pytest.fixture(scope="module")
def masks(package: Path, images: np.ndarray) -> np.ndarray:
    runtime = start(RuntimeConfig(device="cpu", precision="float32", threads=1))
    found = TorchSegmenter(load_package(package, runtime).model, runtime).probabilities(images).argmax(1)
    assert np.bincount(found.ravel(), minlength=3).min() > 500  # every class is there
    return found


def test_torchscript_gives_the_same_masks_on_50_images(
    package: Path, images: np.ndarray, masks: np.ndarray, tmp_path: Path
) -> None:
    found = export_package(package, tmp_path / "out", "torchscript")
    assert found.probabilities <= 1e-6
    extra = {"package.json": ""}
    policy = torch.jit.load(str(tmp_path / "out" / "model.ts"), _extra_files=extra)
    with torch.no_grad(), torch.jit.optimized_execution(False):
        got = [policy(part).argmax(1) for part in torch.from_numpy(images).split([1, 20, 29])]
    assert np.array_equal(torch.cat(got).numpy(), masks)
    assert json.loads(extra["package.json"])["name"] == "tiny"
    reward = torch.jit.load(str(tmp_path / "out" / "reward.ts"))
    assert reward(torch.zeros(3, 4, *SHAPE)).shape == (3, 1, *SHAPE)
    assert "sigmoid(z / 1.7)" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "unet", "features": (8, 16, 16), "norm": "batch", "residual_units": 1, "fold": 1},
        {"name": "dynunet", "features": (8, 16, 16), "norm": "group"},
        {"name": "segresnet", "features": (8, 8), "norm": "group"},
    ],
)
def test_every_network_can_be_torchscript(changes: dict[str, object], tmp_path: Path) -> None:
    from rl4seg.policies import new_model

    spec = tiny_package().model.spec.model_copy(
        update={"network": type(NETWORK)(**changes), "shape": (24, 40)}  # type: ignore[arg-type]
    )
    model = new_model(spec, 3)
    assert _write(model, tmp_path / "model.ts", "{}").probabilities <= 1e-5


def test_onnx_gives_the_same_masks_on_50_images(
    images: np.ndarray, masks: np.ndarray, tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    save_package(tiny_package(reward=False), tmp_path / "package")
    found = export_package(tmp_path / "package", tmp_path / "out", "onnx")
    assert found.probabilities <= 1e-5
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    got = [session.run(None, {"image": images[part]})[0].argmax(1) for part in (slice(1), slice(1, 50))]
    assert np.array_equal(np.concatenate(got), masks)
    assert json.loads(session.get_modelmeta().custom_metadata_map["package.json"])["name"] == "tiny"


@pytest.mark.slow
def test_onnx_has_the_reward_net_too(package: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    export_package(package, tmp_path / "out", "onnx")
    reward = onnxruntime.InferenceSession(str(tmp_path / "out" / "reward.onnx"))
    assert reward.run(None, {"image": np.zeros((3, 4, *SHAPE), np.float32)})[0].shape == (3, 1, *SHAPE)


def test_a_missing_extra_is_one_clear_error_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_graph, "NEEDED", ("onnx_that_nobody_has",))
    with pytest.raises(ConfigError, match=r"needs onnx_that_nobody_has; .*rl4seg\[onnx\]"):
        export_package(tmp_path / "no such run", tmp_path / "out", "onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_predicts_something_else_is_not_written(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = torch.jit.save

    def wrong(module: torch.jit.ScriptModule, path: str, **kwargs: object) -> None:
        with torch.no_grad():
            next(module.parameters()).mul_(1.01)
        save(module, path, **kwargs)

    own = torch.jit.trace

    def copied(network: torch.nn.Module, *args: object, **kwargs: object) -> object:
        import copy

        return own(copy.deepcopy(network), *args, **kwargs)

    monkeypatch.setattr(torch.jit, "trace", copied)
    monkeypatch.setattr(torch.jit, "save", wrong)
    with pytest.raises(ArtifactError, match=r"model.ts: probabilities differ"):
        export_package(package, tmp_path / "out", "torchscript")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_said(package: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="wanted one of bundle, torchscript, onnx"):
        export_package(package, tmp_path / "out", "caffe")
    with pytest.raises(ArtifactError, match=r"no package\.json here"):
        export_package(tmp_path, tmp_path / "out", "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_is_as_good_as_its_policy(package: Path, tmp_path: Path) -> None:
    assert export_package(package.parent, tmp_path / "out", "torchscript").images == 16
