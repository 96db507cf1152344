"""Labelled images: the three forms, and one clear error for each way in which they can be wrong."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from reward_data.errors import ArtifactError, DataError
from reward_data.image_store import ImageStore, import_images
from reward_data.labelled_images import LabelledImagesConfig, input_files, list_images
from reward_data.planted_images import CLASSES, PlantedConfig, pattern, planted_images


def picture(value: int, shape: tuple[int, ...] = (8, 8)) -> Image.Image:
    return Image.fromarray(np.full(shape, value, np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight grey pictures, of grey values 0, 10, .. 70."""
    for number in range(8):
        picture(10 * number).save(tmp_path / f"p{number}.png")
    return tmp_path


def listing(folder: Path, rows: list[str], name: str = "images.csv") -> str:
    (folder / name).write_text("\n".join(rows) + "\n")
    return str(folder / name)


def store_of(folder: Path, **settings: object) -> ImageStore:
    out = folder / "store"
    out.mkdir()
    import_images(LabelledImagesConfig.model_validate(settings), out)
    return ImageStore(out)


def test_a_csv_of_label_and_path_gives_images_labels_and_splits(folder: Path) -> None:
    rows = [f"{number % 2},p{number}.png" for number in range(8)]
    store = store_of(folder, train=listing(folder, rows), test_fraction=0.25)
    assert store.class_names == ("0", "1")
    assert store.labels(np.arange(8)).tolist() == [0, 1] * 4
    assert store.pixels(np.array([3, 1]))[:, 0, 0, 0].tolist() == [30, 10]
    # a quarter of the four images of each class, one, is held out
    assert sorted(store.labels(store.test).tolist()) == [0, 1]
    assert len(store.train) == 6
    assert store.ids[2] == "images.csv line 3"


def test_a_header_names_and_splits_may_be_given(folder: Path) -> None:
    rows = ["path,label,split"] + [
        f"p{n}.png,{'dog' if n < 4 else 'cat'},{'val' if n % 4 == 3 else 'train'}" for n in range(8)
    ]
    store = store_of(folder, train=listing(folder, rows))
    assert store.class_names == ("cat", "dog")
    assert store.test.tolist() == [3, 7]


def test_a_folder_per_class_with_and_without_splits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for word in ("a", "b"):
            (tmp_path / "data" / split / word).mkdir(parents=True)
            picture(5).save(tmp_path / "data" / split / word / "x.png")
    found = list_images(LabelledImagesConfig(train=str(tmp_path / "data")))
    assert [(row.label, row.split) for row in found.rows] == [
        ("a", "train"), ("b", "train"), ("a", "test"), ("b", "test"),
    ]  # fmt: skip
    train, test = (str(tmp_path / "data" / split) for split in ("train", "test"))
    apart = list_images(LabelledImagesConfig(train=train, test=test))
    assert [(row.label, row.split) for row in apart.rows] == [(r.label, r.split) for r in found.rows]


