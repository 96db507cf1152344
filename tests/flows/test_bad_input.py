"""Every bad input is one clear error (got, wanted, next step) before any training, and leaves nothing half-written."""

from __future__ import annotations

import csv
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from flows import preflight
from flows.config import AutoIterationConfig
from flows.config_loader import load_config
from flows.stages import StageEnvironment, environment
from flows.store import ArtifactStore
from flows.tasks import import_dataset, load_checkpoint
from reward_data.errors import ArtifactError, ConfigError, DataError, Rl4SegError
from tests.flows.tiny import write_config


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_config(tmp_path / "data")


def load(config: Path, *overrides: str) -> AutoIterationConfig:
    return load_config(str(config), [f"output={config.parent / 'runs'}", *overrides], AutoIterationConfig)


def begin(config: AutoIterationConfig) -> None:
    """What the flow does before it trains anything."""
    with environment(StageEnvironment(ArtifactStore(config.store_folder))):
        preflight.check(config)
        for dataset in (config.source, config.target):
            if dataset is not None:
                import_dataset(*preflight.dataset_inputs(dataset), config.preprocess)


def assert_nothing_half_written(config: AutoIterationConfig) -> None:
    store = config.store_folder
    assert not list((store / "_building").glob("*")), "half-written artifact"
    for folder in store.iterdir():
        if folder.is_dir() and not folder.name.startswith("_"):
            assert (folder / "manifest.json").is_file()


def refused(config: AutoIterationConfig, message: str, kind: type[Rl4SegError] = DataError) -> None:
    with pytest.raises(kind, match=message):
        begin(config)
    assert_nothing_half_written(config)


def image_of(config: Path, domain: str, number: int = 3) -> Path:
    return config.parent / domain / "imagesTr" / f"{domain}-{number:02d}_0000.nii.gz"


def label_of(config: Path, domain: str, number: int = 3) -> Path:
    return config.parent / domain / "labelsTr" / f"{domain}-{number:02d}.nii.gz"


