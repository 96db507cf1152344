from __future__ import annotations

from pathlib import Path

import pytest

from reward_data.errors import DataError
from reward_data.inputs import list_inputs

DICOM_HEAD = b"\0" * 128 + b"DICM"


def touch(folder: Path, *names: str, content: bytes = b"") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def ids(source: Path, without: Path | None = None) -> dict[str, str]:
    """Id -> path below the source's folder."""
    base = source if source.is_dir() else source.parent
    return {file.id: file.path.relative_to(base).as_posix() for file in list_inputs(source, without)}


def refused(source: Path, match: str) -> None:
    with pytest.raises(DataError, match=match):
        list_inputs(source)


def test_one_file(tmp_path: Path) -> None:
    touch(tmp_path, "a.b.nii.gz", "note.txt")
    assert ids(tmp_path / "a.b.nii.gz") == {"a.b": "a.b.nii.gz"}
    refused(tmp_path / "note.txt", r"note\.txt: no image format that is known")
    refused(tmp_path / "absent.png", "no such file or folder")
    refused(tmp_path / "absent.csv", "no such file or folder")


def test_a_folder_by_path(tmp_path: Path) -> None:
    touch(tmp_path, "b.png", "sub/c.nii.gz", "sub/deep/a.MHD", "sub/deep/a.raw", "d.dcm", "note.txt")
    touch(tmp_path, ".hidden.png", ".cache/x.png", "DICOMDIR", content=DICOM_HEAD)
    touch(tmp_path, "study/IM_0001", "study/1.2.840.5", content=DICOM_HEAD)
    found = ids(tmp_path)
    assert found == {
        "b": "b.png",
        "d": "d.dcm",
        "study/1.2.840.5": "study/1.2.840.5",
        "study/IM_0001": "study/IM_0001",
        "sub/c": "sub/c.nii.gz",
        "sub/deep/a": "sub/deep/a.MHD",
    }
    assert list(found) == sorted(found)
    assert ids(tmp_path / "sub") == {"c": "c.nii.gz", "deep/a": "deep/a.MHD"}


def test_results_inside_of_the_folder_are_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "out/a.png", "out/masks/a.png", "out2/b.png")
    assert ids(tmp_path, without=tmp_path / "x" / ".." / "out") == {"a": "a.png", "out2/b": "out2/b.png"}


def test_a_table(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.png", "b.nii", "c.png")
    table = tmp_path / "list.csv"
    table.write_text(
        "id,image,label\nfirst, images/a.png ,x\n,b.nii,\nin/third,./c.png,\n", encoding="utf-8-sig"
    )
    assert ids(table) == {"first": "images/a.png", "b": "b.nii", "in/third": "c.png"}
    table.write_text("image\nimages/a.png\n")
    assert ids(table) == {"images/a": "images/a.png"}


def test_a_table_with_images_elsewhere(tmp_path: Path) -> None:
    touch(tmp_path, "data/a.png", "data/b.png", "lists/x")
    table = tmp_path / "lists" / "list.csv"
    table.write_text(f"image\n../data/a.png\n{tmp_path / 'data' / 'b.png'}\n")
    assert [file.id for file in list_inputs(table)] == ["a", "b"]
    assert all(file.path.is_file() for file in list_inputs(table))


def test_rows_without_a_file_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    table = tmp_path / "list.csv"
    table.write_text("image,id\na.png,1\nb.png,2\n,3\n")
    refused(table, r"2 of 3 rows name no file that is there \(line 3: b\.png; line 4: no image named\)")
    table.write_text("image\n" + "".join(f"x{i}.png\n" for i in range(9)))
    refused(table, r"9 of 9 rows .*line 6: x4\.png; \.\.\.\)")


def test_broken_tables(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    table = tmp_path / "list.csv"
    table.write_text("path\na.png\n")
    refused(table, r"columns \['path'\], wanted one named image")
    table.write_bytes(b"image\n\xff\xfe\n")
    refused(table, "cannot be read as a CSV file")
    table.write_text("image\n")
    refused(table, "no images found")
    for bad in ("../up", "/root/a", "."):
        table.write_text(f"image,id\na.png,{bad}\n")
        refused(table, r"list\.csv line 2: id .*relative path")


def test_nothing_found(tmp_path: Path) -> None:
    refused(tmp_path, "no images found; wanted files ending in")


def test_two_of_one_name(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "a.nii.gz")
    refused(tmp_path, r"a\.nii\.gz and .*a\.png would both be named 'a'")
    table = tmp_path / "list.csv"
    table.write_text("image\na.png\na.png\n")
    refused(table, "would both be named 'a'")
    table.write_text("image,id\na.png,1\na.png,2\n")
    assert list(ids(table)) == ["1", "2"]
