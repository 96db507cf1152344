"""The review's folder, form, commands and stages, without a server; the loop with a review in it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import h5py
import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from prefect.client.schemas.objects import FlowRun, State, StateDetails, StateType
from typer.testing import CliRunner

from flows.cli import app
from flows.config import AutoIterationConfig
from flows.config_loader import load_config
from flows.review_folder import ReviewFolder
from reward_data.errors import ArtifactError, ConfigError, DataError
from reward_data.expert import Expert
from reward_data.review import MASKS, Answers, Export
from reward_data.review_files import write_volume
from reward_data.reward_store import RewardStore
from tests.flows import tiny
from tests.reward_data.review_example import SPACING, affine, decide, mask, write


def exported(tmp_path: Path, shift: int = 0) -> Path:
    """An export as the store has it."""
    folder = tmp_path / f"artifact-{shift}"
    write(folder, ("a", "b", "c") if not shift else ("d", "e", "f"))
    (folder / "README.txt").write_text("rl4seg review import RUN \n")
    (folder / "manifest.json").write_text("{}")
    return folder


@pytest.fixture
def review(tmp_path: Path) -> ReviewFolder:
    folder = ReviewFolder(tmp_path / "runs" / "tiny", 1)
    folder.publish(exported(tmp_path))
    return folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- the folder ------------------------------------------------------------------------------------------------------


def test_published_whole_with_the_runs_name_and_without_the_stores_files(review: ReviewFolder) -> None:
    assert names(review.path) == {".exported.json", "README.txt", "cases.csv", "export.json", "masks"}
    assert (review.path / "README.txt").read_text() == f"rl4seg review import {review.run} \n"
    assert names(review.path.parent) == {"iteration-1"}  # no scratch is left


def test_an_untouched_export_gives_way_to_another_and_one_that_was_worked_on_never(
    review: ReviewFolder, tmp_path: Path
) -> None:
    review.publish(exported(tmp_path, 1))
    assert [case.case for case in review.export.cases] == ["d", "e", "f"]
    decide(review.path, d="accept")
    before = (review.path / "cases.csv").read_bytes()
    review.publish(tmp_path / "artifact-1")  # the same questions: nothing happens
    with pytest.raises(ConfigError, match=r"cases\.csv was changed, wanted an untouched folder"):
        review.publish(tmp_path / "artifact-0")
    assert (review.path / "cases.csv").read_bytes() == before


def test_pictures_may_change_under_an_expert_at_work(review: ReviewFolder, tmp_path: Path) -> None:
    decide(review.path, a="accept")
    (tmp_path / "artifact-0" / "README.txt").write_text("another text")
    review.publish(tmp_path / "artifact-0")
    assert "accept" in (review.path / "cases.csv").read_text()


def test_a_file_of_the_experts_own_is_work_too(review: ReviewFolder, tmp_path: Path) -> None:
    (review.path / "masks" / "a.nii.gz.bak").write_text("mine")
    with pytest.raises(ConfigError, match=r"a\.nii\.gz\.bak was changed"):
        review.publish(exported(tmp_path, 1))


def test_taken_in_whole_or_not_at_all(review: ReviewFolder) -> None:
    decide(review.path, a="accept", b="reject")
    write_volume(review.path / MASKS / "c.nii.gz", mask()[:-1], SPACING, affine())
    before = names(review.path)
    with pytest.raises(DataError, match=r"c\.nii\.gz: got a mask of shape \(9, 12\), wanted \(10, 12\)"):
        review.take(review.path)
    assert review.returned is None
    assert names(review.path) == before
    write_volume(review.path / MASKS / "c.nii.gz", mask(5), SPACING, affine())
    review.take(review.path)
    assert review.returned is not None
    first = review.returned
    # Again with the same contents: the same folder. With others: another one counts, the first is kept.
    review.take(review.path)
    assert review.returned == first
    decide(review.path, b="skip")
    review.take(review.path)
    assert review.returned != first
    assert first.is_dir()


def test_refusals_are_counted_until_something_is_taken_in(review: ReviewFolder) -> None:
    review.refuse("no")
    review.refuse("still not")
    assert (review.refusals, review.refusal) == (2, "still not")
    review.take(review.path, Answers(accept_all=True))
    assert (review.refusals, review.refusal) == (0, "")


# --- the form --------------------------------------------------------------------------------------------------------


def test_the_form_asks_about_every_case_and_its_answer_is_taken(review: ReviewFolder) -> None:
    from flows.review_wait import form, take_answer

    asked = form(review)
    fields = asked.model_json_schema()["$defs"]["Decisions"]["properties"]
    assert [field["title"] for field in fields.values()] == ["a", "b", "c"]
    assert fields["case_001"]["enum"] == ["as in the files", "accept", "correct", "reject", "skip"]
    decide(review.path, c="reject")
    take_answer(review, asked.model_validate({"decisions": {"case_001": "accept"}}))
    assert review.returned is not None
    assert [line.split(",")[1] for line in (review.returned / "cases.csv").read_text().splitlines()] == [
        "decision", "accept", "skip", "reject",
    ]  # fmt: skip


def test_an_answer_that_decides_nothing_is_refused(review: ReviewFolder) -> None:
    from flows.review_wait import form, take_answer

    take_answer(review, form(review)())
    assert review.returned is None
    assert "nothing is decided" in review.refusal


# --- the contact sheet -----------------------------------------------------------------------------------------------


def test_a_headline_stands_above_the_picture() -> None:
    from flows.review_export import HEADLINE, titled

    picture = np.full((40, 600, 3), 255, np.uint8)
    picture[:20] = 0  # the upper half is black
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="PNG")
    grey = np.asarray(Image.open(io.BytesIO(titled(stream.getvalue(), "Review"))).convert("L"))
    assert grey.shape == (40 + HEADLINE, 600)
    assert (grey[:HEADLINE] < 128).any()
    assert (grey[HEADLINE:] == picture[..., 0]).all()


# --- a suspended run -------------------------------------------------------------------------------------------------


def suspended(review: ReviewFolder, key: str | None, state: str = "Suspended") -> FlowRun:
    """A run as the server answers for it."""
    parameters = {"config": {"output": str(review.run.parent), "name": review.run.name}}
    details = StateDetails(pause_key=key)
    now = State[Any](type=StateType.PAUSED, name=state, state_details=details)
    return FlowRun(flow_id=uuid4(), name="auto tiny", parameters=parameters, state=now)


def test_who_follows_a_suspended_run_is_told_what_it_waits_for(review: ReviewFolder) -> None:
    from flows.operations.runs import waits_for

    said = waits_for(suspended(review, f"{review.pause_key}-0123abcd-0"))
    assert said.startswith("auto tiny is waiting for review: ")
    for wanted in (str(review.path), f"review import {review.run}", f"resume {review.run}", "README.txt"):
        assert wanted in said
    assert "refused" not in said
    review.refuse("a.nii.gz: no")
    assert "The last answer was refused: a.nii.gz: no." in waits_for(suspended(review, "review-1-0123abcd-1"))


def test_a_run_that_somebody_suspended_waits_for_resume_and_another_for_nobody(review: ReviewFolder) -> None:
    from flows.operations.runs import waits_for

    run = suspended(review, None)
    assert waits_for(run).endswith(f"rl4seg resume {run.id}")
    assert "review" not in waits_for(run)
    assert waits_for(suspended(review, "review-1-0123abcd-0", "Paused")) == ""  # its process lives


# --- the commands ----------------------------------------------------------------------------------------------------


def test_status_and_import(review: ReviewFolder) -> None:
    runner, run = CliRunner(), str(review.run)
    said = runner.invoke(app, ["review", "status", run])
    assert "waiting for review" in said.output.replace("\n", "")
    with pytest.raises(DataError, match="nothing is decided"):
        runner.invoke(app, ["review", "import", run], catch_exceptions=False)
    decide(review.path, a="accept")
    said = runner.invoke(app, ["review", "import", run])
    assert said.exit_code == 0
    assert "1 accept, 0 correct, 0 reject, 2 skip" in said.output
    assert f"rl4seg resume {run}" in said.output
    assert "imported" in runner.invoke(app, ["review", "status", run]).output
    with pytest.raises(ArtifactError, match=r"review\.enabled=true"):
        runner.invoke(app, ["review", "status", str(review.run.parent)], catch_exceptions=False)


# --- the loop --------------------------------------------------------------------------------------------------------


def config(folder: Path, *overrides: str) -> AutoIterationConfig:
    path = tiny.write_config(folder / "data")
    short = [
        "iterations=2", f"output={folder / 'runs'}", "rivals.logit_bias=false", "rivals.ppo_off=true",
        "review.enabled=true", "review.cases=3", "ppo.epochs=2", "reward_net.steps=10",
    ]  # fmt: skip
    return load_config(str(path), [*short, *overrides], AutoIterationConfig)


def go(config: AutoIterationConfig) -> dict[str, dict[str, Any]]:
    """Run all stages here, without Prefect; returns the lineage by label. SystemExit where it waits."""
    from flows.auto_iteration import adaptation
    from flows.run_environment import run_environment

    with run_environment(config):
        adaptation(config)
    return rows(config)


def rows(config: AutoIterationConfig) -> dict[str, dict[str, Any]]:
    lineage = json.loads((config.run_folder / "lineage.json").read_text())
    return {row["label"]: row for row in lineage["stages"]}


@pytest.mark.parametrize("after", [2, 3])
def test_a_review_too_late_to_learn_from_is_refused(tmp_path: Path, after: int) -> None:
    with pytest.raises(ConfigError) as refused:
        config(tmp_path, f"review.after={after}")
    said = str(refused.value)
    assert f"review.after={after} of 2 iterations: nobody would learn from the review" in said  # got, and why
    assert "give a smaller review.after or more iterations" in said  # what to do


def test_one_iteration_is_too_few_for_a_review(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"review\.after=1 of 1 iterations: .* or more iterations"):
        config(tmp_path, "iterations=1")


def test_the_loop_waits_and_learns_from_what_comes_back(tmp_path: Path) -> None:
    wanted = config(tmp_path)
    with pytest.raises(SystemExit) as ended:
        go(wanted)
    assert not ended.value.code
    waiting = rows(wanted)
    assert (waiting["iteration 1 · review"]["status"], "iteration 2 · predict" in waiting) == (
        "waiting",
        False,
    )
    review = ReviewFolder(wanted.run_folder, 1)
    assert waiting["iteration 1 · review"]["error"] == review.next_steps
    said = CliRunner().invoke(app, ["status", str(wanted.run_folder)], env={"COLUMNS": "1500"}).output
    assert "waiting" in said
    assert f"rl4seg review import {wanted.run_folder}" in said
    assert "stopped" not in said
    export = review.export
    check_export(review.path, export, tmp_path / "data" / "target")
    # Nothing has changed: it waits on, and the export stays.
    decide(review.path, **{export.cases[0].case: "accept", export.cases[1].case: "reject"})
    with pytest.raises(SystemExit):
        go(wanted)
    # The third case is corrected: half of its image becomes class 1.
    name = f"{export.cases[2].file}.nii.gz"
    image = nib.load(review.path / MASKS / name)
    values = np.zeros(image.shape, np.uint8)
    values[:, :16] = 1
    nib.save(nib.Nifti1Image(values, image.affine), review.path / MASKS / name)
    review.take(review.path)
    done = go(wanted)
    assert done["iteration 1 · review export"]["status"] == "cached"
    assert done["iteration 1 · review"]["metrics"] == {
        "accepted": 1,
        "cases": 3,
        "corrected": 1,
        "rejected": 1,
    }
    check_rewards(wanted, done, export)
    page = (wanted.store_folder / done["report"]["path"] / "report.html").read_text()
    counted = "Reviewed images: 3. Masks accepted as they were: 1, corrected: 1, rejected: 1."
    assert f"{counted} Learned from since iteration 2." in page
    # Once more: all of it is there already.
    again = go(wanted)
    assert {row["status"] for label, row in again.items()} == {"cached"}


def check_export(folder: Path, export: Export, target: Path) -> None:
    """Image, mask and error map of every case on the grid of its image, and all there is around them."""
    assert {
        "contact_sheet.png",
        "labels.txt",
        "README.txt",
        "cases.csv",
        "images",
        "masks",
        "error_maps",
    } <= names(folder)
    trust = [case.trust for case in export.cases]
    assert trust == sorted(trust)
    for case in export.cases:
        native = nib.load(target / "imagesTr" / f"{case.case}_0000.nii.gz")
        for kind in ("images", "masks", "error_maps"):
            image = nib.load(folder / kind / f"{case.file}.nii.gz")
            assert image.shape == (*native.shape, 1)
            assert np.allclose(image.affine, native.affine)
        grey = nib.load(folder / "images" / f"{case.file}.nii.gz")
        assert np.array_equal(np.asarray(grey.dataobj)[..., 0], np.asarray(native.dataobj))
        error = np.asarray(nib.load(folder / "error_maps" / f"{case.file}.nii.gz").dataobj)
        assert error.min() >= 0
        assert error.max() <= 1


def check_rewards(config: AutoIterationConfig, done: dict[str, dict[str, Any]], export: Export) -> None:
    """The accepted and the corrected mask are truths from here on in every arm, the rejected case is in none."""
    store = config.store_folder
    accepted, rejected, corrected = (case.case for case in export.cases)
    expert = Expert.load(store / done["iteration 1 · review"]["path"] / "expert.h5")
    with h5py.File(store / done["iteration 1 · review export"]["path"] / "predicted.h5", "r") as file:
        assert (expert.truths[accepted] == file["masks"][0]).all()
    assert (expert.truths[corrected][:16] == 1).all()  # native y is the row
    assert not expert.truths[corrected][16:].any()
    for label in ("iteration 2 · synthesize", "PPO off · iteration 2 · synthesize"):
        folder = store / done[label]["path"]
        with RewardStore(folder / "rewards.h5") as rewards:
            reviewed = {rewards.case_ids[i] for i in np.flatnonzero(rewards.reviewed & rewards.accepted)}
            assert reviewed == {accepted, corrected}
            assert rejected not in rewards.case_ids
            place = rewards.case_ids.index(corrected)
            assert (rewards.truths(np.array([place]))[0] == expert.truths[corrected]).all()
        assert json.loads((folder / "summary.json").read_text())["examples"]["expert"] == 2
    with RewardStore(store / done["iteration 1 · relabel 1"]["path"] / "rewards.h5") as before:
        assert rejected not in before.case_ids


def test_without_it_nothing_waits_and_the_plain_stage_is_used(tmp_path: Path) -> None:
    from flows.auto_iteration import adaptation
    from flows.restart import stage_names
    from flows.run_environment import run_environment

    with run_environment(config(tmp_path)):
        reviewed = stage_names(adaptation, config(tmp_path))
        plain = stage_names(adaptation, config(tmp_path, "review.enabled=false"))
    assert {"review-predict@1", "review-export@1", "review@1", "relabel-1@1"} == set(reviewed) - set(plain)
    assert set(plain) < set(reviewed)
