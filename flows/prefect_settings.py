"""What this project asks of Prefect, set before Prefect is first imported; the user's environment always wins.

Import `flow` from here instead of from Prefect: Prefect reads its environment when it is imported, so importing this
module sets the defaults (its one side effect). PREFECT_HOME stays the user's: runs show up in their dashboard.
"""

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

from reward_data.errors import REFUSALS, ConfigError, Rl4SegError

DEFAULTS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",  # the dashboard still gets every INFO line
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
}
START_SECONDS = 120.0
log = logging.getLogger(__name__)

for _name, _value in DEFAULTS.items():
    os.environ.setdefault(_name, _value)

from prefect import flow  # noqa: E402  (after the environment is set)

__all__ = ["embedded_server", "flow", "quiet_user_errors"]


def quiet_user_errors() -> None:
    """Keep what is the user's to mend to one message: no traceback in the dashboard, nothing before the caller's own.

    Calling it again changes nothing.
    """
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logger = logging.getLogger(name)
        if _without_traceback not in logger.filters:
            logger.addFilter(_without_traceback)
    for handler in logging.getLogger().handlers:
        if type(handler).__module__.startswith("prefect.") and _not_said_elsewhere not in handler.filters:
            handler.addFilter(_not_said_elsewhere)


def _without_traceback(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, Rl4SegError) or (isinstance(error, OSError) and error.errno in REFUSALS):
        record.msg, record.args, record.exc_info, record.exc_text = str(error), (), None, None
        record.user_error = True
    return True


def _not_said_elsewhere(record: logging.LogRecord) -> bool:
    """Whether the console shows a record: not what the flow raises to its caller, nor what follows from it."""
    message = str(record.msg)
    repeats = record.name in ("prefect.flow_runs", "prefect.task_runs") and message.startswith("Finished in")
    settling = message.startswith("Still processing items")  # log lines on their way to the server
    return not repeats and not settling and not getattr(record, "user_error", False)


@contextmanager
def embedded_server() -> Iterator[Callable[[], None]]:
    """A Prefect server for the length of one run, unless the user has one configured (PREFECT_API_URL, profile).

    Prefect's own ephemeral server imports the whole server into the client too, which doubles the wait, and it stays
    behind when the run is killed. This one starts while the caller goes on importing and ends with its caller, however
    that ends. Both keep their records in PREFECT_HOME. Yields a function that returns once the server answers.

    Raises:
        ConfigError: (from that function) the server does not start.
    """
    from prefect.settings import PREFECT_API_URL, temporary_settings

    if PREFECT_API_URL.value():
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
