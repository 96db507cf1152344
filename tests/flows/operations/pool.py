"""`rl4seg up` and its relatives as real processes, and the server's API as the dashboard uses it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from tests.flows.tiny import is_alive

CLI = str(Path(sys.executable).with_name("rl4seg"))
START_SECONDS = 180.0  # with SQLite a server may stand still for a minute
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def descendants(pid: int) -> list[int]:
    """Every process below one, children before grandchildren."""
    found = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *descendants(child)]
    return found


def environment_of(pid: int) -> dict[str, str]:
    """The environment that a process was started with."""
    entries = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def wait_for(what: Callable[[], Any], seconds: float, why: str) -> Any:
    """The first true answer of ``what()``."""
    until = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < until, f"not within {seconds:.0f} s: {why}"
        time.sleep(0.05)
    return answer


# --- the API ---------------------------------------------------------------------------------------------------------


@dataclass
class Api:
    """The server's REST API, with a CSRF token as browsers have one."""

    url: str
    password: str | None = None

    def __post_init__(self) -> None:
        auth = tuple(self.password.split(":", 1)) if self.password else None
        self.http = httpx.Client(base_url=self.url + "/", auth=auth, timeout=90)  # type: ignore[arg-type]

    def headers(self) -> dict[str, str]:
        client = str(uuid4())
        answer = self.http.get("csrf-token", params={"client": client})
        return {"Prefect-Csrf-Client": client, "Prefect-Csrf-Token": answer.json()["token"]}

    def post(self, path: str, content: Any) -> Any:
        answer = self.http.post(path, json=content, headers=self.headers())
        assert answer.status_code < 300, f"{path}: {answer.status_code} {answer.text}"
        return answer.json()

    def get(self, path: str) -> Any:
        return self.http.get(path).raise_for_status().json()

    def run(self, run_id: str) -> dict[str, Any]:
        run: dict[str, Any] = self.get(f"flow_runs/{run_id}")
        return run

    def state(self, run_id: str) -> str:
        return str(self.run(run_id)["state"]["type"])

    def wait(self, run_id: str, *states: str, seconds: float = START_SECONDS) -> dict[str, Any]:
        """Wait until a run is in one of the states (type); an end that was not asked for fails at once."""

        def there() -> dict[str, Any] | None:
            run = self.run(run_id)
            if run["state"]["type"] in states:
                return run
            assert run["state"]["type"] not in ENDED, f"{run['state']}\n{self.logs(run_id)}"
            return None

        found: dict[str, Any] = wait_for(there, seconds, f"{run_id} is {states}")
        return found

    def retry(self, run_id: str) -> None:
        """What the dashboard's Retry button sends, at a hand's speed: a worker says twice that a run has crashed."""
        until = time.monotonic() + 10
        while time.monotonic() < until and len(self.crashes(run_id)) == 1:
            time.sleep(0.2)
        state = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from the UI"}
        answer = self.post(f"flow_runs/{run_id}/set_state", {"state": state, "force": True})
        assert answer["status"] == "ACCEPT", answer

    def crashes(self, run_id: str) -> list[str]:
        """When it was said that a run has crashed."""
        states = self.get(f"flow_run_states/?flow_run_id={run_id}")
        return [state["timestamp"] for state in states if state["type"] == "CRASHED"]

    def cancel(self, run_id: str) -> None:
        """What the dashboard's Cancel button sends."""
        answer = self.post(f"flow_runs/{run_id}/set_state", {"state": {"type": "CANCELLING"}, "force": False})
        assert answer["status"] == "ACCEPT", answer

    def tasks(self, run_id: str) -> dict[str, str]:
        """Task name -> name of its latest state, of the latest try."""
        wanted = {"flow_runs": {"id": {"any_": [run_id]}}, "sort": "EXPECTED_START_TIME_ASC"}
        return {task["name"]: task["state_name"] for task in self.post("task_runs/filter", wanted)}

    def logs(self, run_id: str) -> str:
        wanted = {"logs": {"flow_run_id": {"any_": [run_id]}}, "sort": "TIMESTAMP_ASC"}
        return "\n".join(line["message"] for line in self.post("logs/filter", wanted))


# --- processes -------------------------------------------------------------------------------------------------------


