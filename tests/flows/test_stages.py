from __future__ import annotations

import enum
import io
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import Field
from rich.console import Console

from flows import progress
from flows.run_folder import RunFolder, read_status
from flows.stage_keys import refs_in, stage_key
from flows.stages import StageContext, StageEnvironment, current_environment, environment, stage
from flows.store import ArtifactRef, ArtifactStore, CaseSet, Evaluation, Policy
from reward_data.errors import ArtifactError, DataError
from reward_data.types import Config


class ToyConfig(Config):
    scale: float = 2.0
    names: frozenset[str] = frozenset({"lv", "myo", "la"})


class ToyFile(Config):
    path: str = Field(exclude=True)
    digest: str


ran: list[str] = []


@stage(CaseSet, title="import")
def load(ctx: StageContext, files: ToyFile, value: int) -> None:
    """A stage without inputs."""
    ran.append("load")
    (ctx.out / "value.txt").write_text(str(value))


@stage(Policy, title="train")
def train(ctx: StageContext, config: ToyConfig, cases: CaseSet, seed: int = 0) -> None:
    ran.append("train")
    value = float((ctx.path(cases) / "value.txt").read_text()) * config.scale
    (ctx.out / "weights.txt").write_text(str(value))
    ctx.progress(1, 1, {"loss": 0.5})
    ctx.record(value=value)


@stage(Evaluation, title="evaluate")
def evaluate(ctx: StageContext, policy: Policy) -> None:
    ran.append("evaluate")
    (ctx.out / "score.txt").write_text("score " + (ctx.path(policy) / "weights.txt").read_text())


@stage(Policy, title="broken")
def broken(ctx: StageContext) -> None:
    raise DataError("a.nii.gz: got NaN, wanted numbers; mend the image")


def chain(value: int = 3) -> tuple[CaseSet, Policy, Evaluation]:
    cases = load(ToyFile(path="/anywhere", digest="d"), value)
    policy = train.named("iteration 1 · train")(ToyConfig(), cases, seed=3)
    return cases, policy, evaluate(policy)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[StageEnvironment]:
    ran.clear()
    run = RunFolder.create(tmp_path / "run", "", {})
    with environment(StageEnvironment(ArtifactStore(tmp_path / "store"), run)) as active:
        yield active


# --- run or reuse ----------------------------------------------------------------------------------------------------


def test_a_second_call_runs_nothing(here: StageEnvironment) -> None:
    first = chain()
    assert ran == ["load", "train", "evaluate"]
    assert chain() == first
    assert ran == ["load", "train", "evaluate"]
    assert [type(ref) for ref in first] == [CaseSet, Policy, Evaluation]
    assert first[1].made_from == (first[0].digest,)
    assert (here.store.path(first[2]) / "score.txt").read_text() == "score 6.0"
    assert json.loads((here.store.path(first[1]) / "figures.json").read_text()) == {"value": 6.0}


def test_equal_runs_in_two_stores_have_equal_digests(here: StageEnvironment, tmp_path: Path) -> None:
    with environment(StageEnvironment(ArtifactStore(tmp_path / "other"))):
        other = chain()
    assert other == chain()


def truncate(folder: Path, name: str) -> None:
    (folder / name).write_text("")


def delete(folder: Path, name: str) -> None:
    shutil.rmtree(folder)


def alter(folder: Path, name: str) -> None:
    text = (folder / name).read_text()
    (folder / name).write_text("9" * len(text))


@pytest.mark.parametrize("damage", [truncate, delete, alter])
@pytest.mark.parametrize(("place", "name"), [(0, "value.txt"), (1, "weights.txt"), (2, "score.txt")])
def test_only_the_broken_stage_runs_again(here: StageEnvironment, damage, place: int, name: str) -> None:
    """A rebuild gives the same bytes, so the intact dependents still answer from the store."""
    first = chain()
    ran.clear()
    damage(here.store.root / first[place].key, name)
    assert chain() == first
    assert ran == [["load"], ["train"], ["evaluate"]][place]


def test_other_bytes_of_a_stage_run_its_dependents(here: StageEnvironment) -> None:
    chain(value=3)
    ran.clear()
    chain(value=4)
    assert ran == ["load", "train", "evaluate"]


