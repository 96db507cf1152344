"""What experts have said: the record, several of them as one, and what it makes of a reward dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reward_data.case_store import CaseStore
from reward_data.distortions import Identity, Swap
from reward_data.errors import ArtifactError, DataError
from reward_data.expert import Expert, Judged
from reward_data.reward_store import ImageEntry, RewardStore, RewardStoreWriter, relabel
from tests.reward_data.test_synthesis import predictions, run, store

__all__ = ["store"]  # the fixture

A, B = np.full((2, 2), 1, np.uint8), np.full((2, 2), 2, np.uint8)


def test_a_record_without_a_mask_for_an_accepted_case_is_refused() -> None:
    with pytest.raises(DataError, match=r"wanted one for every accepted or corrected case, \['a'\]"):
        Expert({"a": "accept", "b": "reject"}, {})
    with pytest.raises(DataError, match="with masks of"):
        Expert({"a": "reject"}, {"a": A})


def test_of_several_reviews_the_later_word_counts_and_a_skip_is_no_word() -> None:
    first = Expert({"a": "accept", "b": "reject", "c": "correct", "d": "skip"}, {"a": A, "c": A})
    second = Expert({"a": "skip", "b": "correct", "c": "reject"}, {"b": B})
    both = Expert.together([first, second])
    assert both.decisions == {"a": "accept", "b": "correct", "c": "reject", "d": "skip"}
    assert set(both.truths) == {"a", "b"}
    assert (both.truths["b"] == B).all()
    assert both.rejected == {"c"}
    assert both.counts() == {"accepted": 1, "corrected": 1, "rejected": 1}
    assert Expert.together([]).decisions == {}


def test_saved_and_loaded(tmp_path: Path) -> None:
    expert = Expert({"b": "correct", "a": "accept", "c": "reject"}, {"b": B, "a": A})
    expert.save(tmp_path / "one.h5")
    expert.save(tmp_path / "two.h5")
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()
    again = Expert.load(tmp_path / "one.h5")
    assert again.decisions == expert.decisions
    assert (again.truths["a"] == A).all()
    assert (again.truths["b"] == B).all()
    assert again.digest() == expert.digest() != Expert({"a": "accept"}, {"a": A}).digest()
    with pytest.raises(ArtifactError, match="import it again"):
        Expert.load(tmp_path / "nowhere.h5")


# --- in synthesis ----------------------------------------------------------------------------------------------------


def test_experts_masks_are_truths_and_rejected_cases_give_nothing(store: CaseStore, tmp_path: Path) -> None:
    labels = store.labels(np.arange(len(store)))
    # c03 is upside down and hopeless, c05 has an island and is corrected, c00 and c01 are accepted by themselves.
    said = Expert(
        {"c03": "correct", "c00": "accept", "c01": "reject", "c05": "reject"},
        {"c03": labels[3], "c00": predictions(store)[0]},
    )
    summary = run(store, tmp_path, expert=said)
    assert summary["reviewed"] == {"accepted": 1, "corrected": 1, "rejected": 2}
    assert summary["examples"]["expert"] == 2
    with RewardStore(tmp_path / "rewards.h5") as rewards:
        ids = list(rewards.case_ids)
        assert not {"c01", "c05"} & set(ids)
        assert [ids[i] for i in np.flatnonzero(rewards.reviewed)] == ["c00", "c03"]
        image = ids.index("c03")
        assert image in rewards.anchors()
        assert (rewards.truths(np.array([image]))[0] == labels[3]).all()
        own = np.flatnonzero(rewards.image_index == image)
        assert rewards.provenance(int(own[0])) == Judged(decision="correct")
        # The policy's own prediction is an example: wrong wherever it differs from the expert's mask.
        proposed, wrong = rewards.proposed(own[:1])[0], rewards.errors(own[:1])[0]
        assert (proposed == predictions(store)[3]).all()
        assert (wrong == (predictions(store)[3] != labels[3])).all()
        assert wrong.any()
        # The families of bad partners are there too, and start from the expert's mask.
        kinds = {rewards.records[i]["kind"] for i in own}
        assert {"identity", "weight_noise", "swap"} <= kinds
        identity = next(i for i in own if rewards.records[i]["kind"] == "identity")
        assert rewards.error_fraction[identity] == 0
        swapped = {record.get("other_id") for record in rewards.records if record["kind"] == "swap"}
        assert not {"c01", "c05"} & swapped


def test_parts_of_another_review_are_not_reused(store: CaseStore, tmp_path: Path) -> None:
    run(store, tmp_path)
    run(store, tmp_path, expert=Expert({"c00": "reject"}, {}))
    with RewardStore(tmp_path / "rewards.h5") as rewards:
        assert "c00" not in rewards.case_ids


def test_a_review_of_other_cases_is_refused(store: CaseStore, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the reviewed cases \['z'\] are not among the 14 predicted ones"):
        run(store, tmp_path, expert=Expert({"z": "accept"}, {"z": predictions(store)[0]}))


# --- in reward datasets that are there already -----------------------------------------------------------------------


def test_relabelled(tmp_path: Path) -> None:
    with RewardStoreWriter(tmp_path / "old.h5", 1, (2, 2)) as writer:
        for case, split, accepted in (("a", "train", False), ("b", "val", True), ("c", "train", True)):
            image = np.full((1, 2, 2), 9, np.uint8)
            entry = ImageEntry(case, "val" if split == "val" else "train", accepted, image, A)
            writer.add(entry, [(Identity(), A), (Swap(other_id="c"), B)])
    relabel(tmp_path / "old.h5", Expert({"a": "correct", "c": "reject"}, {"a": B}), tmp_path / "new.h5")
    with RewardStore(tmp_path / "new.h5") as new:
        assert new.case_ids == ("a", "b")
        assert new.image_splits == ("train", "val")
        assert new.accepted.tolist() == [True, True]
        assert new.reviewed.tolist() == [True, False]
        # a's truth is B now: its old identity is all wrong, its old swap all right; b stays as it was.
        assert new.error_fraction.tolist() == [1, 0, 0, 1]
        assert [new.provenance(i).kind for i in range(4)] == ["identity", "swap"] * 2
        assert (new.dataset("images")[:] == 9).all()
