"""`rl4seg classify` from end to end, with untrained networks on small pictures."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from flows import classify_results
from flows.classify import classify, request_from
from flows.cli import app
from flows.models import check_model
from reward_data.errors import ArtifactError, ConfigError, DataError
from rl4seg.configs.patchdrop import KeepNetConfig, ResNetConfig
from rl4seg.patchdrop.models import DropModel, DropSpec, save_drop_model

SMALL = ResNetConfig(widths=(8, 8, 8))
SPEC = DropSpec(
    class_names=("cat", "dog"), shape=(16, 16), low_shape=(8, 8), grid=(2, 2), mean=(0.5,) * 3, sd=(0.2,) * 3
)


def write_run(folder: Path, seed: int = 0, pipeline: str = "patchdrop", **images: str) -> Path:
    """The folder of a run, with a model of networks as they start."""
    model = DropModel(SPEC).with_part("high", SMALL, seed)
    save_drop_model(model.with_part("policy", KeepNetConfig(head="grid", features=4), seed), folder / "model")
    (folder / "config.yaml").write_text(json.dumps({"pipeline": pipeline, "images": images}))
    (folder / "patchdrop.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"))


def picture(path: Path, seed: int = 0, shape: tuple[int, ...] = (16, 16, 3)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8)).save(path)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three of each class, one of another size, and one that lies apart."""
    for number in range(6):
        shape = (20, 30, 3) if number == 4 else (16, 16, 3)
        picture(tmp_path / f"images/{('cat', 'dog')[number % 2]}/{number}.png", number, shape)
    picture(tmp_path / "images/6.png", 6)
    return tmp_path / "images"


def run(model: Path, source: Path, output: Path, **runtime: Any) -> int:
    return classify(request_from(model, source, output, **({"device": "cpu", "threads": 1} | runtime)))


def table(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "classes.csv").open(newline="", encoding="utf-8") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def test_a_folder_per_class_gives_a_table_and_its_accuracy(model: Path, pictures: Path, capsys: Any) -> None:
    out = pictures / "out"
    assert run(model, pictures, out) == 0
    rows = table(out)
    assert list(rows) == [
        "6.png",
        "cat/0.png",
        "cat/2.png",
        "cat/4.png",
        "dog/1.png",
        "dog/3.png",
        "dog/5.png",
    ]
    for row in rows.values():
        assert row["predicted"] in ("cat", "dog")
        assert 0.5 <= float(row["probability"]) <= 1
        assert len(row["keep"]) == 4
        assert row["keep"].count("1") == int(row["patches"])
    assert (rows["6.png"]["label"], rows["6.png"]["right"]) == ("", "")
    labelled = [row for row in rows.values() if row["label"]]
    assert [row["right"] for row in labelled] == [str(r["predicted"] == r["label"]).lower() for r in labelled]
    found = summary(out)
    right = sum(row["right"] == "true" for row in labelled)
    assert (found["labelled"], found["accuracy"]) == (6, pytest.approx(right / 6))
    assert (found["images"], found["failures"], found["resized"], found["patches"]) == (7, 0, 1, 4)
    assert found["mean_patches"] == pytest.approx(np.mean([int(row["patches"]) for row in rows.values()]))
    assert found["versions"]["torch"]
    assert Image.open(out / "examples.png").size[0] > 500
    said = capsys.readouterr().out
    assert f"accuracy {right / 6:.2%} of 6 with a label" in said
    assert "1 of 7 images had another size and were resized to 16 x 16 pixels" in said


def test_a_run_and_its_model_folder_in_any_batch_give_the_same_table(
    model: Path, pictures: Path, tmp_path: Path
) -> None:
    run(model, pictures, tmp_path / "a", batch_size=3)
    run(model / "model", pictures, tmp_path / "b", batch_size=1)
    first, second = table(tmp_path / "a"), table(tmp_path / "b")
    for name, row in first.items():
        assert float(row.pop("probability")) == pytest.approx(
            float(second[name].pop("probability")), abs=2e-6
        )
        assert row == second[name]
    assert summary(tmp_path / "a")["model"] == summary(tmp_path / "b")["model"]


