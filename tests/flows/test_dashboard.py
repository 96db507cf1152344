"""What reaches the dashboard: tables and pages of stages and of a run; what a broken server cannot do."""

from __future__ import annotations

import base64
import io
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flows import dashboard
from flows.dashboard import (
    MARKDOWN_BYTES,
    artifact_key,
    figure_rows,
    publish_report,
    publish_stage,
    report_markdown,
    stage_figures,
    stage_markdown,
)
from flows.reporting.report import render
from tests.flows import tiny
from tests.flows.reporting import report_fixture

FIGURES: Mapping[str, float | int | str | bool | None] = {
    "loss": 0.123456, "images": 1240, "epochs": 60.0, "hd95_mm": 4.25, "converged": True, "net": "a|b", "gap": None,
    "nothing": float("nan"), "tiny": 3.14159e-7, "large": 123456.0,
}  # fmt: skip


def png(side: int = 40, noise: bool = False) -> bytes:
    values = (
        np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
        if noise
        else np.zeros((side, side))
    )
    stream = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(stream, format="PNG")
    return stream.getvalue()


def embedded(markdown: str) -> Image.Image:
    found = re.search(r"!\[[^]]+\]\(data:image/png;base64,([A-Za-z0-9+/=]+)\)", markdown)
    assert found
    return Image.open(io.BytesIO(base64.b64decode(found[1])))


def table_of(markdown: str) -> dict[str, str]:
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in markdown.splitlines() if line.startswith("|")]
    assert all(len(row) == 2 for row in cells)
    return {name.strip(): value.strip() for name, value in cells[2:]}


# --- pages and tables ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "key"),
    [
        ("iteration 2 · PPO", "iteration-2-ppo"),
        ("upper bound (target labels) · evaluate", "upper-bound-target-labels-evaluate"),
        (" Señal__λ ", "senal"),
        ("···", ""),
    ],
)
def test_keys_are_slugs(label: str, key: str) -> None:
    assert artifact_key(label) == key


def test_figures_are_readable() -> None:
    page = stage_markdown("iteration 2 · PPO", FIGURES, 185.0, png())
    assert page.startswith("## iteration 2 · PPO\n")
    assert table_of(page) == {
        "loss": "0.1235", "images": "1,240", "epochs": "60", "hd95": "4.25 mm", "converged": "yes", "net": "a\\|b",
        "gap": "–", "nothing": "–", "tiny": "3.142e-07", "large": "123,500", "wall time": "3 min 05 s",
    }  # fmt: skip
    assert embedded(page).size == (40, 40)


def test_rows_of_the_table_are_json_a_browser_can_read() -> None:
    rows = figure_rows(FIGURES, 12.5)
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    values = {row["figure"]: (row["value"], row["unit"]) for row in rows}
    assert values["loss"] == (0.1235, "")
    assert values["images"] == (1240, "")
    assert values["hd95"] == (4.25, "mm")
    assert values["converged"] == ("yes", "")
    assert values["nothing"] == (None, "")
    assert values["wall time"] == (12.5, "s")


def test_a_page_without_figures_or_picture() -> None:
    assert stage_markdown("shape prior", {}, None, None) == "## shape prior\n"


def test_a_page_stays_below_the_limit() -> None:
    figures = {f"figure {i}": "long " * 1000 for i in range(500)}
    page = stage_markdown("label", figures, None, png(900, noise=True))
    assert len(png(900, noise=True)) > MARKDOWN_BYTES
    assert 300_000 < len(page.encode()) < MARKDOWN_BYTES
    assert embedded(page).width > 200


def test_figures_of_an_evaluation_are_the_means_of_its_summary(tmp_path: Path) -> None:
    assert stage_figures(tmp_path) == {}
    summary = {
        "cases": 4,
        "dice": {"disc": [0.8, 0.1], "ring": [0.7, 0.2]},
        "dice_mean": [0.75, 0.1],
        "validity": 0.5,
    }
    (tmp_path / "summary.json").write_text(json.dumps(summary | {"hd_mean": None, "reliability": {}}))
    expected = {"cases": 4, "dice_mean": 0.75, "validity": 0.5, "dice_disc": 0.8, "dice_ring": 0.7}
    assert stage_figures(tmp_path) == expected
    (tmp_path / "figures.json").write_text('{"loss": 0.5}')
    assert stage_figures(tmp_path) == {"loss": 0.5}


