"""The dashboard in a real browser: fill the run form, watch the run, look at its pictures, press Retry on a failed one.

Needs playwright (pip install playwright) and a Chromium (the environment's CHROMIUM, or chromium on the path). Pictures
go to the folder in RL4SEG_SCREENSHOTS: ``pytest -m slow tests/flows/operations/test_browser.py``.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.flows.operations.conftest import Job
from tests.flows.operations.pool import Place, digests, wait_for

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.flow,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path; name one in CHROMIUM"),
    pytest.mark.skipif(sys.platform != "linux", reason="asks /proc which processes there are"),
]
PATIENCE = 60_000  # milliseconds


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-quic"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(PATIENCE)
        yield page
        browser.close()


def picture(page: Any, name: str) -> None:
    folder = os.environ.get("RL4SEG_SCREENSHOTS")
    if folder:
        page.wait_for_timeout(1500)
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


def newest_run(here: Place, deployment: str) -> str | None:
    runs = here.api.post("flow_runs/filter", {"flow_runs": {"deployment_id": {"any_": [deployment]}}})
    return str(runs[0]["id"]) if runs else None


def test_form_progress_pictures_and_retry(running: Place, job: Job, tmp_path: Path, page: Any) -> None:
    dashboard = f"http://127.0.0.1:{running.port}"
    output = tmp_path / "runs"
    running.call("deploy", str(job.config), *job.arguments(output), "--name", "camus-a2c")
    deployment = running.api.get("deployments/name/auto-iteration/camus-a2c")["id"]
    # PPO cannot begin: a file lies where it wants a folder.
    obstacle = output / "store" / "_checkpoints" / job.keys["iteration 1 · PPO"]
    obstacle.parent.mkdir(parents=True)
    obstacle.touch()

    # 1. fill the form and start
    page.goto(f"{dashboard}/deployments/deployment/{deployment}/run")
    page.get_by_text("Name of the run and of its folder.").wait_for()
    name = page.locator("textarea").first
    assert name.input_value() == "tiny"
    name.fill("from-the-form")
    picture(page, "form")
    page.get_by_role("button", name="Submit").click()
    run_id = wait_for(lambda: newest_run(running, deployment), 60, "a run")
    assert running.api.run(run_id)["parameters"]["config"]["name"] == "from-the-form"

    wait_for(lambda: running.api.run(run_id)["name"] == "auto-iteration from-the-form", 60, "a name")

    # 2. progress with step and loss
    page.goto(f"{dashboard}/runs/flow-run/{run_id}")
    page.get_by_text("Artifacts", exact=True).first.click()
    page.get_by_text(re.compile(r"reward net: \d+ of 120\s+epoch \d+\s+loss 0\.")).first.wait_for()
    picture(page, "running")

    # 3. it has failed; the picture of a finished stage is there
    page.get_by_text("Failed", exact=True).first.wait_for()
    wanted = {
        "artifacts": {"key": {"any_": ["source-only-evaluate-picture"]}, "flow_run_id": {"any_": [run_id]}}
    }
    artifact = running.api.post("artifacts/filter", wanted)[0]["id"]
    page.goto(f"{dashboard}/artifacts/artifact/{artifact}")
    shown = page.locator("img[src^='data:image/png']").first
    shown.wait_for()
    assert shown.evaluate("image => image.complete && image.naturalWidth") > 300
    picture(page, "stage")

    # 4. the cause is removed, Retry is pressed
    obstacle.unlink()
    page.goto(f"{dashboard}/runs/flow-run/{run_id}")
    page.get_by_text("Failed", exact=True).first.wait_for()
    page.get_by_role("button", name="Retry").first.click()
    page.get_by_role("button", name="Retry").last.click()  # "Retry this run?"
    page.get_by_text("Completed", exact=True).first.wait_for()
    page.reload()
    page.get_by_text("Completed", exact=True).first.wait_for()
    picture(page, "retried")
    statuses = running.api.tasks(run_id)
    assert statuses["iteration 1 · reward net"] == "Cached"
    assert statuses["iteration 1 · PPO"] == "Completed"
    assert digests(output, "from-the-form") == job.digests

    # 5. the result stands beside the run
    report = running.api.post("artifacts/filter", {"artifacts": {"key": {"any_": ["report-from-the-form"]}}})[
        0
    ]
    assert report["task_run_id"] is None
    page.goto(f"{dashboard}/artifacts/artifact/{report['id']}")
    page.locator("img[src^='data:image/png']").first.wait_for()
    assert "RL4Seg" in page.inner_text("body")
    picture(page, "result")
