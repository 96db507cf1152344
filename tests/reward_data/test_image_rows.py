"""Rows of new images: labels are optional, folders may be of any depth, and bad ones are named."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from reward_data.errors import DataError
from reward_data.image_rows import read_new_rows, read_rows
from reward_data.labelled_images import LabelledImagesConfig


def picture(path: Path, value: int = 7) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 6), value, np.uint8)).save(path)
    return path


def test_a_folder_is_read_at_any_depth_without_hidden_names_and_results(tmp_path: Path) -> None:
    for name in ("top.png", "cat/a.png", "test/dog/b.JPG", ".hidden/c.png", "out/examples.png", "cat/.d.png"):
        picture(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    rows = read_new_rows(tmp_path, without=tmp_path / "cat/../out")
    assert [(row.name, row.label) for row in rows] == [
        ("cat/a.png", "cat"),
        ("test/dog/b.JPG", "dog"),
        ("top.png", ""),
    ]
    assert [row.file for row in rows] == [tmp_path / row.name for row in rows]
    assert rows[0].decode().shape == (1, 4, 6)


def test_one_picture_is_a_row_without_a_label(tmp_path: Path) -> None:
    (row,) = read_new_rows(picture(tmp_path / "cat/a.png", 9))
    assert (row.name, row.label, int(row.decode().max())) == ("a.png", "", 9)


def test_a_csv_needs_a_column_path_alone(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    table = tmp_path / "t.csv"
    for text, wanted in (
        ("path\na.png\n", [("a.png", "")]),
        ("id,camera,path,label\n7,x,a.png,\n8,y,a.png,cat\n", [("7", ""), ("8", "cat")]),
        ("cat,a.png\n", [("a.png", "cat")]),  # as training reads it, without a first line of names
        ("path,label,split\na.png,cat,holdout\n", [("a.png", "cat")]),  # splits do not matter here
    ):
        table.write_text(text)
        assert [(row.name, row.label) for row in read_new_rows(table)] == wanted
    with pytest.raises(DataError, match="split 'holdout'"):
        read_rows(table)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,label\na.png,cat\n", "the first line is image,label, wanted a column named path"),
        ("path\nb.png\n", r"t.csv line 2: no such file .*b.png"),
        ("path,label\n,cat\n", "t.csv line 2: no path given"),
        ("path\n", "t.csv: no images found"),
    ],
)
def test_a_csv_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_new_rows(tmp_path / "t.csv")


def test_an_npz_may_have_labels(tmp_path: Path) -> None:
    file, images = tmp_path / "x.npz", np.zeros((2, 4, 6), np.uint8)
    np.savez(file, images=images)
    assert [(row.name, row.label) for row in read_new_rows(file)] == [("image 0", ""), ("image 1", "")]
    with pytest.raises(DataError, match="wanted label and images"):
        read_rows(file)
    np.savez(file, images=images, label=np.array([1, 0]), classes=np.array(["cat", "dog"]))
    assert [row.label for row in read_new_rows(file)] == ["dog", "cat"]
    stream = io.BytesIO()
    Image.fromarray(images[0]).save(stream, "PNG")
    blob = np.frombuffer(stream.getvalue(), np.uint8)
    np.savez(file, jpeg_blob=blob, offset=np.array([0, len(blob)]))
    assert [row.decode().shape for row in read_new_rows(file)] == [(1, 4, 6)]
    np.savez(file, label=np.array([1]))
    with pytest.raises(
        DataError, match=r"has the arrays \['label'\], wanted images, or jpeg_blob and offset"
    ):
        read_new_rows(file)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (np.eye(2), r"x.npz: labels of shape \(2, 2\), wanted one whole number or name per image"),
        (np.array(1), r"labels of shape \(\)"),
        (np.array([0, 1, 1]), "3 labels for 2 images"),
        (np.array([0, -1]), "x.npz image 1: label -1; number the classes 0..K-1"),
        (np.array([0.0, 0.5]), "x.npz image 1: label 0.5, wanted a whole number"),
        (np.array([np.nan, 1]), "x.npz image 0: label nan, wanted a whole number"),
        (np.array(["cat", " "]), "x.npz image 1: no label given"),
        (np.array([0, 1j]), "labels of type complex128, wanted whole numbers or names"),
    ],
)
def test_labels_of_an_npz_that_cannot_be_used(tmp_path: Path, label: npt.NDArray[Any], message: str) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 4, 6), np.uint8), label=label)
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path / "x.npz")


def test_labels_of_an_npz_are_whole_numbers_or_names(tmp_path: Path) -> None:
    file, images = tmp_path / "x.npz", np.zeros((2, 4, 6), np.uint8)
    for label, words in (
        (np.array([0.0, 2.0], np.float32), ["0", "2"]),
        (np.array([False, True]), ["0", "1"]),
        (np.array([b"cat", b"dog"]), ["cat", "dog"]),
        (np.array(["cat", "dog"]), ["cat", "dog"]),
    ):
        np.savez(file, images=images, label=label)
        assert [row.label for row in read_rows(file)] == words
    np.savez(file, images=images, label=np.array([1.0, 0.0]), classes=np.array(["cat", "dog"]))
    assert [row.label for row in read_rows(file)] == ["dog", "cat"]
    np.savez(file, images=images, label=np.array([-1, 1]))  # of new images: no label known
    assert [row.label for row in read_new_rows(file)] == ["-1", "1"]


def test_grey_of_16_bits_is_divided_by_its_own_largest_value(tmp_path: Path) -> None:
    for largest in (1000, 60000):
        Image.fromarray(np.array([[0, largest // 2, largest]], np.uint16)).save(tmp_path / "a.png")
        (row,) = read_new_rows(tmp_path / "a.png")
        assert row.decode().tolist() == [[[0, 128, 255]]]  # 127.5 to the even one
    said = LabelledImagesConfig.model_fields["train"].description
    assert said is not None
    assert "more than 8 bits are each divided by their own largest value" in said


def test_what_holds_no_images(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: 1")
    for path, message in (
        (tmp_path, "no images found; wanted files ending in .png"),
        (tmp_path / "none", "no such file or folder; give a picture"),
        (tmp_path / "x.yaml", "wanted a picture"),
    ):
        with pytest.raises(DataError, match=message):
            read_new_rows(path)