def test_the_report_page_has_table_verdict_and_place(tmp_path: Path) -> None:
    render(report_fixture.report_data(), tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    page = report_markdown(metrics, tmp_path / "report.html", png())
    for statement in metrics["verdict"]:
        assert f"- {statement['text']}\n" in page
    assert f"`{tmp_path / 'report.html'}`" in page
    assert "| source-only | 0 | 0.815 ± 0.080 |" in page
    last = next(line for line in page.splitlines() if line.startswith("| RL4Seg | 4 |"))
    assert "**0.795 ± 0.080**" in last  # the best mean Dice, the upper bound apart
    assert embedded(page).size == (40, 40)


# --- servers that do not answer --------------------------------------------------------------------------------------


@contextmanager
def task_run(address: str) -> Iterator[None]:
    """What a running task's thread knows of its server, without a server: the address, and that a run is under way."""
    from prefect import flow
    from prefect.client.schemas.objects import FlowRun
    from prefect.context import FlowRunContext
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    unset: Any = FlowRunContext.model_construct(
        flow=flow(lambda: None), flow_run=FlowRun.model_construct(id=None)
    )
    with temporary_settings({PREFECT_API_URL: address, PREFECT_CLIENT_MAX_RETRIES: 0}), unset:
        yield


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    from prefect.logging.configuration import setup_logging

    setup_logging()  # replaces the root's handlers when it is called for the first time
    if caplog.handler not in logging.getLogger().handlers:
        logging.getLogger().addHandler(caplog.handler)
    caplog.set_level(logging.INFO, logger="flows.dashboard")
    return caplog


def test_nothing_is_sent_outside_a_run(
    said: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = threading.active_count()
    publish_stage("label", "stage", {"loss": 1.0}, 1.0, png())
    publish_report(None, Path("nowhere"))
    assert threading.active_count() == started
    assert not said.records


def test_a_refused_connection_is_one_line(said: pytest.LogCaptureFixture) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with task_run(f"http://127.0.0.1:{port}/api"):
        publish_stage("iteration 1 · PPO", "finetune_policy", {"loss": 1.0}, 1.0, png())
    (line,) = [record.getMessage() for record in said.records]
    assert line.startswith("iteration 1 · PPO: not shown in the dashboard (")
    assert "refused" in line


def test_a_silent_server_holds_up_one_stage_for_a_moment(
    said: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dashboard, "PATIENCE_SECONDS", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        with task_run(f"http://127.0.0.1:{silent.getsockname()[1]}/api"):
            began = time.monotonic()
            for label in ("first", "second", "third"):
                publish_stage(label, "stage", {"loss": 1.0}, 1.0, None)
            assert time.monotonic() - began < 3
    lines = [record.getMessage() for record in said.records]
    assert lines[0] == "first: the dashboard has not answered for 0.5 s, going on"
    assert lines[1:3] == [
        f"{x}: not shown in the dashboard, which has not taken an earlier stage yet"
        for x in ("second", "third")
    ]
    for thread in dashboard._under_way:
        thread.join(10)
        assert not thread.is_alive()


def test_a_broken_picture_or_report_is_one_line(said: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with task_run("http://127.0.0.1:9/api"):
        publish_stage("label", "stage", {}, None, b"no picture" * 1_000_000)
        publish_report(None, tmp_path)
    broken, absent = (record.getMessage() for record in said.records)
    assert "UnidentifiedImageError" in broken
    assert "metrics.json" in absent


# --- a real server ---------------------------------------------------------------------------------------------------


def artifacts(flow_run: Any) -> dict[str, dict[str, Any]]:
    from prefect.client.orchestration import get_client

    body = {"artifacts": {"flow_run_id": {"any_": [str(flow_run)]}}}
    with get_client(sync_client=True) as client:
        return {row["key"]: row for row in client.request("POST", "/artifacts/filter", json=body).json()}


@pytest.mark.flow
def test_a_task_run_gets_both_artifacts(prefect_server: None, said: pytest.LogCaptureFixture) -> None:
    from prefect import flow, task
    from prefect.context import TaskRunContext

    ids: list[str] = []

    @task(persist_result=False)
    def ppo() -> None:
        context = TaskRunContext.get()
        assert context is not None
        ids.append(str(context.task_run.id))
        publish_stage("iteration 2 · PPO", "finetune_policy", FIGURES, 61.0, png(700, noise=True))

    @flow(persist_result=False)
    def toy_flow() -> None:
        ppo()

    state = toy_flow(return_state=True)
    assert not [record.getMessage() for record in said.records if record.name == "flows.dashboard"]
    found = artifacts(state.state_details.flow_run_id)
    assert set(found) == {"iteration-2-ppo-figures", "iteration-2-ppo-picture"}
    assert {row["task_run_id"] for row in found.values()} == set(ids)
    table, page = found["iteration-2-ppo-figures"], found["iteration-2-ppo-picture"]
    assert (table["type"], page["type"]) == ("table", "markdown")
    assert json.loads(table["data"]) == figure_rows(FIGURES, 61.0)
    assert table_of(page["data"])["wall time"] == "1 min 01 s"
    assert embedded(page["data"]).width > 200
    assert len(page["data"]) < 1_000_000


@pytest.mark.flow
def test_a_run_gets_its_result(
    prefect_server: None, undisturbed: tiny.Run, tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    from prefect import flow

    @flow(persist_result=False)
    def toy_flow(run_folder: Path | None, report_folder: Path) -> None:
        publish_report(run_folder, report_folder)

    state = toy_flow(undisturbed.folder, undisturbed.artifact("report"), return_state=True)
    page = artifacts(state.state_details.flow_run_id)["report-tiny"]["data"]
    metrics = json.loads((undisturbed.folder / "metrics.json").read_text())
    assert all(statement["text"] in page for statement in metrics["verdict"])
    assert str(undisturbed.folder / "report.html") in page
    assert embedded(page).width > 500
    assert not [record for record in said.records if record.name == "flows.dashboard"]
    moved = tmp_path / "elsewhere" / "report"  # a store whose other artifacts are not at hand
    render(report_fixture.report_data(lineage=tuple(metrics["lineage"])), moved)
    state = toy_flow(None, moved, return_state=True)
    page = artifacts(state.state_details.flow_run_id)["report-demo"]["data"]
    assert "data:image" not in page
    assert str(moved / "report.html") in page
