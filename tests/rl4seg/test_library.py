"""The library's front door: the lines of the README, and that importing the package stays cheap."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import rl4seg
from reward_data.errors import ArtifactError
from reward_data.types import LabelMap
from rl4seg.configs.network import NetworkConfig
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.library import load_policy
from rl4seg.package import ModelPackage, package_folder, save_package
from rl4seg.policies import ModelSpec, new_model
from tests.rl4seg.copying import copying_package

README = """
from rl4seg import load_policy

policy = load_policy("runs/demo/policy")
result = policy(image, spacing_mm=(0.6, 0.6))
print(result.mask.shape, result.trust, result.valid, result.areas)
doubtful = result.error > 0.5
"""
SMALL = NetworkConfig(features=(4, 4, 8, 8, 8, 4))


def save_small(folder: Path, channels: int = 1) -> Path:
    """A package of an untrained network, as a run leaves it."""
    spec = copying_package((32, 32)).spec
    model = ModelSpec(network=SMALL, in_channels=channels, class_names=LabelMap().names, shape=(32, 32))
    save_package(ModelPackage(spec, new_model(model), None), folder)
    return folder


def test_the_readme_has_these_lines() -> None:
    assert README in (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_lines_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_small(tmp_path / "runs" / "demo" / "policy")
    monkeypatch.chdir(tmp_path)
    scope = {"image": np.random.default_rng(0).uniform(0, 255, (50, 40))}
    exec(README, scope)
    assert scope["result"].mask.shape == scope["doubtful"].shape == (50, 40)
    assert 0 <= scope["result"].trust <= 1


def test_the_folder_of_a_run_stands_for_the_policy_in_it(tmp_path: Path) -> None:
    save_small(tmp_path / "policy")
    assert package_folder(tmp_path) == package_folder(tmp_path / "policy") == tmp_path / "policy"
    policy = load_policy(str(tmp_path), runtime=RuntimeConfig(device="cpu", threads=1))
    assert policy.spec.name == "copy"
    with pytest.raises(ArtifactError, match=r"no package\.json here"):
        load_policy(tmp_path / "elsewhere")


def test_an_image_may_have_an_axis_of_channels(tmp_path: Path) -> None:
    image = np.random.default_rng(0).uniform(0, 255, (20, 30))
    policy = load_policy(save_small(tmp_path))
    assert np.array_equal(policy(image).mask, policy(image[None]).mask)
    assert load_policy(save_small(tmp_path / "two", 2))(np.stack([image, image])).mask.shape == (20, 30)


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, rl4seg; assert 'torch' not in sys.modules, 'torch'"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_another_name_does_not_exist() -> None:
    assert rl4seg.load_policy is load_policy
    with pytest.raises(AttributeError, match="load_polizei"):
        _ = rl4seg.load_polizei