def test_a_bad_image_does_not_stop_the_others(model: Path, pictures: Path, tmp_path: Path) -> None:
    (pictures / "cat/0.png").write_bytes((pictures / "cat/0.png").read_bytes()[:60])
    picture(pictures / "dog/1.png", 1, (16, 16))
    arguments = ["classify", str(model), str(pictures), str(tmp_path / "out"), "--device", "cpu"]
    result = CliRunner().invoke(app, [*arguments, "--batch-size", "2"])
    assert result.exit_code == 1
    assert "2 of 7 images could not be used" in result.output
    rows = table(tmp_path / "out")
    assert "0.png: cannot be read" in rows["cat/0.png"]["error"]
    assert "dog/1.png: got an image of 16 x 16 pixels and 1 channel, but" in rows["dog/1.png"]["error"]
    assert rows["dog/1.png"]["predicted"] == rows["dog/1.png"]["right"] == ""
    assert sum(row["predicted"] != "" for row in rows.values()) == 5
    assert (summary(tmp_path / "out")["failures"], summary(tmp_path / "out")["labelled"]) == (2, 4)


def test_nothing_but_bad_images_has_no_figures_and_no_picture(model: Path, tmp_path: Path) -> None:
    grey = picture(tmp_path / "grey.png")
    assert run(model, grey, tmp_path / "out") == 0  # in colour as yet
    assert (tmp_path / "out/examples.png").exists()
    picture(grey, 0, (16, 16))
    assert run(model, grey, tmp_path / "out") == 1
    found = summary(tmp_path / "out")
    assert (found["mean_patches"], found["accuracy"]) == (None, None)
    assert not (tmp_path / "out/examples.png").exists()
    (tmp_path / "one.csv").write_text("path\ngrey.png\n")  # the row and the file are both named
    run(model, tmp_path / "one.csv", tmp_path / "csv")
    assert f"one.csv line 2: {grey}: got" in table(tmp_path / "csv")["grey.png"]["error"]


def test_labels_that_are_no_classes_are_left_out(model: Path, pictures: Path, capsys: Any) -> None:
    lines = ["path,label", "cat/0.png,cat", "dog/1.png,zebra", "6.png,"]
    (pictures / "t.csv").write_text("\n".join(lines) + "\n")
    run(model, pictures / "t.csv", pictures / "out")
    assert summary(pictures / "out")["labelled"] == 1
    assert "1 of 3 images have a label" in capsys.readouterr().out
    np.savez(pictures / "x.npz", images=np.zeros((2, 16, 16, 3), np.uint8), label=np.array([0, 1]))
    run(model, pictures / "x.npz", pictures / "npz")
    assert summary(pictures / "npz")["accuracy"] is None
    assert list(table(pictures / "npz")) == ["image 0", "image 1"]


def test_that_the_run_has_learned_from_the_images_is_told(
    tmp_path: Path, pictures: Path, capsys: Any
) -> None:
    trained = write_run(tmp_path / "run", train=str(pictures))
    run(trained, pictures, tmp_path / "out")
    assert summary(tmp_path / "out")["learned_from"] is True
    assert "the run has learned from images of this source" in capsys.readouterr().out


def learned(tmp_path: Path, run_folder: Path, source: Path) -> bool:
    """What the summary says about a source, answered into a new folder."""
    out = tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
    run(run_folder, source, out)
    found: bool = summary(out)["learned_from"]
    return found


def test_held_out_images_are_not_said_to_be_learned_from(tmp_path: Path) -> None:
    for number, (split, name) in enumerate((s, c) for s in ("train", "test") for c in ("cat", "dog")):
        picture(tmp_path / f"tree/{split}/{name}/{number}.png", number)
    tree = tmp_path / "tree"
    trained = write_run(tmp_path / "run", train=str(tree))
    assert not learned(tmp_path, trained, tree / "test")
    for source in (tree, tree / "train", tree / "train/cat/0.png", tmp_path / "tree/test/.."):
        assert learned(tmp_path, trained, source), source
    (tmp_path / "some.csv").write_text("path\ntree/test/cat/2.png\ntree/train/dog/1.png\n")
    assert learned(tmp_path, trained, tmp_path / "some.csv")
    apart = write_run(tmp_path / "apart", train=str(tree / "train"), test=str(tree / "test"))
    assert not learned(tmp_path, apart, tree / "test")
    assert learned(tmp_path, apart, tree)
    (tree / "train/zebra").mkdir()  # no listing of the run any more: nothing is claimed about parts of it
    picture(tree / "test/zebra/9.png")
    assert not learned(tmp_path, trained, tree / "train")
    assert learned(tmp_path, trained, tree)


