"""`rl4seg up`, `server` and `worker`: start what is needed, look after it, and leave nothing behind."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from flows.operations.deployments import register
from flows.operations.processes import Child, Say
from flows.operations.servers import (
    ServerOptions,
    check_server,
    connected,
    dashboard,
    find_server,
    own_password,
    recorded,
    server_command,
    server_environment,
    server_log,
)
from flows.operations.workers import Device, Workers
from reward_data.errors import ConfigError

START_SECONDS = 120.0
LOOK_SECONDS = 1.0
SERVER = "server"


def up(options: ServerOptions, pool: str, on: Sequence[Device], folder: Path, say: Say) -> None:
    """Server, pool, deployments, automations and workers of one machine, until a signal ends it.

    A server that is configured or already running here is used, and left running at the end.

    Raises:
        ConfigError: the server does not start, or something else listens on its port.
    """
    with _stopped_by_signals() as stopped, ExitStack() as stack:
        api, server = find_server(options.api), None
        if api is None:
            server = stack.enter_context(_own_server(options, say, stopped, server_log()))
        stack.enter_context(connected(api or options.api))
        for name in register(pool, folder):
            say(f"deployment {name}")
        workers = stack.enter_context(_own_workers(Workers(pool, on, say)))
        say(f"dashboard: {options.address if server else dashboard(str(api))}")
        say("Ctrl-C stops everything; a run that it stops goes on by Retry")
        _watch(stopped, say, server, workers)


def serve(options: ServerOptions, say: Say) -> None:
    """A server alone, until a signal ends it.

    Raises:
        ConfigError: it does not start, or something else listens on its port.
    """
    with _stopped_by_signals() as stopped, _own_server(options, say, stopped, None) as server:
        say(f"dashboard: {options.address}")
        _watch(stopped, say, server, None)


def work(pool: str, on: Sequence[Device], say: Say) -> None:
    """Workers alone, until a signal ends them.

    Raises:
        ConfigError: no server answers, or it has no such pool.
    """
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with _stopped_by_signals() as stopped, connected() as api:
        try:
            with get_client(sync_client=True) as client:
                client.read_work_pool(pool)
        except ObjectNotFound as error:
            raise ConfigError(f"{api} has no work pool {pool!r}; create it by rl4seg deploy") from error
        workers = Workers(pool, on, say)
        with _own_workers(workers):
            _watch(stopped, say, None, workers)


# --- parts -----------------------------------------------------------------------------------------------------------


@contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    """SIGINT and SIGTERM set the event instead of ending the process."""
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _own_server(
    options: ServerOptions, say: Say, stopped: threading.Event, log: Path | None
) -> Iterator[Child]:
    """A server that answers, for the length of the block; its lines go to a log or are said."""
    server = Child(SERVER, server_command(options), server_environment(options), say, log)
    server.quiet = True  # what it says at its start is for the error message
    server.start()
    try:
        with own_password(), recorded(options.api):
            _wait_until_it_answers(server, options, stopped)
            server.quiet = False
            if log is not None:
                say(f"server: log in {log}")
            yield server
    finally:
        server.end(15.0)


def _wait_until_it_answers(server: Child, options: ServerOptions, stopped: threading.Event) -> None:
    until = time.monotonic() + START_SECONDS
    while True:
        if stopped.wait(0.2):
            raise SystemExit(0)
        ended, late = not server.alive(), time.monotonic() > until
        try:
            if not ended:
                check_server(options.api)
                return
        except ConfigError:
            if not late:
                continue
        said = "\n".join(server.lines).strip() or "nothing"
        what = "ended" if ended else f"does not answer within {START_SECONDS:.0f} s"
        raise ConfigError(
            f"the Prefect server {what} (port {options.port}); choose another port by --port, or mend what it says:\n"
            f"{said}"
        )


@contextmanager
def _own_workers(workers: Workers) -> Iterator[Workers]:
    try:
        workers.start()
        yield workers
    finally:
        workers.stop()


def _watch(stopped: threading.Event, say: Say, server: Child | None, workers: Workers | None) -> None:
    while not stopped.wait(LOOK_SECONDS):
        if server is not None and not server.alive() and server.start_again():
            say("the server had died; started again")
        if workers is not None:
            workers.look_after()
    say("stopping")
