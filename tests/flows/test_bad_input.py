"""Every bad input is one clear error (got, wanted, next step) before any training, and leaves nothing half-written."""

from __future__ import annotations

import csv
import errno
import logging
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from flows import prefect_settings, preflight
from flows.config import AutoIterationConfig
from flows.config_loader import load_config
from flows.run_folder import read_status
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
    refused(load(tiny, "rivals.upper_bound=true"), "no target training image has one", ConfigError)


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
        with pytest.raises(ArtifactError, match=r"another architecture.*Set policy.network\.\* to match"):
            load_checkpoint(
                preflight.user_checkpoint(config.policy.checkpoint), config.policy.network, target
            )
    assert_nothing_half_written(config)


# --- the order of the whole flow -------------------------------------------------------------------------------------


def stages_until_refused(
    config: AutoIterationConfig, kind: type[Rl4SegError], message: str
) -> dict[str, str]:
    """Label -> status of the stages that the flow has called when it refuses; the flow's body, without Prefect."""
    from flows.auto_iteration import auto_iteration

    with pytest.raises(kind, match=message):
        auto_iteration.fn(config)
    assert_nothing_half_written(config)
    return {row.label: row.status for row in read_status(config.run_folder)}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: truncate(image_of(c, "target", 11)), r"target-11_0000\.nii\.gz: cannot be read"),
        (lambda c: write(label_of(c, "target"), np.full((32, 32), 3, np.uint8)), r"label values \[3"),
        (lambda c: write(image_of(c, "target", 5), np.zeros((32, 32, 4), np.uint8)), "wanted the same"),
    ],
    ids=["truncated", "label value", "volume"],
)
def test_a_bad_target_is_found_before_the_source_training(
    tiny: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(tiny)
    stages = stages_until_refused(load(tiny), DataError, message)
    assert stages == {"import source": "built", "import target": "failed"}


def test_a_bad_checkpoint_is_found_before_anything_is_computed_with_it(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    config = load(tiny, f"policy.checkpoint={tmp_path / 'broken.safetensors'}")
    stages = stages_until_refused(
        config, ArtifactError, r"broken\.safetensors: not a readable checkpoint.*give \.safetensors"
    )
    assert list(stages)[-1] == "load checkpoint"
    assert set(stages) <= {"import source", "import target", "shape prior", "load checkpoint"}


def test_too_few_labels_for_the_shape_prior_are_found_before_the_training(tiny: Path) -> None:
    for number in range(1, 12):
        label_of(tiny, "source", number).unlink()
    stages = stages_until_refused(
        load(tiny), DataError, "1 of 1 masks have any foreground, wanted at least 2"
    )
    assert "source training" not in stages


# --- settings that do not fit the data -------------------------------------------------------------------------------


def test_target_with_other_channels_than_the_source(tiny: Path) -> None:
    target = tiny.parent / "colour"
    target.mkdir()
    for number in range(3):
        Image.fromarray(np.full((32, 32, 3), number, np.uint8)).save(target / f"case{number}.png")
    refused(load(tiny, f"target.path={target}"), "images have 3 channels, the source's 1; make both grey")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "evaluation.unions={both: [disc, wall]}",
            r"unions\.both: no class 'wall', the classes are.*correct the name",
        ),
        ("source_training.class_weights=[1, 2]", "class_weights has 2 values, the label map has 3 classes"),
        ("rules=nowhere.yaml", "no rule set 'nowhere.yaml'; want one of"),
    ],
)
def test_settings_that_do_not_fit_the_classes(tiny: Path, override: str, message: str) -> None:
    refused(load(tiny, override), message, ConfigError)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "source.labels={names: [background, wall]}",
            "both domains need the same classes; merge what only one",
        ),
        (
            "target.format=phantom",
            r"target: path=.* is given, but format=phantom reads no files; set format=auto",
        ),
        ("target.group_pattern=patient", "needs brackets around the patient"),
    ],
)
def test_settings_that_contradict_each_other(tiny: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tiny, override)


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
    # a limit of 20 kB per file: every write beyond it fails as on a full disk
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


def test_the_dashboard_shows_a_refused_write_without_traceback() -> None:
    for number, quiet in (
        (errno.ENOSPC, True),
        (errno.ENOENT, False),
    ):  # no such file: a fault of the program
        try:
            raise OSError(number, os.strerror(number))
        except OSError:
            record = logging.LogRecord(
                "prefect.flow_runs", logging.ERROR, "", 0, "failed", (), sys.exc_info()
            )
        assert prefect_settings._without_traceback(record)
        assert (record.exc_info is None) == quiet
        assert prefect_settings._not_said_elsewhere(record) != quiet


@pytest.mark.flow
def test_the_command_prints_one_error_and_trains_nothing(tiny: Path, tmp_path: Path) -> None:
    truncate(image_of(tiny, "target"))
    command = [str(Path(sys.executable).with_name("rl4seg")), "run", str(tiny), f"output={tmp_path / 'runs'}"]
    environment_ = {"PREFECT_HOME": str(tmp_path / "prefect"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment_, timeout=120)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()  # nothing of Prefect's beside it
    assert line.startswith("error: ")
    assert "target-03_0000.nii.gz" in line
    assert "Traceback" not in done.stdout
    assert "source training" not in done.stdout
    assert_nothing_half_written(load(tiny, f"output={tmp_path / 'runs'}"))
