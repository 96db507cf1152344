"""The segmentation twin in a model package that predicts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from reward_data.anatomy import RuleSet
from reward_data.errors import ArtifactError, ConfigError
from reward_data.preprocess import PreprocessConfig
from reward_data.types import LabelMap
from rl4seg.configs.network import NetworkConfig
from rl4seg.configs.patchdrop import DropWindowsConfig, KeepNetConfig
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.export.package_export import export_package
from rl4seg.package import PackageSpec, load_package, write_spec
from rl4seg.patchdrop.networks import KeepNetwork
from rl4seg.patchdrop.window_package import FINE, FOLDER, WindowedNetwork, save_windowed
from rl4seg.patchdrop.window_policy import WindowPolicySpec, keep_probabilities, segmenter_of
from rl4seg.policies import Model, ModelSpec, new_model
from rl4seg.predictor import Predictor
from rl4seg.runtime import Runtime, start

CLASSES = ("dark", "bright")
NETWORK = NetworkConfig(name="unet", features=(4, 8), fold=1, norm="instance")
SPEC = WindowPolicySpec(
    windows=DropWindowsConfig(grid=(2, 2), margin=4, coarse_shape=(16, 16)),
    policy=KeepNetConfig(head="grid", features=4),
    class_names=CLASSES,
    channels=1,
)


@pytest.fixture
def runtime() -> Runtime:
    return start(RuntimeConfig(device="cpu", threads=1))


def parts() -> tuple[Model, Model, KeepNetwork]:
    """Untrained networks; the policy keeps some windows of one image and others of another."""
    coarse, fine = (
        new_model(ModelSpec(network=NETWORK, in_channels=1, class_names=CLASSES, shape=shape), 0, shape[0])
        for shape in ((16, 16), (24, 24))
    )
    policy = SPEC.build(3)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.mul_(2)
        policy.inner.get_submodule("last").get_parameter("bias").zero_()
    return coarse, fine, policy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_windowed(*parts(), SPEC, (32, 32), tmp_path)
    about = PackageSpec(
        name="test", iteration=0, labels=LabelMap(names=CLASSES),
        preprocess=PreprocessConfig(shape=(32, 32), intensity="divide_255"), rules=RuleSet(classes=CLASSES),
    )  # fmt: skip
    write_spec(about, tmp_path)
    return tmp_path


@torch.no_grad()
def test_the_network_of_the_package_is_the_twin_image_by_image(folder: Path, runtime: Runtime) -> None:
    network = load_package(folder, runtime).model.network
    assert isinstance(network, WindowedNetwork)
    coarse, fine, policy = parts()
    twin = segmenter_of((coarse, fine), SPEC.windows, runtime)
    images = torch.rand(6, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    images[3:] *= 0.2  # dark ones, of which the policy keeps other windows
    answers, kept = network(images), set()
    assert torch.allclose(answers.exp().sum(1), torch.ones(6, 32, 32), atol=1e-5)
    for place, image in enumerate(images):
        view = twin.look(image[None])
        keep = keep_probabilities(policy.eval(), view.policy_input, runtime)[1][0]
        kept.add(tuple(keep.tolist()))
        assert torch.equal(answers[place].argmax(0), twin.segment(image, view, keep))
        assert torch.equal(answers[place], network(image[None])[0])  # whoever else is in the batch
    assert len(kept) > 1


def test_a_predictor_uses_it_on_images_of_any_size(folder: Path, runtime: Runtime) -> None:
    image = np.random.default_rng(0).uniform(0, 255, (1, 50, 41)).astype(np.float32)
    found = Predictor(load_package(folder, runtime), runtime).predict(image)
    assert found.mask.shape == (50, 41)
    assert set(np.unique(found.mask)) <= {0, 1}
    assert 0 <= found.trust <= 1


def test_it_is_no_single_graph(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"PatchDrop model.*use it by rl4seg predict"):
        export_package(folder, tmp_path / "out", "torchscript")


def test_a_package_that_lacks_a_part_is_refused(folder: Path, runtime: Runtime) -> None:
    (folder / FOLDER / FINE / "weights.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"weights\.safetensors"):
        load_package(folder, runtime)