def test_an_npz_of_images_or_of_encoded_images(tmp_path: Path) -> None:
    images = np.arange(4 * 6 * 6 * 3, dtype=np.uint8).reshape(4, 6, 6, 3)
    np.savez(tmp_path / "plain.npz", images=images, label=np.array([0, 1, 0, 1]))
    store = store_of(tmp_path, train=str(tmp_path / "plain.npz"), test_fraction=0.5)
    np.testing.assert_array_equal(store.pixels(np.arange(4)), np.moveaxis(images, -1, 1))

    parts = []
    for value in (0, 60, 120, 180):
        stream = io.BytesIO()
        Image.fromarray(np.full((6, 6, 3), value, np.uint8)).save(stream, "JPEG")
        parts.append(stream.getvalue())
    offset = np.cumsum([0, *map(len, parts)])
    blob = np.frombuffer(b"".join(parts), np.uint8)
    arrays = {"jpeg_blob": blob, "offset": offset, "label": np.array([1, 0, 1, 0])}
    np.savez(tmp_path / "encoded.npz", classes=np.array(["x", "y"]), **arrays)
    found = list_images(LabelledImagesConfig(train=str(tmp_path / "encoded.npz"), test_fraction=0.5))
    assert found.class_names == ("x", "y")
    assert found.labels == (1, 0, 1, 0)
    assert [int(values[0, 0, 0]) for values in found.decoded(None)] == [0, 60, 120, 180]

    broken = blob.copy()
    broken[: offset[1]] = 0
    np.savez(tmp_path / "broken.npz", **(arrays | {"jpeg_blob": broken}))
    bad = list_images(LabelledImagesConfig(train=str(tmp_path / "broken.npz"), test_fraction=0.5))
    with pytest.raises(DataError, match=r"broken.npz image 0"):
        list(bad.decoded(None))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1,nowhere.png", r"images.csv line 3: no such file .*nowhere.png"),
        ("1", r"images.csv line 3: 1 columns, wanted 2"),
        ("1,", r"images.csv line 3: label '1' and path '' must both be given"),
        ("3,p2.png", r"images.csv line 3: label 3, but no row has label 2"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(folder: Path, row: str, message: str) -> None:
    rows = ["0,p0.png", "1,p1.png", row]
    with pytest.raises(DataError, match=message):
        list_images(LabelledImagesConfig(train=listing(folder, rows)))


def test_an_unreadable_file_is_named_with_its_row(folder: Path) -> None:
    (folder / "p2.png").write_bytes((folder / "p2.png").read_bytes()[:30])
    rows = [f"{number % 2},p{number}.png" for number in range(4)]
    found = list_images(LabelledImagesConfig(train=listing(folder, rows), test_fraction=0.5))
    with pytest.raises(DataError, match=r"images.csv line 3: .*p2.png"):
        list(found.decoded(None))


def test_images_of_different_size_are_refused_or_resized(folder: Path) -> None:
    picture(20, (8, 10)).save(folder / "p2.png")
    rows = [f"{number % 2},p{number}.png" for number in range(4)]
    found = list_images(LabelledImagesConfig(train=listing(folder, rows), test_fraction=0.5))
    with pytest.raises(DataError, match=r"line 3: got an image of 8 x 10 .*have 8 x 8 .*images.size"):
        list(found.decoded(None))
    assert {values.shape for values in found.decoded((4, 4))} == {(1, 4, 4)}


def test_what_else_cannot_be_used(folder: Path) -> None:
    train = listing(folder, [f"{number % 2},p{number}.png" for number in range(4)])
    other = listing(folder, ["0,p4.png", "2,p5.png"], "test.csv")
    one = listing(folder, ["0,p0.png", "0,p1.png"], "one.csv")
    for settings, message in (
        ({"train": train, "test": other}, r"test.csv line 2: label '2' is not among the classes"),
        ({"train": str(folder / "nothing.csv")}, "no such file or folder"),
        ({"train": one}, "wanted two classes"),
        ({}, "images.train is not set"),
    ):
        with pytest.raises(DataError, match=message):
            list_images(LabelledImagesConfig.model_validate(settings))
    with pytest.raises(ArtifactError, match="no readable image store"):
        ImageStore(folder)


def test_a_training_image_is_never_held_out(folder: Path) -> None:
    rows = [f"{number % 2},p{number}.png" for number in range(4)]
    train = listing(folder, rows)
    twice = listing(folder, [*rows, f"1,../{folder.name}/p1.png"], "twice.csv")
    shared = listing(folder, ["0,p4.png", "1,p3.png"], "shared.csv")
    both = listing(
        folder,
        ["path,label,split", *(f"p{n % 4}.png,{n % 2},{w}" for n, w in enumerate(["train"] * 4 + ["test"]))],
        "both.csv",
    )
    for number in range(4):
        (folder / f"tree/train/{number % 2}").mkdir(parents=True, exist_ok=True)
        picture(number).save(folder / f"tree/train/{number % 2}/{number}.png")
    arrays = {"images": np.zeros((4, 8, 8), np.uint8), "label": np.array([0, 1, 0, 1])}
    np.savez(folder / "x.npz", **arrays)
    npz = str(folder / "x.npz")
    for settings, message in (
        ({"train": train, "test": train}, r"images.test=.*images.csv: is images.train, too"),
        ({"train": npz, "test": str(folder / "tree/../x.npz")}, r"x.npz: is images.train, too"),
        ({"train": twice}, r"twice.csv line 5: .*p1.png is there already \(.*twice.csv line 2\)"),
        (
            {"train": train, "test": shared},
            r"shared.csv line 2: .*p3.png is a training image, too \(.*line 4\)",
        ),
        ({"train": both}, r"both.csv line 6: .*p0.png is a training image, too \(.*line 2\)"),
        (
            {"train": str(folder / "tree/train"), "test": str(folder / "tree")},
            r"0/0.png is a training image, too",
        ),
    ):
        with pytest.raises(DataError, match=message):
            list_images(LabelledImagesConfig.model_validate(settings))


def test_every_class_has_training_images(folder: Path) -> None:
    rows = ["path,label,split"] + [f"p{n}.png,{n // 2},{'test' if n > 5 else 'train'}" for n in range(8)]
    train = listing(folder, rows)
    with pytest.raises(DataError, match=r"images.csv: no training image of the class '3'; all are held out"):
        list_images(LabelledImagesConfig(train=train))
    single = listing(folder, [f"{int(n > 6)},p{n}.png" for n in range(8)], "single.csv")
    assert len(list_images(LabelledImagesConfig(train=single)).rows) == 8
    with pytest.raises(DataError, match="no training image of the class '1'"):  # round(.6 * 1) is held out
        list_images(LabelledImagesConfig(train=single, test_fraction=0.6))
    middle = listing(
        folder,
        [
            rows[0],
            *(f"p{n}.png,{'abca'[n]},{'test' if n == 4 else 'train'}" for n in range(4)),
            "p4.png,a,test",
        ],
        "middle.csv",
    )
    with pytest.raises(DataError, match=r"class 'b'; images.max_images=2 leaves none"):
        list_images(LabelledImagesConfig(train=middle, max_images=2))


def test_numbers_are_0_1_2_or_names(folder: Path) -> None:
    for first, second, good in (
        ("-1", "0", False),
        ("1.0", "2.0", False),
        ("0", "1.0", False),
        ("0.5", "1.0", True),  # two doses, say: names
        ("-1", "benign", True),
    ):
        train = listing(folder, [f"{(first, second)[n % 2]},p{n}.png" for n in range(8)])
        if good:
            assert list_images(LabelledImagesConfig(train=train)).class_names == (first, second)
        else:
            with pytest.raises(DataError, match=r"images.csv line [12]: label .*number the classes 0..K-1"):
                list_images(LabelledImagesConfig(train=train))


@pytest.mark.parametrize("size", [(48,), (0, 48), (8, 8, 8), (8, -1)])
def test_a_size_is_rows_and_columns(size: tuple[int, ...]) -> None:
    with pytest.raises(
        ValidationError, match=r"1 validation error(.|\n)*two numbers of pixels, rows and columns"
    ):
        LabelledImagesConfig(size=size)


def test_the_files_of_a_csv_are_inputs_of_the_run(folder: Path) -> None:
    train = listing(folder, ["0,p0.png", "1,p1.png"])
    assert input_files(train) == [folder / "p0.png", folder / "p1.png"]
    assert input_files(str(folder)) is None


def test_at_most_so_many_images_spread_over_each_split(folder: Path) -> None:
    rows = ["path,label,split"] + [f"p{n}.png,{n % 2},{'test' if n > 5 else 'train'}" for n in range(8)]
    found = list_images(LabelledImagesConfig(train=listing(folder, rows), max_images=2))
    assert [row.where[-1] for row in found.rows] == ["2", "7", "8", "9"]  # first and last of both splits


def test_planted_labels_stand_in_the_bright_patch_and_only_there() -> None:
    config = PlantedConfig(images=40, noise=0.0)
    images, labels, patches = planted_images(config)
    for image, label, patch in zip(images[:, 0], labels, patches):
        cells = image.reshape(4, 8, 4, 8).swapaxes(1, 2).reshape(16, 8, 8)
        bright = cells.reshape(16, -1).mean(1)
        assert int(bright.argmax()) == patch
        # .3 background, .3 brighter, +- .3 pattern: 153 +- 76 in the patch, 76 (.3 * 255) elsewhere
        assert set(np.unique(np.delete(cells, patch, 0))) == {76}
        np.testing.assert_array_equal(cells[patch] > 153, pattern(int(label), (8, 8)) > 0)
    # seen at a quarter of the resolution all four patterns are the same: nobody can read the label there
    low = images[:, 0].reshape(40, 8, 4, 8, 4).mean((2, 4))
    assert {tuple(np.unique(row)) for row in low} == {(76.0, 153.0)}
    assert set(labels.tolist()) == set(range(len(CLASSES)))
    with pytest.raises(ValueError, match="equal patches"):
        PlantedConfig(size=(30, 32))
