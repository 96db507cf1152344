"""An export's folder is whole or not there."""

import os
from pathlib import Path

import pytest

from reward_data.errors import ArtifactError, ConfigError
from rl4seg.export.folder import MARK, export_folder


def _export(out: Path, text: str, force: bool = False) -> None:
    with export_folder(out, force) as folder:
        (folder / MARK).write_text(text)


def _fail(out: Path) -> None:
    with export_folder(out, force=True) as folder:
        (folder / "x").write_text("half")
        raise ArtifactError("differs")


def test_a_new_folder_appears_at_the_end_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    with export_folder(tmp_path / "a" / "out") as folder:
        (folder / "x").write_text("1")
        assert not (tmp_path / "a" / "out").exists()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["out"]
    assert (tmp_path / "a" / "out" / "x").read_text() == "1"


def test_a_failure_leaves_nothing_and_keeps_what_was_there(tmp_path: Path) -> None:
    _export(tmp_path / "out", "old")
    with pytest.raises(ArtifactError, match="differs"):
        _fail(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / MARK).read_text() == "old"


def test_an_earlier_export_is_replaced_by_force_only(tmp_path: Path) -> None:
    _export(tmp_path / "out", "old")
    (tmp_path / "out" / "left").write_text("")
    with pytest.raises(ConfigError, match="--force to replace"):
        _export(tmp_path / "out", "new")
    _export(tmp_path / "out", "new", force=True)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {MARK}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_is_no_export_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("dear")
    with pytest.raises(ConfigError, match="holds files that are no export"):
        _export(tmp_path / "photos", "new", force=True)
    assert (tmp_path / "photos" / "a.jpg").read_text() == "dear"


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    _export(tmp_path / "out", "new")
    assert (tmp_path / "out" / MARK).exists()


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        _export(tmp_path / "out", "new")
    with pytest.raises(ArtifactError, match="cannot be written"):
        _export(tmp_path / "out" / "deeper", "new")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission_is_said_at_once(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ArtifactError, match="cannot be written"):
            _export(tmp_path / "out", "new")
    finally:
        tmp_path.chmod(0o700)