@dataclass
class Command:
    """A command of ours that runs until it is stopped; its lines are read as they come."""

    process: subprocess.Popen[str]
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line.rstrip())

    def wait_for(self, text: str, seconds: float = START_SECONDS) -> str:
        """The first line with this text in it."""

        def found() -> str | None:
            line = next((line for line in self.said if text in line), None)
            assert line or self.process.poll() is None, "ended:\n" + "\n".join(self.said)
            return line

        line: str = wait_for(found, seconds, f"{text!r} in what it says:\n" + "\n".join(self.said))
        return line

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = 60) -> int:
        """Send the signal, wait for the end; returns the exit code. Every process below it must be gone."""
        below = descendants(self.process.pid)
        self.process.send_signal(number)
        code = self.process.wait(timeout=seconds)
        wait_for(lambda: not any(map(is_alive, below)), 15, f"processes left behind: {below}")
        return code

    def kill(self) -> None:
        """End it and what is below it, at the end of a test that failed."""
        for pid in [*descendants(self.process.pid), self.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


@dataclass
class Place:
    """A PREFECT_HOME of its own, a working folder, and a port."""

    folder: Path
    port: int = field(default_factory=free_port)
    commands: list[Command] = field(default_factory=list)

    @property
    def api(self) -> Api:
        return Api(f"http://127.0.0.1:{self.port}/api")

    def environment(self, **more: str) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "CUDA_"))}
        own = {"PREFECT_HOME": str(self.folder / "prefect"), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        return {**inherited, **own, **more}

    def start(self, *arguments: str, **environment: str) -> Command:
        """Start ``rl4seg ARGUMENTS`` in the working folder."""
        process = subprocess.Popen(
            [CLI, *arguments],
            cwd=self.folder,
            env=self.environment(**environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.commands.append(Command(process))
        return self.commands[-1]

    def up(self, *arguments: str, **environment: str) -> Command:
        """``rl4seg up`` with one CPU worker, until it is ready."""
        if "CUDA_VISIBLE_DEVICES" not in environment:
            arguments = ("--gpus", "none", *arguments)
        command = self.start("up", "--port", str(self.port), *arguments, **environment)
        command.wait_for("dashboard:")
        return command

    def call(self, *arguments: str, code: int = 0, **environment: str) -> str:
        """Run ``rl4seg ARGUMENTS`` to its end; returns what it says."""
        done = subprocess.run(
            [CLI, *arguments],
            cwd=self.folder,
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            timeout=3600,
            check=False,
        )
        said = done.stdout + done.stderr
        assert done.returncode == code, f"rl4seg {' '.join(arguments)} gave {done.returncode}:\n{said}"
        return said

    def submit(self, config: Path | str, *overrides: str) -> str:
        """Send a run to the pool; returns its id."""
        return self.call("submit", str(config), *overrides).strip().splitlines()[-1].rpartition("/")[2]

    def close(self) -> None:
        for command in self.commands:
            if command.process.poll() is None:
                command.kill()


def flow_process(api: Api, run_id: str) -> int:
    """The process of a run, once it has one that is alive."""

    def there() -> int | None:
        pid = int(api.run(run_id)["infrastructure_pid"] or 0)
        return pid if pid and is_alive(pid) else None

    found: int = wait_for(there, START_SECONDS, f"a process of {run_id}")
    return found


def lineage(output: Path, name: str = "tiny") -> list[dict[str, Any]]:
    """The stages of a run so far."""
    file = output / name / "lineage.json"
    if not file.exists():
        return []
    rows: list[dict[str, Any]] = json.loads(file.read_text())["stages"]
    return rows


def wait_for_stage(output: Path, label: str, status: str = "running", name: str = "tiny") -> None:
    """Wait until a stage of a run is there."""
    wait_for(
        lambda: any((row["label"], row["status"]) == (label, status) for row in lineage(output, name)),
        START_SECONDS,
        f"{label} is {status}",
    )


def digests(output: Path, name: str = "tiny") -> dict[str, str]:
    """Stage label -> digest of its artifact, the report apart, whose table holds wall times."""
    return {row["label"]: row["digest"] for row in lineage(output, name) if row["stage"] != "write_report"}


@contextlib.contextmanager
def place(folder: Path) -> Iterator[Place]:
    """A `Place` whose processes end with the block."""
    folder.mkdir(parents=True, exist_ok=True)
    here = Place(folder)
    try:
        yield here
    finally:
        here.close()
