"""What is remembered of every file."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.predict.records import RECORDS, FrameRecord, Journal, Record, is_done, signature
from flows.predict.tables import cases_csv, frames_csv
from reward_data.inputs import InputFile
from tests.rl4seg.export.conftest import tiny_package


def frame(trust: float, *violated: str, flagged: bool | None = False) -> FrameRecord:
    return FrameRecord(
        trust=trust, violated=violated, flagged=flagged, areas={"grey": 10 * trust, "bright": None}
    )


def test_a_file_is_as_trusted_as_its_worst_frame() -> None:
    record = Record(id="a", file="a", frames=(frame(0.8), frame(0.5, "area(lv)=0.4 (..0.3)", flagged=True)))
    assert (record.trust, record.trust_mean) == (0.5, 0.65)
    assert not record.valid
    assert record.flagged is True
    assert record.violated == ("frame 2: area(lv)=0.4 (..0.3)",)
    assert record.area("grey") == pytest.approx(6.5)
    assert record.area("bright") is None
    assert Record(id="a", file="a", frames=(frame(0.8, flagged=None),)).flagged is None


def test_records_outlive_a_cut_line(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.add(Record(id="a", file="a"))
        journal.add(Record(id="a", file="a", error="later"))
    with (tmp_path / RECORDS).open("ab") as file:
        file.write(b'{"id": "b", "fi')
    with Journal(tmp_path) as journal:
        journal.add(Record(id="c", file="c"))
    found = Journal(tmp_path).records
    assert {name: record.error for name, record in found.items()} == {"a": "later", "c": None}


def test_done_is_what_has_not_changed_and_is_whole(tmp_path: Path) -> None:
    image, mask = tmp_path / "a.png", tmp_path / "mask.png"
    image.write_bytes(b"image")
    mask.write_bytes(b"mask")
    size, changed = signature(image)
    file = InputFile("a", image)
    good = Record(id="a", file=str(image), size=size, changed_ns=changed, outputs={"masks": "mask.png"})

    def done(record: Record | None, *wanted: str) -> bool:
        return is_done(record, file, wanted, tmp_path)

    assert done(good, "masks")
    assert not done(None, "masks")
    assert not done(good, "masks", "errors")
    assert not done(good.model_copy(update={"error": "broken"}), "masks")
    assert not done(good.model_copy(update={"changed_ns": changed + 1}), "masks")
    assert not done(good.model_copy(update={"file": "elsewhere"}), "masks")
    mask.write_bytes(b"")
    assert not done(good, "masks")


def test_tables_have_a_row_per_file_and_per_frame_of_sequences() -> None:
    spec = tiny_package(reward=False).spec
    several = Record(
        id="s", file="s", frames=(frame(0.75, "x=1 (..0)", flagged=True), frame(0.5)), spacing_mm=(0.5, 0.25)
    )
    lines = cases_csv([Record(id="e", file="e", error='bad, "very"'), several], spec).splitlines()
    assert lines[0].startswith("case,file,status,error,trust,trust_mean,valid,flagged,violated,area_grey_mm2")
    assert lines[1] == 'e,e,error,"bad, ""very""",,,,,,,,,,2,,'
    assert lines[2] == "s,s,ok,,0.5,0.625,0,1,frame 1: x=1 (..0),6.25,,2,0.5 x 0.25,2,0,0.000"
    assert frames_csv([several], spec).splitlines()[1:] == ["s,1,0.75,0,1,x=1 (..0),7.5,", "s,2,0.5,1,0,,5,"]
    assert frames_csv([Record(id="o", file="o", frames=(frame(0.5),))], spec) == ""
