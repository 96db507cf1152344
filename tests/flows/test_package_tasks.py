"""RUN/policy as a model package: what is in it, where its reward net comes from, and that it can be made anew."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from flows.auto_iteration import adaptation
from flows.restart import stage_names
from flows.stages import StageEnvironment, environment
from rl4seg import load_policy
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.package import load_package, read_spec
from rl4seg.runtime import start
from tests.flows.test_stop import ALWAYS, NEVER, Place, key_of

RUNTIME = RuntimeConfig(device="cpu", threads=1)
FEW = ("iterations=1", "trust.views=2", "trust.strengths=[1]")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("package"))


def contents(folder: Path) -> dict[str, bytes]:
    """Relative path -> bytes of all files but the manifest, which has the time."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_the_policy_folder_of_a_run_is_a_package_that_predicts(place: Place) -> None:
    folder, metrics, _ = place.run("usual", *FEW, "stop.enabled=false")
    package = load_package(folder / "policy", start(RUNTIME))
    spec, flag = package.spec, package.spec.trust
    assert package.reward is not None
    assert (spec.name, spec.iteration, spec.labels.names) == ("tiny", 1, ("background", "disc", "ring"))
    # the tiny source has no validation images: 12 training images, clean and twice degraded
    assert flag is not None
    assert (flag.images, flag.sensitivity) == (36, 0.8)
    assert flag.basis.startswith("12 training images of the source, which has no validation images")
    assert spec.training["source"]["splits"] == {"train": 12, "test": 4}
    assert spec.training["figures"]["cases"] == 4
    assert spec.made_with["torch"]
    assert json.loads((folder / "policy" / "handed_out.json").read_text())["iteration"] == 1
    # its reward net is the iteration's own
    artifact = place.store.root / key_of(folder, "iteration 1 · reward net")
    for name in ("weights.safetensors", "calibration.json"):
        assert (folder / "policy" / "reward" / name).read_bytes() == (artifact / name).read_bytes()
    image = np.random.default_rng(0).uniform(0, 255, (40, 30))
    result = load_policy(folder, runtime=RUNTIME)(image, spacing_mm=(1.0, 1.0))
    assert result.mask.shape == (40, 30)
    assert result.flagged is (result.trust < flag.threshold)
    (said,) = [statement.text for statement in metrics.verdict if statement.text.startswith("Trust flag")]
    assert f"below {flag.threshold:.3f}" in said


@pytest.mark.slow
def test_the_policy_given_gets_the_reward_net_of_the_first_iteration(place: Place) -> None:
    folder, _, _ = place.run("given", *FEW, *ALWAYS)
    assert read_spec(folder / "policy").iteration == 0
    net = place.store.root / key_of(folder, "iteration 1 · reward net") / "weights.safetensors"
    assert (folder / "policy" / "reward" / "weights.safetensors").read_bytes() == net.read_bytes()


@pytest.mark.slow
def test_a_run_without_a_source_has_no_flag(place: Place) -> None:
    checkpoint = place.folder / "checkpoint"
    shutil.copytree(place.folder / "usual" / "policy", checkpoint)
    folder, metrics, _ = place.run(
        "no-source",
        *FEW,
        "stop.enabled=false",
        "source=null",
        f"policy.checkpoint={checkpoint}",
        "ppo.source_replay=0",
    )
    spec = read_spec(folder / "policy")
    assert spec.trust is None
    assert spec.training["source"] is None
    assert not [each for each in metrics.verdict if each.text.startswith("Trust flag")]
    result = load_policy(folder, runtime=RUNTIME)(np.eye(32), spacing_mm=(1.0, 1.0))
    assert result.flagged is None


def test_made_anew_it_has_the_same_bytes(place: Place) -> None:
    """The versions of this machine's packages are in the run's copy, not in the artifact."""
    asked = (*FEW, "stop.enabled=false")
    folder, _, _ = place.run("usual", *asked)
    artifact = place.store.root / key_of(folder, "package")
    before = contents(artifact)
    assert (read_spec(artifact).name, read_spec(artifact).made_with) == ("", {})
    shutil.rmtree(artifact)
    place.run("usual", *asked)
    after = contents(artifact)
    assert after == before
    assert "reward/weights.safetensors" in after
    assert json.loads((folder / "lineage.json").read_text())["stages"][-2]["status"] == "built"


def test_planning_knows_the_stage(place: Place) -> None:
    with environment(StageEnvironment(place.store)):
        assert "package" in stage_names(adaptation, place.load(*NEVER))


def test_an_earlier_runs_reward_net_does_not_stay(place: Place) -> None:
    left = Path(place.folder / "again" / "policy" / "reward")
    left.mkdir(parents=True)
    (left / "stale.txt").write_text("of an earlier run")
    folder, _, _ = place.run("again", *FEW, "stop.enabled=false")
    assert not (folder / "policy" / "reward" / "stale.txt").exists()
