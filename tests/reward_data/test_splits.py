from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_data.errors import DataError
from reward_data.splits import assign, check_groups, check_unique


def patients(count: int, images: int = 2) -> list[str]:
    return [f"p{i:02d}" for i in range(count) for _ in range(images)]


def test_fractions_count_groups_not_images() -> None:
    # 10 patients of 2 images: .2 -> 2 patients = 4 images in val, .1 -> 1 patient = 2 images in test, 14 in train
    drawn = assign(patients(10), [None] * 20, 0.2, 0.1, seed=0)
    assert [drawn.count(name) for name in ("train", "val", "test")] == [14, 4, 2]


def test_draw_depends_on_the_seed_only() -> None:
    groups = patients(10)
    first = dict(zip(groups, assign(groups, [None] * 20, 0.3, 0.0, seed=1)))
    shuffled = groups[::-1]
    assert dict(zip(shuffled, assign(shuffled, [None] * 20, 0.3, 0.0, seed=1))) == first
    assert dict(zip(groups, assign(groups, [None] * 20, 0.3, 0.0, seed=2))) != first


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, {"train"}),  # nothing to spare
        (2, {"train", "val"}),  # validation comes before test
        (3, {"train", "val", "test"}),
    ],
)
def test_small_counts_keep_one_group_for_train(count: int, expected: set[str]) -> None:
    assert set(assign(patients(count), [None] * 2 * count, 0.2, 0.2, seed=0)) == expected


def test_given_splits_are_kept_and_train_may_be_given() -> None:
    drawn = assign(["a", "b", "c"], ["test", "train", None], 0.5, 0.0, seed=0)
    assert drawn == ("test", "train", "val")  # "b" trains, so the one open group is free for validation


@given(st.integers(1, 12), st.floats(0, 0.49), st.floats(0, 0.49), st.integers(0, 5), st.integers(1, 3))
def test_no_group_is_torn_and_train_is_never_empty(
    count: int, validation: float, test: float, seed: int, images: int
) -> None:
    groups = patients(count, images)
    drawn = assign(groups, [None] * len(groups), validation, test, seed)
    assert "train" in drawn
    assert len(set(zip(groups, drawn))) == count
    if validation > 0 and count > 1:
        assert "val" in drawn


def test_group_in_two_splits_names_both_cases() -> None:
    with pytest.raises(DataError, match=r"'p1' is in two splits: case 'p1_ED' in train.*'p1_ES' in test"):
        check_groups(["p1_ED", "p2", "p1_ES"], ["p1", "p2", "p1"], ["train", "train", "test"], "list")


def test_open_and_test_cases_of_one_group_clash() -> None:
    with pytest.raises(DataError, match="to be drawn"):
        check_groups(["a", "b"], ["p", "p"], [None, "test"], "list")


def test_duplicate_ids_are_refused() -> None:
    check_unique(["a", "b"], "list")
    with pytest.raises(DataError, match="duplicate id 'a'"):
        check_unique(["a", "b", "a"], "list")
