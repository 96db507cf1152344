"""The image's health check against a real server with a password and CSRF protection."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.error import HTTPError, URLError

import pytest

from tests.docker.files import DOCKER, health_check
from tests.flows.operations.pool import Api, free_port

pytestmark = pytest.mark.flow
PASSWORD = "team:word"
OURS, ANOTHERS = f"{socket.gethostname()}-gpu0", "elsewhere-gpu0"


@dataclass(frozen=True)
class Served:
    """A server, its API as a client uses it, and the health check of a container beside it."""

    process: subprocess.Popen[bytes]
    api: Api

    def check(self, password: str = PASSWORD, api: str | None = None) -> tuple[int, str]:
        """Exit code and message of the health check of a worker's container."""
        given = {"PREFECT_API_URL": api or self.api.url, "PREFECT_API_AUTH_STRING": password}
        said = subprocess.run(
            [sys.executable, str(DOCKER / "health.py")],
            env=given,
            capture_output=True,
            text=True,
            check=False,
        )
        return said.returncode, said.stderr.strip()

    def heartbeat(self, worker: str, seconds: int) -> None:
        """What a worker sends; it counts as online for three times as long as it says."""
        path = "work_pools/gpu/workers/heartbeat"
        content = {"name": worker, "heartbeat_interval_seconds": seconds}
        self.api.http.post(path, json=content, headers=self.api.headers()).raise_for_status()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    from flows.operations.servers import SERVER_AUTH, ServerOptions, server_command, server_environment

    options = ServerOptions(port=free_port())
    added = {
        SERVER_AUTH: PASSWORD,
        "PREFECT_HOME": str(tmp_path_factory.mktemp("prefect")),
        "PREFECT_SERVER_SERVICES_FOREMAN_LOOP_SECONDS": "1",  # looks for silent workers so often
    }
    process = subprocess.Popen(server_command(options), env=server_environment(options) | added)
    served = Served(process, Api(options.api, PASSWORD))
    try:
        until = time.monotonic() + 90
        while "does not answer" in served.check()[1]:
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.2)
        served.api.post("work_pools/", {"name": "gpu", "type": "process"})
        yield served
    finally:
        process.terminate()
        process.wait(20)


def test_a_worker_is_healthy_while_it_sends_heartbeats(served: Served) -> None:
    served.heartbeat(ANOTHERS, 30)
    assert served.check() == (1, f"no worker of {socket.gethostname()} has reported to {served.api.url}")
    served.heartbeat(OURS, 1)
    assert served.check() == (0, "")
    until = time.monotonic() + 20
    while served.check()[0] == 0 and time.monotonic() < until:
        time.sleep(0.3)
    assert served.check() == (1, f"not online: {OURS}")


def test_a_wrong_password_and_a_server_that_is_away_are_unhealthy(served: Served) -> None:
    code, message = served.check(password="team:other")
    assert code == 1
    assert message.endswith("answers 401 Unauthorized")
    away = f"http://127.0.0.1:{free_port()}/api"
    code, message = served.check(api=away)
    assert code == 1
    assert message.startswith(f"{away} does not answer: ")


def test_a_server_is_healthy_where_its_api_answers_without_a_password(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_AUTH_STRING", raising=False)
    assert health_check().server_problem(served.api.url) is None
    with pytest.raises(HTTPError, match="401"):
        health_check().ask(f"{served.api.url}/admin/version")
    with pytest.raises(URLError, match="refused"):
        health_check().server_problem(f"http://127.0.0.1:{free_port()}/api")
