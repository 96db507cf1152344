"""The contact sheet."""

from __future__ import annotations

import re

from flows.predict.records import FrameRecord, Record
from flows.predict.sheet import contact_sheet, statements
from tests.rl4seg.export.conftest import FLAG, tiny_package

SPEC = tiny_package(reward=False).spec.model_copy(update={"trust": FLAG})


def record(name: str, trust: float, *violated: str) -> Record:
    frame = FrameRecord(
        trust=trust, violated=violated, flagged=trust < 0.5, areas={"grey": 1234.4, "bright": None}
    )
    outputs = {
        "masks": f"masks/{name}.png",
        "overlays": f"overlays/{name}.png",
        "thumbnails": f"thumbnails/{name}.jpg",
    }
    return Record(id=name, file=name, frames=(frame,), outputs=outputs)


def test_the_least_trusted_stand_first_and_flagged_ones_by_themselves() -> None:
    page = contact_sheet(
        [record("good", 0.9), record("worst", 0.1), record("low", 0.4), record("so so", 0.6)], SPEC
    )
    assert re.findall(r'src="thumbnails/(.+?).jpg"', page) == ["worst", "low", "so%20so", "good"]
    assert (
        page.index("Flagged: look at these")
        < page.index("worst")
        < page.index('id="rest"')
        < page.index("so%20so")
    )
    assert "grey 1,234" in page
    assert "data:image" not in page  # pictures lie beside it


def test_names_and_reasons_cannot_break_the_page() -> None:
    bad = Record(id="<b>", file="<b>", error="a < b & <script>")
    page = contact_sheet([bad, record("<i>&#", 0.9, "no_gap(lv, myo)=1 (..0)")], SPEC)
    assert "<script>" not in page
    assert "<i>" not in page.replace('<span class="meter"><i style', "")
    assert "thumbnails/%3Ci%3E%26%23.jpg" in page
    assert "no gap (lv, myo)" in page


def test_two_thousand_images_are_a_page_that_opens() -> None:
    page = contact_sheet(
        [record(f"case{n:04d}", n / 2000, *["r=1 (..0)"] * (n % 3)) for n in range(2000)], SPEC
    )
    assert page.count('loading="lazy"') == 2000
    assert len(page) < 2_000_000


def test_what_is_said_first() -> None:
    several = [record(f"{n}", 0.4 if n < 15 else 0.9) for n in range(20)]
    words = " ".join(found["text"] for found in statements(several, [], SPEC))
    assert "15 of 20 images are flagged (75%): trust below 0.50." in words
    assert "the flag found 100% of the masks with a Dice below 0.7 and marked 20% of all" in words
    assert "unlike those that the model has learned from" in words
    without = SPEC.model_copy(update={"trust": None})
    assert "no trust flag" in statements(several, [], without)[0]["text"]
    assert contact_sheet([], SPEC)
