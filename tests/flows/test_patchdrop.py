"""The flows of PatchDrop, stage by stage without Prefect, on planted images and on small striped ones."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flows import patchdrop, patchdrop_config, patchdrop_windows, patchdrop_windows_config
from flows.command_line import load
from flows.config_base import RunConfig
from flows.config_loader import dump_config
from flows.models import open_model
from flows.patchdrop_config import PatchDropConfig
from flows.patchdrop_windows_config import PatchDropWindowsConfig
from flows.pipelines import pipeline_of
from flows.reporting.patchdrop import DropContent, DropRow, MeanSd, TimeRow, show_drop, verdict
from flows.reporting.patchdrop_pictures import dimmed
from flows.reporting.patchdrop_windows import show_windows
from flows.run_folder import RunFolder
from flows.stages import StageEnvironment, environment
from flows.store import ArtifactStore
from reward_data.errors import ConfigError, DataError
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.runtime import start

ARMS = [
    "LR alone", "HR alone", "HR + LR, all patches", "Pt", "Pt · random", "Pt · centre", "Pt · frequent", "Ft-1",
    "Ft-1 · random", "Ft-1 · centre", "Ft-2", "Ft-2 · random", "Ft-2 · centre",
]  # fmt: skip


def config(**changes: Any) -> PatchDropConfig:
    small = {"widths": [8, 8, 8], "stride": 2}
    short = {"steps": 2, "batch_size": 8, "flip": False}
    content: dict[str, Any] = {
        "name": "tiny",
        "images": {"planted": {"images": 24, "size": [16, 16]}},
        "networks": {
            "high": {**small, "patch_stages": 1},
            "low": {"widths": [8, 8, 8]},
            "policy": {"head": "grid", "features": 4},
        },
        "high_training": {**short, "shift": 0},
        "low_training": {**short, "shift": 0},
        "pretraining": short,
        "finetuning": short,
        "two_streams": short,
        "latency": {"images": 4, "batch_sizes": [2], "repeats": 1},
        "runtime": {"device": "cpu", "threads": 1},
    }
    return PatchDropConfig.model_validate(content | changes)


def run(settings: RunConfig, folder: Path, plan: list[str] | None = None) -> RunFolder:
    run_folder = RunFolder.create(folder / "run", dump_config(settings), settings.seeds_used())
    store = ArtifactStore(folder / "store")
    with environment(StageEnvironment(store, run_folder, None, settings.runtime, plan=plan)):
        if isinstance(settings, PatchDropConfig):
            patchdrop.drop(settings)
        else:
            assert isinstance(settings, PatchDropWindowsConfig)
            patchdrop_windows.windows(settings)
    return run_folder


def statuses(folder: RunFolder) -> dict[str, str]:
    return {row.label: row.status for row in folder.rows}


def test_a_run_from_the_images_to_the_report(tmp_path: Path, capsys: Any) -> None:
    settings = config(seeds=[0, 1])
    patchdrop_config.check(settings)
    folder = run(settings, tmp_path)
    content = json.loads((folder.path / "patchdrop.json").read_text())
    assert [row["arm"] for row in content["rows"]] == ARMS
    assert {row["seeds"] for row in content["rows"]} == {2}
    arms = list(csv.DictReader((folder.path / "arms.csv").open()))
    assert len(arms) == 2 * len(ARMS)
    for stage in ("Pt", "Ft-1", "Ft-2"):  # rivals at exactly as many patches
        for seed in ("0", "1"):
            own = {
                row["patches"] for row in arms if row["seed"] == seed and row["arm"].split(" · ")[0] == stage
            }
            assert len(own) == 1
    images = list(csv.DictReader((folder.path / "images.csv").open()))
    assert len(images) == 7 * 2 * len(ARMS)  # .3 of 24 images, two seeds
    assert {len(row["keep"]) for row in images} == {16}
    history = list(csv.DictReader((folder.path / "history.csv").open()))
    assert {row["arm"] for row in history} == {"LR alone", "HR alone", "Pt", "Ft-1", "Ft-2"}
    assert [row["arm"] for row in content["times"]] == ["LR alone", "HR alone", "Pt", "Ft-1", "Ft-2"]
    page = (folder.path / "report.html").read_text()
    # five charts, three maps, and at most eight examples (here 7) of an image and three policies
    assert page.count("<img") == 5 + 3 + 7 * 4
    assert (folder.path / "model" / "policy.safetensors").is_file()
    show_drop(folder.path)
    shown = capsys.readouterr().out
    assert "Acquisition saved" in shown
    assert "too few to say" in shown

    again = run(settings, tmp_path)
    assert set(statuses(again).values()) == {"cached"}
    # loaded instead of trained: the classifiers of the first run, from its folder
    files = {"high": str(folder.path / "model"), "low": str(folder.path / "model" / "low.safetensors")}
    loaded = config(checkpoints=files, finetuning=None, two_streams=None, latency=None)
    patchdrop_config.check(loaded)
    labels = statuses(run(loaded, tmp_path))
    assert {"HR · load", "LR · load"} <= labels.keys()
    assert not [label for label in labels if "train" in label]


def test_the_stages_of_a_run_are_known_beforehand(tmp_path: Path) -> None:
    plan: list[str] = []
    off = {"random": False, "centre": False, "frequent": False}
    run(config(two_streams=None, rivals=off), tmp_path, plan)
    assert plan == [
        "import", "LR · train", "HR · train", "LR alone · evaluate", "HR alone · evaluate",
        "HR + LR, all patches · evaluate", "Pt", "Pt · evaluate", "Ft-1", "Ft-1 · evaluate", "time per image", "report",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"finetuning": None}, "two_streams goes on from finetuning"),
        ({"low_size": [8]}, "one entry per axis"),
        ({"networks": {"low": {"patch_stages": 1}}}, "patch_stages is for networks.high"),
        ({"seeds": [1, 1]}, "different seeds"),
        ({"pretraining": {"baseline": "leave_one_out"}}, "samples=2 or more"),
        ({"pretraining": {"alpha": 0.5}}, "greater than 0.5"),
        ({"grid": [0, 4]}, r"grid.0\n  Input should be greater than 0"),
        ({"low_size": [0, 4]}, r"low_size.0\n  Input should be greater than 0"),
        ({"images": {"train": "x.csv", "size": [48]}}, "two numbers of pixels, rows and columns"),
        ({"latency": {"batch_sizes": [0]}}, r"batch_sizes.0\n  Input should be greater than 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": [3, 4]}, r"grid=\[3, 4\] does not divide an image of 16 x 16 pixels"),
        ({"low_size": [32, 32]}, "larger than the images of 16 x 16"),
        ({"networks": {"high": {"patch_stages": 3, "stride": 4}}}, "patch_stages=3: a patch of 4 x 4 pixels"),
        ({"checkpoints": {"policy": "nowhere"}}, "checkpoints.policy=nowhere: no such file"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        patchdrop_config.check(config(**changes))


def test_a_bad_row_is_named_before_anything_runs(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "rows.csv").write_text("0,a.png\n1,missing.png\n")
    with pytest.raises(DataError, match=r"rows\.csv line 2: no such file"):
        patchdrop_config.check(config(images={"train": str(tmp_path / "rows.csv")}))


def test_training_images_that_are_held_out_are_refused_before_anything_runs(tmp_path: Path) -> None:
    for number in range(6):
        Image.fromarray(np.full((16, 16), 20 * number, np.uint8)).save(tmp_path / f"p{number}.png")
    (tmp_path / "rows.csv").write_text("".join(f"{n % 2},p{n}.png\n" for n in range(6)))
    (tmp_path / "test.csv").write_text("0,p2.png\n")
    for test, message in (
        ("rows", "is images.train, too"),
        ("test", r"test.csv line 1: .*is a training image, too"),
    ):
        images = {"train": str(tmp_path / "rows.csv"), "test": str(tmp_path / f"{test}.csv")}
        with pytest.raises(DataError, match=message):
            patchdrop_config.check(config(images=images))


def test_files_are_found_from_elsewhere_and_their_content_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(6):
        Image.fromarray(np.full((16, 16), 20 * number, np.uint8)).save(f"p{number}.png")
    Path("rows.csv").write_text("".join(f"{n % 2},p{n}.png\n" for n in range(6)))
    located = config(images={"train": "rows.csv", "test_fraction": 0.4}).located()
    assert located.images.train == str(tmp_path / "rows.csv")
    store = ArtifactStore(tmp_path / "store")
    with environment(StageEnvironment(store, None, None, located.runtime)):
        first = patchdrop.image_set(located)
        assert patchdrop.image_set(located) == first
        Image.fromarray(np.full((16, 16), 99, np.uint8)).save("p3.png")
        assert patchdrop.image_set(located).digest != first.digest


def test_the_verdict_tells_the_two_savings_apart() -> None:
    def row(
        arm: str,
        accuracy: float,
        patches: float,
        gain: MeanSd | None = None,
        seeds: int = 4,
        maps: float = 16,
    ) -> DropRow:
        figures = {
            "accuracy": MeanSd(accuracy, 0.0),
            "patches": MeanSd(patches, 0.0),
            "unique_policies": MeanSd(maps, 0.0),
        }
        return DropRow(arm=arm, seeds=seeds, figures=figures, over_random=gain, often=(0.0,) * 4)

    time = TimeRow(
        arm="Pt", figures={"mmacs": MeanSd(1.2, 0)}, compute_saving={"mmacs": -0.2}, acquisition_saving=0.75
    )
    rows = (row("HR alone", 0.9, 4), row("Pt", 0.8, 1, MeanSd(0.01, 0.01)))
    content = DropContent(
        run_name="r", config="", images=9, grid=(2, 2), rows=rows, times=(time,), verdict=()
    )
    said = verdict(content)
    assert said[0].startswith("Pt answers 80.0% right with 1.0 of 4 patches")
    # standard error .01 / sqrt(4) = .005, the gain is two of them: not more than noise with four seeds (3.18)
    assert said[1].endswith("within the noise.")
    assert said[2] == (
        "Acquisition saved: 75% of the high-resolution patches. Compute saved, policy included: -20% multiply-adds."
    )
    assert len(said) == 3
    blind = row("Pt", 0.8, 1, MeanSd(0.01, 0.01), maps=1)
    assert "a fixed pattern" in verdict(content.model_copy(update={"rows": (rows[0], blind)}))[2]


def test_dropped_patches_are_dark_in_the_pictures() -> None:
    shown = dimmed(np.full((4, 4, 1), 100), np.array([True, False, False, False]), (2, 2))
    assert shown[..., 0].tolist() == [[100, 100, 22, 22]] * 2 + [[22] * 4] * 2


# --- windows ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def striped(tmp_path: Path) -> Path:
    """train/ and val/ with images/ and labels/ of 4 and 2 pictures of 32 x 32 with stripes in a quarter."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for number in range(count):
            label = np.zeros((32, 32), np.uint8)
            top, left = (16 * int(v) for v in rng.integers(0, 2, 2))
            label[top : top + 16 : 2, left : left + 16] = 1
            for kind, values in (("images", 50 + 150 * label), ("labels", label)):
                (tmp_path / "data" / split / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(values.astype(np.uint8)).save(
                    tmp_path / "data" / split / kind / f"{split}{number}.png"
                )
    return tmp_path / "data"


def windows_config(path: Path, **changes: Any) -> PatchDropWindowsConfig:
    network = {"features": [4, 4, 4, 4, 4, 4], "fold": 1}
    training = {"steps": 2, "batch_size": 4, "augment": None}
    content: dict[str, Any] = {
        "name": "tiny",
        "dataset": {"path": str(path), "labels": {"names": ["dark", "bright"]}},
        "preprocess": {"shape": [32, 32], "aspect": "stretch", "intensity": "divide_255"},
        "windows": {"grid": [2, 2], "margin": 4, "coarse_shape": [16, 16], "random_draws": 2, "repeats": 1},
        "coarse_network": network,
        "fine_network": network,
        "coarse_training": training,
        "fine_training": training,
        "policy": {"head": "grid", "features": 4},
        "policy_training": {"steps": 2, "batch_size": 4, "samples": 2},
        "runtime": {"device": "cpu", "threads": 1},
    }
    return PatchDropWindowsConfig.model_validate(content | changes)


def test_a_run_of_the_segmentation_twin(striped: Path, tmp_path: Path, capsys: Any) -> None:
    settings = windows_config(striped)
    patchdrop_windows_config.check(settings)
    folder = run(settings, tmp_path)
    content = json.loads((folder.path / "windows.json").read_text())
    timed = {row["arm"]: row["seconds"] is not None for row in content["rows"]}
    assert timed == {
        "coarse only": True, "full sliding window": True, "policy": True, "entropy windows": True,
        "random windows": True, "oracle windows": False,
    }  # fmt: skip
    cases = list(csv.DictReader((folder.path / "cases.csv").open()))
    assert len(cases) == 2 * 6
    page = (folder.path / "report.html").read_text()
    assert page.count("<img") == 6 + 2 * 3
    show_windows(folder.path)
    assert "Against as many windows chosen by entropy" in capsys.readouterr().out
    assert set(statuses(run(settings, tmp_path)).values()) == {"cached"}
    package = open_model(folder.path, None, start(RuntimeConfig(device="cpu", threads=1)))
    assert (package.spec.name, package.spec.labels.names) == ("tiny", ("dark", "bright"))
    assert package.spec.training == {"images": 6, "splits": {"train": 4, "val": 2}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"windows": {"grid": [3, 2]}}, r"windows.grid=\[3, 2\] does not divide an image of 32 x 32"),
        ({"windows": {"grid": [2, 2], "coarse_shape": [64, 64]}}, "none larger"),
        ({"windows": {"grid": [2, 2], "coarse_shape": [8, 8], "margin": 32}}, "smaller than the image"),
    ],
)
def test_windows_that_cannot_work_are_refused(striped: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        patchdrop_windows_config.check(windows_config(striped, **changes))


@pytest.mark.parametrize("field", ["grid", "coarse_shape"])
def test_windows_of_no_pixels_are_refused(tmp_path: Path, field: str) -> None:
    with pytest.raises(ValueError, match=rf"windows.{field}.0\n  Input should be greater than 0"):
        windows_config(tmp_path, windows={field: [0, 3]})


def test_a_dataset_without_images_for_the_policy_is_refused(striped: Path) -> None:
    dataset = {"path": str(striped), "labels": {"names": ["dark", "bright"]}, "group_pattern": "^([a-z]+)"}
    with pytest.raises(DataError, match="wanted 2 or more"):
        patchdrop_windows_config.check(windows_config(striped, dataset=dataset))


def test_the_shipped_configs_are_of_these_pipelines() -> None:
    for name in ("demo", "cifar10", "cifar10_full", "large_images"):
        assert pipeline_of(load(f"patchdrop/{name}", [])).name == "patchdrop"
    for name in ("superalloy", "windows_demo"):
        assert pipeline_of(load(f"patchdrop/{name}", [])).name == "patchdrop-windows"
    for name in ("demo", "windows_demo"):
        shipped = load(f"patchdrop/{name}", [])
        pipeline_of(shipped).check(shipped)
