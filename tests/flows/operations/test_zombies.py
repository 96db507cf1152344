"""Runs whose machine has died: nobody is left to say so but the server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.flows.operations.conftest import Job
from tests.flows.operations.pool import Place, digests, flow_process, place, wait_for_stage

pytestmark = [
    pytest.mark.flow,
    pytest.mark.skipif(sys.platform != "linux", reason="asks /proc which processes there are"),
]
STAGE = "iteration 1 · reward net"


def plain_worker(here: Place, name: str) -> subprocess.Popen[bytes]:
    """A Prefect worker that nobody of ours looks after, as on a machine that loses its power."""
    command = [
        sys.executable,
        "-m",
        "prefect",
        "worker",
        "start",
        "-p",
        "gpu",
        "--limit",
        "1",
        "--name",
        name,
    ]
    environment = here.environment(
        PREFECT_API_URL=here.api.url,
        PREFECT_WORKER_QUERY_SECONDS="2",
        PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    )
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_a_zombie_is_crashed_within_two_minutes_and_the_next_run_starts(job: Job, tmp_path: Path) -> None:
    with place(tmp_path / "place") as here:
        server = here.start("server", "--port", str(here.port))
        server.wait_for("dashboard:")
        here.call("deploy")
        workers = [plain_worker(here, "machine-a")]
        try:
            zombie = here.submit(job.config, *job.arguments(tmp_path / "a"), "reward_net.steps=100000")
            wait_for_stage(tmp_path / "a", STAGE)
            flow = flow_process(here.api, zombie)
            workers[0].send_signal(signal.SIGKILL)
            os.kill(flow, signal.SIGKILL)
            died = time.monotonic()
            workers[0].wait()
            following = here.submit(job.config, *job.arguments(tmp_path / "b"))
            workers.append(plain_worker(here, "machine-b"))
            assert here.api.state(zombie) == "RUNNING"
            here.api.wait(zombie, "CRASHED", seconds=120)
            print(f"a zombie was Crashed after {time.monotonic() - died:.0f} s")
            assert "No heartbeat" in here.api.run(zombie)["state"]["message"]
            here.api.wait(following, "COMPLETED")
            assert digests(tmp_path / "b") == job.digests
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
