"""The Prefect server of a run that is started where no server is: it lives as long as the run."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

from flows.operations.servers import find_server
from reward_data.errors import ConfigError

START_SECONDS = 120.0
log = logging.getLogger(__name__)


@contextmanager
def embedded_server() -> Iterator[Callable[[], None]]:
    """A Prefect server for the length of one run, unless one is configured or `rl4seg up` runs here.

    Prefect's own ephemeral server imports the whole server into the client too, which doubles the wait, and it stays
    behind when the run is killed. This one starts while the caller goes on importing and ends with its caller, however
    that ends. Both keep their records in PREFECT_HOME. Yields a function that returns once the server answers.

    Raises:
        ConfigError: the configured server does not answer; (from that function) the server does not start.
    """
    from prefect.settings import PREFECT_API_URL, temporary_settings

    running = find_server()
    if running is not None:
        with temporary_settings({PREFECT_API_URL: running}):
            yield lambda: None
        return
    with socket.socket() as listener, tempfile.TemporaryFile() as output:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)  # from here on requests queue until the server is up
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
        server = _spawn(listener.fileno(), output)
        listener.close()
        try:
            with temporary_settings({PREFECT_API_URL: address}):
                try:
                    yield lambda: _wait(address, output)
                finally:
                    _settle()
        finally:
            server.terminate()
            server.wait()


def _settle() -> None:
    """Send the last states and log lines of the run, and let the server write them down."""
    from prefect.client.orchestration import get_client
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    EventsWorker.drain_all(timeout=10)
    APILogWorker.drain_all(timeout=10)
    unfinished = {"task_runs": {"state": {"type": {"any_": ["PENDING", "RUNNING"]}}}}
    before, until = -1, time.monotonic() + 5
    try:
        with get_client(sync_client=True) as client:
            while time.monotonic() < until:
                now = client.request("POST", "/task_runs/count", json=unfinished).json()
                if now == before:
                    return
                before = now
                time.sleep(0.3)
    except Exception as error:  # a server that has died already has nothing left to settle
        log.info("the embedded Prefect server ended early: %r", error)


def _spawn(listener: int, output: IO[bytes]) -> subprocess.Popen[bytes]:
    from prefect.settings import get_current_settings

    environment = {
        **os.environ,
        **get_current_settings().to_environment_variables(exclude_unset=True),
        "PREFECT_UI_ENABLED": "0",
        "PREFECT__SERVER_EPHEMERAL": "1",
        "PREFECT__SERVER_FINAL": "1",
    }
    # A session of its own: Ctrl-C reaches the flow first, which then has a server to tell.
    return subprocess.Popen(
        [sys.executable, "-c", _SERVE, str(listener)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        pass_fds=[listener],
        start_new_session=True,
    )


_SERVE = """
import os, signal, sys, threading, time

def end_with_parent():
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)
    os._exit(1)

threading.Thread(target=end_with_parent, daemon=True).start()
import uvicorn
uvicorn.run("prefect.server.api.server:create_app", factory=True, fd=int(sys.argv[1]), log_level="error", lifespan="on")
"""


def _wait(address: str, output: IO[bytes]) -> None:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=START_SECONDS):
            return
    except OSError as error:
        output.seek(0)
        said = output.read().decode(errors="replace").strip()[-2000:]
        raise ConfigError(
            f"the embedded Prefect server did not start within {START_SECONDS:.0f} s ({error}); run `prefect server "
            f"start` elsewhere and set PREFECT_API_URL to its address. What it said:\n{said or 'nothing'}"
        ) from error
