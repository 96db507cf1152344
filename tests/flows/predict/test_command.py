"""`rl4seg predict` from end to end, on small images."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from reward_data.errors import ArtifactError, ConfigError, DataError
from tests.flows.predict.conftest import contents, rows, run, write_nifti, write_png


def test_every_file_becomes_a_mask_an_error_map_a_picture_and_a_row(model: Path, tmp_path: Path) -> None:
    for seed in range(5):
        write_png(tmp_path / f"in/patient {seed % 2}/view#{seed}.png", seed)
    assert run(model, tmp_path / "in", tmp_path / "out") == 0
    found = rows(tmp_path / "out/cases.csv")
    assert sorted(found) == sorted(f"patient {seed % 2}/view#{seed}" for seed in range(5))
    row = found["patient 0/view#2"]
    assert (row["status"], row["frames"], row["spacing_mm"], row["area_grey_mm2"]) == ("ok", "1", "", "")
    assert row["valid"] == "1"  # the tiny model has no rules
    assert row["flagged"] == str(int(float(row["trust"]) < 0.5))
    mask = np.asarray(Image.open(tmp_path / "out/masks/patient 0/view#2.png"))
    assert mask.shape == (40, 48)
    assert set(np.unique(mask)) <= {0, 1, 2}
    for name in (
        "errors/patient 0/view#2.png",
        "overlays/patient 0/view#2.png",
        "thumbnails/patient 0/view#2.jpg",
    ):
        Image.open(tmp_path / "out" / name).load()
    page = (tmp_path / "out/index.html").read_text()
    assert 'loading="lazy" decoding="async" src="thumbnails/patient%200/view%232.jpg"' in page
    assert not (tmp_path / "out/frames.csv").exists()
    about = json.loads((tmp_path / "out/run.json").read_text())
    assert (about["model"]["name"], about["model"]["iteration"]) == ("tiny", 2)


def test_masks_lie_where_the_images_lie(model: Path, tmp_path: Path) -> None:
    """Oblique, flipped, anisotropic; 2-D, depth of one, and frames."""
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn @ np.diag([-0.3, 0.7, 2.0]), (5, -6, 7)
    shapes = {"flat": (30, 50), "one": (30, 50, 1), "sequence": (30, 50, 1, 3), "volume": (30, 50, 4)}
    for seed, (name, shape) in enumerate(shapes.items()):
        write_nifti(tmp_path / f"in/{name}.nii.gz", seed, shape, affine=affine)
    assert run(model, tmp_path / "in", tmp_path / "out", save="errors") == 0
    for name, shape in shapes.items():
        image = nib.load(tmp_path / f"in/{name}.nii.gz")
        for kind in ("masks", "errors"):
            made = nib.load(tmp_path / f"out/{kind}/{name}.nii.gz")
            assert made.shape == shape
            assert np.allclose(made.affine, image.affine)
            assert np.allclose(made.header.get_zooms(), image.header.get_zooms())
    found = rows(tmp_path / "out/cases.csv")
    assert found["sequence"]["frames"] == "3"
    assert found["volume"]["frames"] == "4"  # slice by slice
    # one pixel has .3 x .7 mm; an area is their number times .21
    mask = np.asarray(nib.load(tmp_path / "out/masks/flat.nii.gz").dataobj)
    assert float(found["flat"]["area_grey_mm2"]) == pytest.approx(0.21 * (mask == 1).sum(), rel=1e-4)
    assert found["flat"]["spacing_mm"] == "0.7 x 0.3"  # row, column: the stored y, x


def test_a_sequence_has_a_film_and_a_row_per_frame(model: Path, tmp_path: Path) -> None:
    write_nifti(tmp_path / "in/beat.nii.gz", 0, (40, 32, 1, 5))
    write_nifti(tmp_path / "in/still.nii.gz", 1)
    assert run(model, tmp_path / "in", tmp_path / "out") == 0
    with Image.open(tmp_path / "out/overlays/beat.gif") as film:
        assert film.n_frames == 5
    assert not (tmp_path / "out/overlays/still.gif").exists()
    with (tmp_path / "out/frames.csv").open(newline="") as file:
        frames = list(csv.DictReader(file))
    assert [(row["case"], row["frame"]) for row in frames] == [("beat", str(n)) for n in range(1, 6)]
    trusts = [float(row["trust"]) for row in frames]
    case = rows(tmp_path / "out/cases.csv")["beat"]
    assert float(case["trust"]) == min(trusts)
    assert float(case["trust_mean"]) == pytest.approx(np.mean(trusts), rel=1e-5)
    assert "5 frames" in (tmp_path / "out/index.html").read_text()


def test_results_do_not_depend_on_batches(model: Path, tmp_path: Path) -> None:
    for seed in range(9):
        write_png(tmp_path / f"in/{seed}.png", seed)
    for size in (1, 8):
        run(model, tmp_path / "in", tmp_path / f"out{size}", batch_size=size)
    assert contents(tmp_path / "out1") == contents(tmp_path / "out8")


def test_a_table_of_images_with_ids(model: Path, tmp_path: Path) -> None:
    write_png(tmp_path / "files/a.png", 0)
    write_png(tmp_path / "files/b.png", 1)
    (tmp_path / "list.csv").write_text("image,id\nfiles/a.png,first/one\nfiles/b.png,\n")
    assert run(model, tmp_path / "list.csv", tmp_path / "out", save="masks") == 0
    assert sorted(rows(tmp_path / "out/cases.csv")) == ["files/b", "first/one"]
    assert (tmp_path / "out/masks/first/one.png").is_file()
    assert not (tmp_path / "out/errors").exists()
    assert not (tmp_path / "out/overlays").exists()


# --- bad input -------------------------------------------------------------------------------------------------------


def bad_folder(folder: Path) -> None:
    """Eight files that cannot be used, and three that can."""
    whole = write_png(folder / "whole.png", 0)
    (folder / "truncated.png").write_bytes(whole.read_bytes()[:200])
    colour = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(colour).save(folder / "colour.png")
    nib.save(nib.Nifti1Image(np.zeros((0, 32), np.float32), np.eye(4)), folder / "empty.nii")
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(folder / "black.png")
    unknown = np.ones((32, 32), np.float32)
    unknown[3, 4] = np.nan
    nib.save(nib.Nifti1Image(unknown, np.eye(4)), folder / "nan.nii.gz")
    deep = (np.arange(32 * 32).reshape(32, 32) * 60).astype(np.uint16)
    Image.fromarray(deep).save(folder / "deep.png")
    two = np.random.default_rng(0).random((32, 32, 1, 1, 2)).astype(np.float32)
    image = nib.Nifti1Image(two, np.eye(4))
    image.header.set_intent("vector")
    nib.save(image, folder / "two_channels.nii.gz")
    (folder / "text.nii.gz").write_text("this is no image")
    (folder / "nothing.png").write_bytes(b"")
    write_nifti(folder / "fine.nii.gz", 3)


def test_bad_files_are_rows_and_the_rest_is_done(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad_folder(tmp_path / "in")
    assert run(model, tmp_path / "in", tmp_path / "out") == 8
    found = rows(tmp_path / "out/cases.csv")
    bad = {name: row["error"] for name, row in found.items() if row["status"] == "error"}
    words = {
        "truncated": "cannot be read", "colour": "colour where grey is wanted", "empty": "without pixels",
        "black": "nothing to see", "nan": "NaN", "two_channels": "split other axes", "text": "cannot be read",
        "nothing": "cannot be read",
    }  # fmt: skip
    assert bad.keys() == words.keys()
    for name, part in words.items():
        assert part in bad[name]
        assert "\n" not in bad[name]
        assert found[name]["trust"] == ""
    assert {name for name, row in found.items() if row["status"] == "ok"} == {"whole", "deep", "fine"}
    assert "8 of 11 images could not be used" in capsys.readouterr().out
    page = (tmp_path / "out/index.html").read_text()
    assert "colour where grey is wanted" in page
    # the bad are tried again, the good are not
    kept = (tmp_path / "out/masks/fine.nii.gz").stat().st_mtime_ns
    write_png(tmp_path / "in/black.png", 5)
    assert run(model, tmp_path / "in", tmp_path / "out") == 7
    assert "3 of 11 images are done already" in capsys.readouterr().out
    assert (tmp_path / "out/masks/fine.nii.gz").stat().st_mtime_ns == kept
    assert rows(tmp_path / "out/cases.csv")["black"]["status"] == "ok"


def test_no_model_and_no_place_are_told_before_anything_is_read(model: Path, tmp_path: Path) -> None:
    source = tmp_path / "none"  # reading would fail, too
    with pytest.raises(ArtifactError, match="no such folder; give the folder of a run"):
        run(tmp_path / "no model", source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file, wanted a folder"):
        run(model, source, tmp_path / "file")
    with pytest.raises(DataError, match="could not be written"):
        run(model, source, tmp_path / "file" / "below")
    write_png(tmp_path / "images/a.png", 0)
    with pytest.raises(ConfigError, match="holds the images, too"):
        run(model, tmp_path / "images", tmp_path / "images")
    with pytest.raises(ConfigError, match=r"holds 'a.png', which rl4seg predict has not made"):
        run(model, tmp_path / "file", tmp_path / "images")


def test_a_disk_that_refuses_is_one_error_and_the_rest_can_go_on_later(model: Path, tmp_path: Path) -> None:
    for seed in range(6):
        write_png(tmp_path / f"in/{seed}.png", seed)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/errors").write_text("")  # a file where a folder is needed
    with pytest.raises(DataError, match=r"errors.*could not be written"):
        run(model, tmp_path / "in", tmp_path / "out")
    (tmp_path / "out/errors").unlink()
    assert run(model, tmp_path / "in", tmp_path / "out") == 0
    assert len(rows(tmp_path / "out/cases.csv")) == 6


# --- again -----------------------------------------------------------------------------------------------------------


def test_what_has_changed_or_is_missing_is_made_again(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(4):
        write_png(tmp_path / f"in/{seed}.png", seed)
    run(model, tmp_path / "in", tmp_path / "out", save="masks")
    before = rows(tmp_path / "out/cases.csv")
    write_png(tmp_path / "in/0.png", 10)
    (tmp_path / "out/masks/1.png").unlink()
    (tmp_path / "out/masks/2.png").write_bytes(b"")
    capsys.readouterr()
    run(model, tmp_path / "in", tmp_path / "out", save="masks")
    assert "1 of 4 images are done already" in capsys.readouterr().out
    after = rows(tmp_path / "out/cases.csv")
    assert after["0"]["trust"] != before["0"]["trust"]
    assert all(after[name]["trust"] == before[name]["trust"] for name in "123")
    assert Image.open(tmp_path / "out/masks/2.png").size == (48, 40)
    # overlays are asked for now
    run(model, tmp_path / "in", tmp_path / "out", save="overlays")
    assert "done already" not in capsys.readouterr().out
    assert len(list((tmp_path / "out/overlays").iterdir())) == 4


def test_another_model_or_other_options_need_overwrite(model: Path, tmp_path: Path) -> None:
    write_png(tmp_path / "in/a.png", 0)
    run(model, tmp_path / "in", tmp_path / "out")
    with pytest.raises(
        ConfigError, match=r"holds results of other options \(post_process: False, now True\)"
    ):
        run(model, tmp_path / "in", tmp_path / "out", post_process=True)
    write_png(tmp_path / "in/b.png", 1)
    (tmp_path / "in/a.png").unlink()
    run(model, tmp_path / "in", tmp_path / "out", post_process=True, overwrite=True)
    assert list(rows(tmp_path / "out/cases.csv")) == ["b"]
    assert [path.name for path in (tmp_path / "out/masks").iterdir()] == ["b.png"]


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_with_equal_bytes(model: Path, tmp_path: Path) -> None:
    for seed in range(40):
        write_nifti(tmp_path / f"in/{seed:02d}.nii.gz", seed, (90, 80))
    write_nifti(tmp_path / "in/zz.nii.gz", 99, (60, 50, 1, 4))
    code = (
        "from pathlib import Path; from tests.flows.predict.conftest import run; "
        f"run(Path({str(model)!r}), Path({str(tmp_path / 'in')!r}), Path({str(tmp_path / 'out')!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    records = tmp_path / "out/records.jsonl"
    deadline = time.monotonic() + 300
    while not (records.exists() and records.read_bytes().count(b"\n") >= 8):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = records.read_bytes().count(b"\n")
    assert done < 41
    with records.open("ab") as file:
        file.write(b'{"id": "cut sho')  # as a power cut may leave it
    assert run(model, tmp_path / "in", tmp_path / "out") == 0
    assert run(model, tmp_path / "in", tmp_path / "undisturbed") == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")
    assert not list((tmp_path / "out").rglob(".*tmp*"))
