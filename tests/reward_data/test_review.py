"""Which cases are asked about, and what of what comes back is taken or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reward_data.errors import ArtifactError, DataError
from reward_data.review import (
    CASES,
    MASKS,
    Answers,
    Export,
    ReviewConfig,
    choose_cases,
    read_review,
    write_review,
)
from reward_data.review_files import write_volume
from tests.reward_data.review_example import SPACING, affine, decide, mask, write


def words(folder: Path, export: Export, answers: Answers | None = None) -> dict[str, str]:
    return {item.exported.case: item.decision for item in read_review(export, folder, answers)}


def correct(folder: Path, name: str, shift: int = 3) -> None:
    """Save another mask under an exported name."""
    write_volume(folder / MASKS / f"{name}.nii.gz", mask(shift), SPACING, affine())


# --- choosing --------------------------------------------------------------------------------------------------------


def test_the_least_trusted_come_first_one_per_patient_first() -> None:
    trust = np.array([0.5, 0.1, 0.2, 0.9, 0.3])
    groups = ["p", "q", "q", "r", "p"]
    rng = np.random.default_rng(0)
    chosen = choose_cases(trust, groups, ReviewConfig(cases=4), rng)
    # First of each patient: q .1 (1), p .3 (4), r .9 (3); then the second ones: q .2 (2), p .5 (0).
    assert chosen.tolist() == [1, 4, 3, 2]
    assert sorted(choose_cases(trust, groups, ReviewConfig(cases=9), rng).tolist()) == [0, 1, 2, 3, 4]


def test_random_cases_ignore_trust_and_repeat_with_the_seed() -> None:
    config, groups = ReviewConfig(cases=5, by="random"), [str(i) for i in range(20)]
    first = choose_cases(np.arange(20.0), groups, config, np.random.default_rng(3))
    again = choose_cases(-np.arange(20.0), groups, config, np.random.default_rng(3))
    assert first.tolist() == again.tolist() != [0, 1, 2, 3, 4]


def test_when_a_review_is_due() -> None:
    assert not any(ReviewConfig(after=1).due(i, 4) for i in range(1, 5))  # not enabled
    assert [i for i in range(1, 7) if ReviewConfig(enabled=True, after=2).due(i, 6)] == [2]
    assert [i for i in range(1, 7) if ReviewConfig(enabled=True, after=2, every=2).due(i, 6)] == [2, 4]


# --- what comes back -------------------------------------------------------------------------------------------------


def test_decisions_and_changed_masks_are_taken(tmp_path: Path) -> None:
    export = write(tmp_path / "e", ("a", "b", "c", "d"))
    decide(tmp_path / "e", a="Accept ", d="reject")
    correct(tmp_path / "e", "b")
    returned = read_review(export, tmp_path / "e")
    assert [item.decision for item in returned] == ["accept", "correct", "skip", "reject"]
    assert returned[1].labels is not None
    assert (returned[1].labels == mask(3)).all()
    assert all(item.labels is None for item in (returned[0], returned[2], returned[3]))


def test_a_folder_of_corrected_masks_alone_is_enough(tmp_path: Path) -> None:
    export = write(tmp_path / "e")
    (tmp_path / "mine").mkdir()
    write_volume(tmp_path / "mine" / "c.nii.gz", mask(5), SPACING, affine())
    assert words(tmp_path / "mine", export) == {"a": "skip", "b": "skip", "c": "correct"}


def test_answers_win_over_the_file_and_accept_all_takes_the_rest(tmp_path: Path) -> None:
    export = write(tmp_path / "e")
    decide(tmp_path / "e", a="accept")
    correct(tmp_path / "e", "b")
    answers = Answers({"a": "reject"}, accept_all=True)
    assert words(tmp_path / "e", export, answers) == {"a": "reject", "b": "correct", "c": "accept"}


def test_what_was_taken_is_read_again_as_it_was(tmp_path: Path) -> None:
    export = write(tmp_path / "e")
    decide(tmp_path / "e", a="accept", c="reject")
    correct(tmp_path / "e", "b")
    returned = read_review(export, tmp_path / "e")
    first, second = write_review(returned, tmp_path / "r"), write_review(returned, tmp_path / "s")
    assert first == second
    assert (tmp_path / "r/masks/b.nii.gz").read_bytes() == (tmp_path / "s/masks/b.nii.gz").read_bytes()
    again = read_review(export, tmp_path / "r")
    assert [item.decision for item in again] == [item.decision for item in returned]
    assert (again[1].labels == returned[1].labels).all()
    decide(tmp_path / "e", c="skip")
    assert write_review(read_review(export, tmp_path / "e"), tmp_path / "t") != first


def test_a_spreadsheet_in_another_country(tmp_path: Path) -> None:
    export = write(tmp_path / "e")
    (tmp_path / "e" / CASES).write_bytes("﻿case;trust;decision;note\r\na;0,1;accept;\r\n".encode())
    assert words(tmp_path / "e", export) == {"a": "accept", "b": "skip", "c": "skip"}


def break_decision(folder: Path) -> None:
    decide(folder, b="ok")


def break_case(folder: Path) -> None:
    (folder / CASES).write_text("case,decision\na,accept\nz,accept\n")


def break_twice(folder: Path) -> None:
    (folder / CASES).write_text("case,decision\na,accept\na,reject\n")


def break_columns(folder: Path) -> None:
    (folder / CASES).write_text("id,verdict\na,accept\n")


def break_name(folder: Path) -> None:
    write_volume(folder / MASKS / "z.nii.gz", mask(), SPACING, affine())


def break_accept(folder: Path) -> None:
    correct(folder, "a")
    decide(folder, a="accept")


def break_correct(folder: Path) -> None:
    decide(folder, a="correct")


def break_label(folder: Path) -> None:
    write_volume(folder / MASKS / "c.nii.gz", mask() + np.uint8(4), SPACING, affine())


def break_nothing(folder: Path) -> None:
    """Nobody has decided anything."""


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (break_decision, r"cases\.csv line 3: got the decision 'ok' for case 'b', wanted accept"),
        (break_case, r"cases\.csv line 3: got the case 'z', which was not exported, wanted one of a, b, c"),
        (break_twice, r"cases\.csv line 3: the case 'a' is named a second time"),
        (break_columns, r"got the columns \['id', 'verdict'\], wanted at least case and decision"),
        (break_name, r"z\.nii\.gz: got a mask of 'z', which was not exported"),
        (break_accept, r"a\.nii\.gz: case 'a' is to be accepted as exported, but this mask was changed"),
        (break_correct, r"case 'a': its decision is correct, but .*a\.nii\.gz is as exported"),
        (break_label, r"c\.nii\.gz: got the labels \[4, 5, 6\]"),
        (break_nothing, "nothing is decided"),
    ],
)
def test_refused(tmp_path: Path, spoil: object, said: str) -> None:
    export = write(tmp_path / "e")
    assert callable(spoil)
    spoil(tmp_path / "e")
    with pytest.raises(DataError, match=said):
        read_review(export, tmp_path / "e")


def test_answers_about_an_unknown_case_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    export = write(tmp_path / "e")
    with pytest.raises(DataError, match="case 'q': it was not exported"):
        read_review(export, tmp_path / "e", Answers({"q": "accept"}))
    with pytest.raises(DataError, match="no such folder"):
        read_review(export, tmp_path / "nowhere")


def test_an_export_reads_what_it_wrote(tmp_path: Path) -> None:
    export = write(tmp_path / "e")
    assert Export.read(tmp_path / "e") == export
    with pytest.raises(ArtifactError, match=r"export\.json"):
        Export.read(tmp_path)