def test_a_stage_beside_a_changed_one_does_not_run(here: StageEnvironment) -> None:
    cases, _, _ = chain()
    ran.clear()
    train(ToyConfig(scale=3.0), cases, seed=3)
    assert ran == ["train"]


# --- keys ------------------------------------------------------------------------------------------------------------


def test_paths_labels_and_spelling_of_a_call_are_no_part_of_the_key() -> None:
    one = load.key(ToyFile(path="/a", digest="d"), 3)
    assert one == load.named("other").key(files=ToyFile(path="/b", digest="d"), value=3)
    assert one != load.key(ToyFile(path="/a", digest="e"), 3)
    cases = CaseSet(key="k", digest="d", size=1)
    assert train.key(ToyConfig(), cases) == train.key(ToyConfig(), cases, seed=0)
    assert train.key(ToyConfig(), cases) == train.key(
        ToyConfig(), cases.model_copy(update={"key": "other", "size": 2, "made_from": ("x",)})
    )
    assert train.key(ToyConfig(), cases) != train.key(ToyConfig(), cases.model_copy(update={"digest": "e"}))


def test_a_key_is_the_same_in_every_process() -> None:
    code = (
        "import sys; sys.path.insert(0, '.')\nfrom tests.flows.test_stages import *\n"
        "print(train.key(ToyConfig(), CaseSet(key='k', digest='d', size=1)))"
    )
    keys = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True,
            cwd=Path(__file__).parents[2],
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(keys) == 1


def test_what_keys_hold_and_refuse() -> None:
    class Colour(enum.Enum):
        RED = "red"

    @dataclass(frozen=True)
    class Record:
        ref: ArtifactRef
        more: tuple[ArtifactRef | None, ...]

    a, b = Policy(key="a", digest="da", size=1), CaseSet(key="b", digest="db", size=1)
    record = Record(a, (None, b))
    assert list(refs_in({"x": record, "y": [a]})) == [a, b, a]
    key = stage_key(train._function, Policy, {"record": record, "colour": Colour.RED, "merge": {3: 0}})
    assert key == stage_key(train._function, Policy, {"merge": {3: 0}, "colour": "red", "record": record})
    assert key != stage_key(train._function, Policy, {"record": record, "colour": "red", "merge": {3: 1}})
    for value in (Path("/a"), object(), b"bytes"):
        with pytest.raises(TypeError, match="a stage key cannot hold a"):
            stage_key(train._function, Policy, {"value": value})


# --- environment, errors, what is shown ------------------------------------------------------------------------------


def test_without_an_environment_the_error_says_so() -> None:
    with pytest.raises(ArtifactError, match="called without a store"):
        current_environment()


def test_lineage_names_every_stage(here: StageEnvironment) -> None:
    _, policy, _ = chain()
    chain()
    with pytest.raises(DataError, match="got NaN"):
        broken()
    rows = read_status(here.run_folder.path)
    assert [row.status for row in rows] == ["built"] * 3 + ["cached"] * 3 + ["failed"]
    assert [row.label for row in rows[:3]] == ["import", "iteration 1 · train", "evaluate"]
    assert (rows[1].digest, rows[1].path, rows[1].metrics) == (policy.digest, policy.key, {"value": 6.0})
    assert rows[1].seconds == rows[4].seconds is not None
    assert "mend the image" in rows[-1].error


def test_publish_copies_into_the_run_folder(here: StageEnvironment) -> None:
    ref = here.publish(chain()[2])
    assert isinstance(ref, Evaluation)
    assert (here.run_folder.path / "score.txt").read_text() == "score 6.0"


@pytest.mark.parametrize("terminal", [False, True])
def test_the_console_keeps_one_line_per_stage(
    tmp_path: Path, terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SPARSE_SECONDS", 0.0)
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=120, color_system=None)
    with environment(StageEnvironment(ArtifactStore(tmp_path), console=console)):
        chain()
        chain()
    text = output.getvalue()
    assert text.count("✓ iteration 1 · train") == 2
    assert sum("✓" in line and "Cached" in line for line in text.splitlines()) == 3
    assert "loss 0.5" in text


def test_stages_import_neither_torch_nor_prefect() -> None:
    code = "import sys, flows.stages; assert not {'torch', 'monai', 'prefect', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- in Prefect ------------------------------------------------------------------------------------------------------


