from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

CODE = """
import os, sys, time
from flows.operations.embedded import embedded_server
from flows.prefect_settings import flow
from prefect.settings import PREFECT_API_URL

@flow(persist_result=False)
def toy_flow():
    print(PREFECT_API_URL.value(), flush=True)
    time.sleep(60)

with embedded_server() as ready:
    ready()
    toy_flow()
"""


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.flow
def test_the_embedded_server_ends_with_a_killed_run(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    run = subprocess.Popen(
        [sys.executable, "-c", CODE],
        env=environment | {"PREFECT_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    address = run.stdout.readline()
    port = int(address.rpartition(":")[2].partition("/")[0])
    assert listens(port)
    os.kill(run.pid, signal.SIGKILL)
    run.wait(10)
    until = time.monotonic() + 15
    while listens(port) and time.monotonic() < until:
        time.sleep(0.1)
    assert not listens(port)


def test_the_users_environment_wins() -> None:
    code = (
        "import os, flows.prefect_settings\n"
        "print(os.environ['DO_NOT_TRACK'], os.environ['PREFECT_FLOWS_HEARTBEAT_FREQUENCY'])"
    )
    environment = {n: v for n, v in os.environ.items() if n != "DO_NOT_TRACK"} | {
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "45"
    }
    said = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == ["1", "45"]
