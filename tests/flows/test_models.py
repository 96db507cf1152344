"""What MODEL may be: run, package, bundle; and what it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.config import AutoIterationConfig
from flows.config_loader import dump_config
from flows.models import check_model, model_digest, open_model
from reward_data.errors import ArtifactError, ConfigError
from rl4seg.export import export_package
from rl4seg.library import load_policy
from rl4seg.package import save_package
from tests.rl4seg.copying import RUNTIME
from tests.rl4seg.export.conftest import tiny_package


def write_config(folder: Path, pipeline: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    phantom = {"format": "phantom"}
    config = AutoIterationConfig.model_validate(
        {"source": phantom, "target": phantom, "preprocess": {"shape": [32, 32]}, "name": "r"}
    )
    text = dump_config(config).replace("pipeline: auto-iteration", f"pipeline: {pipeline}")
    (folder / "config.yaml").write_text(text)


def test_a_run_its_package_and_its_bundle_are_the_same_model(tmp_path: Path) -> None:
    write_config(tmp_path / "run", "auto-iteration")
    save_package(tiny_package(), tmp_path / "run/policy")
    export_package(tmp_path / "run", tmp_path / "bundle", "bundle")
    places = (tmp_path / "run", tmp_path / "run/policy", tmp_path / "bundle")
    digests = {model_digest(open_model(place, None, RUNTIME)) for place in places}
    assert len(digests) == 1
    assert load_policy(tmp_path / "bundle").spec.name == "tiny"
    other = tiny_package()
    other.spec = other.spec.model_copy(update={"trust": None})
    assert model_digest(other) not in digests
    assert model_digest(open_model(tmp_path / "run", 2, RUNTIME)) in digests  # it is of iteration 2


def test_what_is_no_model_is_told_with_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such folder; give the folder of a run"):
        check_model(tmp_path / "none")
    with pytest.raises(ArtifactError, match="no model here; give the folder of a run"):
        check_model(tmp_path)
    write_config(tmp_path / "study", "compare")
    write_config(tmp_path / "study/seed-1", "auto-iteration")
    with pytest.raises(ArtifactError, match=r"study \(compare\).*one of its runs, e.g. .*seed-1"):
        check_model(tmp_path / "study")
    save_package(tiny_package(), tmp_path / "policy")
    with pytest.raises(ConfigError, match="the model of iteration 2 alone; leave --iteration out"):
        check_model(tmp_path / "policy", 1)
    export_package(tmp_path / "policy", tmp_path / "script", "torchscript")
    with pytest.raises(ArtifactError, match="an exported graph, which holds no model package"):
        check_model(tmp_path / "script")