def task_runs(flow_run_id) -> list:
    """Task runs of a flow run by start, once the server has written all of them down."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    with get_client(sync_client=True) as client:
        for _ in range(100):
            runs = client.read_task_runs(
                flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
            )
            if runs and all(run.state and run.state.is_final() for run in runs):
                return sorted(runs, key=lambda run: run.start_time)
            time.sleep(0.1)
    raise AssertionError("the server has not recorded the task runs")


@pytest.mark.flow
def test_in_a_flow_stages_are_task_runs_shown_as_cached(here: StageEnvironment, prefect_server: None) -> None:
    from prefect import flow

    @flow(persist_result=False)
    def toy_flow() -> None:
        chain()

    first, second = toy_flow(return_state=True), toy_flow(return_state=True)
    assert ran == ["load", "train", "evaluate"]
    runs = task_runs(first.state_details.flow_run_id)
    assert [run.name for run in runs] == ["import", "iteration 1 · train", "evaluate"]
    assert [run.state_name for run in runs] == ["Completed"] * 3
    runs = task_runs(second.state_details.flow_run_id)
    assert [run.state_name for run in runs] == ["Cached"] * 3
    assert all(run.state.is_completed() for run in runs)
    inputs = [
        source.id for values in runs[2].task_inputs.values() for source in values if hasattr(source, "id")
    ]
    assert inputs == [runs[1].id]  # the arrow from train to evaluate in the dashboard


@pytest.mark.flow
def test_an_error_is_one_message_and_a_retry_reuses_what_is_finished(
    here: StageEnvironment,
    prefect_server: None,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.flow_engine import run_flow
    from prefect.states import Scheduled

    attempts: list[int] = []

    @flow(persist_result=False)
    def toy_flow() -> str:
        chain()
        attempts.append(1)
        if len(attempts) == 1:
            broken()
        return "whole"

    state = toy_flow(return_state=True)
    assert state.is_failed()
    assert isinstance(state.result(raise_on_failure=False), DataError)
    assert not any(record.exc_info for record in caplog.records if record.name.startswith("prefect"))
    assert "Traceback" not in caplog.text
    assert "got NaN, wanted numbers; mend the image" in caplog.text  # for the dashboard
    assert "NaN" not in capfd.readouterr().err  # the caller says it
    with get_client(sync_client=True) as client:  # what the Retry button does
        client.set_flow_run_state(state.state_details.flow_run_id, Scheduled(), force=True)
        flow_run = client.read_flow_run(state.state_details.flow_run_id)
    assert run_flow(toy_flow, flow_run=flow_run) == "whole"
    assert ran == ["load", "train", "evaluate"]
    names = [run.state_name for run in task_runs(flow_run.id)]
    assert names == ["Completed"] * 3 + ["Failed"] + ["Cached"] * 3


@pytest.mark.flow
def test_progress_reaches_the_dashboard_and_its_failure_harms_nobody(
    here: StageEnvironment, prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import prefect.artifacts
    from prefect import flow
    from prefect.client.orchestration import get_client

    monkeypatch.setattr(progress, "DASHBOARD_SECONDS", 0.2)

    @stage(Policy, title="slow")
    def slow(ctx: StageContext, steps: int) -> None:
        for step in range(steps):
            ctx.progress(step + 1, steps, {"loss": 1.0 / (step + 1)})
            time.sleep(0.2)
        (ctx.out / "weights.txt").write_text(str(steps))

    @flow(persist_result=False)
    def toy_flow(steps: int) -> None:
        slow(steps)

    state = toy_flow(5, return_state=True)
    with get_client(sync_client=True) as client:
        body = {"artifacts": {"flow_run_id": {"any_": [str(state.state_details.flow_run_id)]}}}
        artifacts = client.request("POST", "/artifacts/filter", json=body).json()
    shown = {item["type"]: item for item in artifacts}
    assert set(shown) == {"progress", "table", "markdown"}
    assert shown["progress"]["data"] == 100.0
    assert shown["progress"]["description"] == "slow: 5 of 5  loss 0.2"

    def unreachable(*args: object, **kwargs: object) -> None:
        raise ConnectionError("no server")

    monkeypatch.setattr(prefect.artifacts, "create_progress_artifact", unreachable)
    assert toy_flow(4, return_state=True).is_completed()