def write(path: Path, values: Any) -> None:
    nib.save(nib.Nifti1Image(np.asarray(values), np.eye(4)), path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_the_good_input_is_taken(tiny: Path) -> None:
    config = load(tiny)
    begin(config)
    assert_nothing_half_written(config)


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "unreadable": (lambda c: image_of(c, "target").write_bytes(b"no image"), "target-03_0000.nii.gz"),
    "truncated": (lambda c: truncate(image_of(c, "target")), "target-03_0000.nii.gz"),
    "other shape": (
        lambda c: write(label_of(c, "source"), np.zeros((32, 30), np.uint8)),
        r"source-03.*\(3[02], 3[02]\)",
    ),
    "label value": (
        lambda c: write(label_of(c, "source"), np.full((32, 32), 7, np.uint8)),
        r"label values \[7.*labels.merge",
    ),
    "NaN": (
        lambda c: write(image_of(c, "target"), np.full((32, 32), np.nan, np.float32)),
        "target-03.*(NaN|nan)",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_broken_files(tiny: Path, name: str) -> None:
    damage, message = DAMAGES[name]
    damage(tiny)
    refused(load(tiny), message)


def test_missing_folder(tiny: Path) -> None:
    refused(load(tiny, f"target.path={tiny.parent / 'nowhere'}"), "nowhere: no such folder")


def test_path_not_given_in_the_shipped_config() -> None:
    config = load_config("auto_iteration/camus_a4c_to_a2c", [], AutoIterationConfig)
    with pytest.raises(ConfigError, match=r"source.path is not set.*source.path=FOLDER"):
        preflight.check(config)


def test_empty_target(tiny: Path) -> None:
    empty = tiny.parent / "empty"
    empty.mkdir()
    refused(load(tiny, f"target.path={empty}"), "empty: no images found")


def test_target_of_test_images_only(tiny: Path) -> None:
    for path in (tiny.parent / "target/imagesTr").iterdir():
        path.unlink()
    for path in (tiny.parent / "target/labelsTr").iterdir():
        path.unlink()
    refused(load(tiny), "all 4 images of the target are in the validation or test split")


def manifest(config: Path, rows: list[tuple[str, str, str]]) -> Path:
    """Rows of (id, split, group), all of one and the same image."""
    path = config.parent / "manifest.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "image", "label", "split", "group"])
        for name, split, group in rows:
            writer.writerow([name, image_of(config, "target"), label_of(config, "target"), split, group])
    return path


def test_duplicate_ids(tiny: Path) -> None:
    path = manifest(tiny, [("a", "train", "p1"), ("a", "train", "p2")])
    refused(load(tiny, f"target.path={path}"), r"(?i)'?a'?.*(twice|duplicate|more than once)|duplicate.*a")


def test_a_group_in_two_splits(tiny: Path) -> None:
    path = manifest(tiny, [("a", "train", "p1"), ("b", "test", "p1")])
    refused(load(tiny, f"target.path={path}"), "group 'p1' is in two splits")


def test_unlabelled_source(tiny: Path) -> None:
    for folder in ("labelsTr", "labelsTs"):
        for path in (tiny.parent / "source" / folder).iterdir():
            path.unlink()
    refused(load(tiny), "source has no labelled training image.*policy.checkpoint")


def test_upper_bound_without_target_labels(tiny: Path) -> None:
    for path in (tiny.parent / "target/labelsTr").iterdir():
        path.unlink()
    refused(load(tiny, "controls.upper_bound=true"), "no target training image has one", ConfigError)


def test_no_source_and_no_checkpoint(tiny: Path) -> None:
    with pytest.raises(ConfigError, match=r"no source and no policy.checkpoint: give a labelled source"):
        load(tiny, "source=null")


def test_missing_checkpoint(tiny: Path) -> None:
    refused(load(tiny, "policy.checkpoint=nowhere.pt"), r"nowhere.pt", Rl4SegError)


def test_checkpoint_of_another_architecture(tiny: Path, tmp_path: Path) -> None:
    import torch

    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pt")
    config = load(tiny, f"policy.checkpoint={tmp_path / 'other.pt'}")
    with environment(StageEnvironment(ArtifactStore(config.store_folder))):
        target = import_dataset(*preflight.dataset_inputs(config.target), config.preprocess)
        assert config.policy.checkpoint is not None
        with pytest.raises(ArtifactError, match=r"another architecture.*Set network\.\* to match"):
            load_checkpoint(
                preflight.user_checkpoint(config.policy.checkpoint), config.policy.network, target
            )
    assert_nothing_half_written(config)


def test_rules_for_other_classes(tiny: Path) -> None:
    with pytest.raises(ConfigError, match=r"rule set 'lv_myo' is for classes.*the label map names"):
        preflight.check(load(tiny, "rules=lv_myo"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ppo.entrpy=1", r"ppo\.entrpy.*did you mean.*entropy"),
        ("iteratons=3", r"iteratons.*did you mean.*iterations"),
        ("ppo.clip=1.5", r"ppo\.clip.*1\.5"),
        ("iterations=0", r"iterations.*0"),
        ("runtime.precision=float8", r"runtime\.precision.*float8"),
    ],
)
def test_unknown_keys_and_values_out_of_range(tiny: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tiny, override)


def test_disk_full_while_importing(tiny: Path) -> None:
    # a file size limit of 2 kB: every write beyond it fails as on a full disk
    code = """
        import resource, signal, sys
        from pathlib import Path
        from tests.flows.test_bad_input import assert_nothing_half_written, begin, load
        from reward_data.errors import Rl4SegError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        config = load(Path(sys.argv[1]))
        from flows.store import ArtifactStore
        ArtifactStore(config.store_folder)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
        try:
            begin(config)
        except Rl4SegError as error:
            print("refused:", error)
        assert_nothing_half_written(config)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tiny)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert "refused:" in done.stdout
    assert "free" in done.stdout


@pytest.mark.flow
@pytest.mark.xdist_group("flow")
def test_the_command_prints_one_error_and_trains_nothing(tiny: Path, tmp_path: Path) -> None:
    truncate(image_of(tiny, "target"))
    command = [str(Path(sys.executable).with_name("rl4seg")), "run", str(tiny), f"output={tmp_path / 'runs'}"]
    environment_ = {"PREFECT_HOME": str(tmp_path / "prefect"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment_, timeout=120)
    assert done.returncode == 2
    assert done.stderr.count("error:") == 1
    assert "target-03_0000.nii.gz" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "source training" not in done.stdout