def test_an_npz_that_was_learned_from(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 16, 16, 3), np.uint8))
    for train, wanted in (("x", True), ("y", False)):
        assert (
            learned(
                tmp_path,
                write_run(tmp_path / train, train=str(tmp_path / f"{train}.npz")),
                tmp_path / "x.npz",
            )
            is wanted
        )


def test_relative_training_images_are_found_from_another_folder(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = write_run(tmp_path / "runs/run", train="images")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for output, wanted in (("runs", True), (str(tmp_path / "runs"), False), ("others", False)):
        config = {"pipeline": "patchdrop", "output": output, "images": {"train": "images"}}
        (trained / "config.yaml").write_text(json.dumps(config))
        assert learned(tmp_path, trained, pictures / "cat") is wanted, output
    monkeypatch.chdir(tmp_path)  # started here, which is known again
    assert learned(tmp_path, trained, pictures / "cat")
    assert not learned(tmp_path, trained, pictures / "6.png")  # in no folder of a class


def test_the_output_is_new_or_of_the_same_before(model: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(model, pictures, out)
    before = table(out)
    run(model, pictures, out)
    assert table(out) == before
    other = write_run(tmp_path / "other", seed=5)
    with pytest.raises(ConfigError, match="out: holds the answers to another model"):
        run(other, pictures, out)
    with pytest.raises(ConfigError, match="out: holds the answers to other images"):
        run(model, pictures / "6.png", out)
    with pytest.raises(ConfigError, match="holds the images, too"):
        run(model, pictures, tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/summary.json").write_text('{"images": 3}')
    with pytest.raises(ConfigError, match=r"mine: holds 'summary.json', which rl4seg classify has not made"):
        run(model, pictures, tmp_path / "mine")
    with pytest.raises(ConfigError, match="is a file, wanted a folder"):
        run(model, pictures, model / "config.yaml")
    assert table(out) == before


def test_what_stops_halfway_leaves_the_table_of_before(
    model: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rl4seg.patchdrop.inference.DropPredictor.answers", stop)
        with pytest.raises(KeyboardInterrupt):
            run(model, pictures, tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
    run(model, pictures, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    picture(pictures / "7.png")  # another table now
    with monkeypatch.context() as patch:
        patch.setattr(classify_results, "summarised", stop)  # the table is written by then
        with pytest.raises(KeyboardInterrupt):
            run(model, pictures, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_bad_input_is_one_error(model: Path, pictures: Path, tmp_path: Path) -> None:
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "config.yaml").write_text("pipeline: patchdrop\n")
    segments = tmp_path / "segments"
    segments.mkdir()
    (segments / "config.yaml").write_text("name: x\n")  # a config without the word is of the loop
    (tmp_path / "package").mkdir()
    (tmp_path / "package/package.json").write_text("{}")
    for folder, message in (
        (tmp_path / "none", "no such folder; give the folder of a finished PatchDrop run"),
        (unfinished, "a PatchDrop run that has not finished"),
        (segments, r"a run \(auto-iteration\) that segments: rl4seg predict"),
        (tmp_path / "package", "a model that segments: rl4seg predict"),
        (pictures, "no PatchDrop model here"),
    ):
        with pytest.raises(ArtifactError, match=message):
            run(folder, pictures, tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images found"):
        run(model, tmp_path / "empty", tmp_path / "out")
    with pytest.raises(ConfigError, match="precision='half'"):
        request_from(model, pictures, tmp_path / "out", precision="half")
    assert not (tmp_path / "out").exists()


def test_predict_points_to_classify(model: Path) -> None:
    for folder in (model, model / "model"):
        with pytest.raises(ArtifactError, match=r"is a PatchDrop model, .* use rl4seg classify"):
            check_model(folder)
