"""Schedules that fire, in real minutes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.flows.operations.conftest import Job
from tests.flows.operations.pool import place, wait_for

pytestmark = [
    pytest.mark.flow,
    pytest.mark.skipif(sys.platform != "linux", reason="asks /proc which processes there are"),
]


@pytest.mark.slow
def test_a_schedule_fires_and_an_overlapping_run_is_refused(job: Job, tmp_path: Path) -> None:
    output = tmp_path / "runs"
    with place(tmp_path / "place") as here:
        here.up()
        arguments = (str(job.config), *job.arguments(output), "reward_net.steps=100000")
        said = here.call("deploy", *arguments, "--cron", "* * * * *", "--name", "every-minute")
        assert "deployment auto-iteration/every-minute" in said
        deployment = here.api.get("deployments/name/auto-iteration/every-minute")
        assert deployment["parameters"]["config"]["output"] == str(output)

        def started(*types: str) -> list[dict[str, Any]]:
            wanted = {
                "flow_runs": {
                    "deployment_id": {"any_": [deployment["id"]]},
                    "state": {"type": {"any_": types}},
                }
            }
            runs: list[dict[str, Any]] = here.api.post("flow_runs/filter", wanted)
            return runs

        first = wait_for(lambda: started("RUNNING"), 100, "the schedule fires")[0]
        assert first["auto_scheduled"]
        refused = wait_for(lambda: started("CANCELLED"), 100, "the next one is refused")[0]
        assert "concurrency" in refused["state"]["message"].lower()
        assert [run["id"] for run in started("RUNNING")] == [first["id"]]
