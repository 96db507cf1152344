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
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from reward_data.errors import ConfigError, Rl4SegError

DEFAULTS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",  # the dashboard still gets every INFO line
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
}
START_SECONDS = 120.0

for _name, _value in DEFAULTS.items():
    os.environ.setdefault(_name, _value)

from prefect import flow  # noqa: E402  (after the environment is set)

__all__ = ["embedded_server", "flow", "quiet_user_errors"]


class OneMessage(logging.Filter):
    """Keeps the traceback of an Rl4SegError out of the log: its message says all that the user needs."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Pass every record, without the traceback where the error is the user's to mend."""
        if record.exc_info and isinstance(record.exc_info[1], Rl4SegError):
            record.msg, record.args = str(record.exc_info[1]), ()
            record.exc_info, record.exc_text = None, None
        return True


def quiet_user_errors() -> None:
    """Log the user's errors as one message in flows and tasks; calling it again changes nothing."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logger = logging.getLogger(name)
        if not any(isinstance(known, OneMessage) for known in logger.filters):
            logger.addFilter(OneMessage())


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
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)  # from here on requests queue until the server is up
        port = listener.getsockname()[1]
        server = _spawn(listener.fileno())
    try:
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}):
            try:
                yield lambda: _wait(port)
            finally:
                _flush()
    finally:
        server.terminate()
        server.wait()


def _flush() -> None:
    """Send what is still queued: the last states and log lines of the run."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    EventsWorker.drain_all(timeout=10)
    APILogWorker.drain_all(timeout=10)


def _spawn(listener: int) -> subprocess.Popen[bytes]:
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


def _wait(port: int) -> None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=START_SECONDS):
            return
    except OSError as error:
        raise ConfigError(
            f"the embedded Prefect server did not start within {START_SECONDS:.0f} s ({error}); see its messages "
            "above, or run `prefect server start` elsewhere and set PREFECT_API_URL to its address"
        ) from error
