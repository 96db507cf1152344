"""One Prefect worker per GPU, each pinned to its device and limited to one run; and the end of them all.

A worker that dies takes its run along: the run is ended and marked Crashed at once, so that Retry can be pressed, and
the worker is started again. The server's automations do the same, later, where a whole machine has died.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import flows.prefect_settings  # noqa: F401  (sets the environment that workers inherit)
from flows.operations.processes import Child, Say
from flows.operations.runs import mark_crashed, process_of, runs_of
from reward_data.errors import ConfigError

END_SECONDS = 20.0  # for a run to leave its stage and say that it was stopped


class Device(NamedTuple):
    """What a worker is pinned to: its name's ending, and the value of CUDA_VISIBLE_DEVICES."""

    label: str
    visible: str


def devices(gpus: str | None) -> list[Device]:
    """One device per GPU asked for, or per visible one; the CPU where there is none.

    Args:
        gpus: e.g. ``0,1``, or ``none`` for the CPU; None = every GPU in CUDA_VISIBLE_DEVICES or that torch sees.

    Raises:
        ConfigError: a GPU that is not there.
    """
    if gpus is not None and gpus.strip().lower() == "none":
        return [Device("cpu", "")]
    there = _visible_gpus()
    wanted = there if gpus is None else [name.strip() for name in gpus.split(",") if name.strip()]
    missing = [name for name in wanted if name not in there]
    if missing or (gpus is not None and not wanted):
        found = f"the visible ones are {','.join(there)}" if there else "no GPU is visible"
        raise ConfigError(
            f"--gpus {gpus}: {found}; give some of these, or --gpus none for one worker on the CPU"
        )
    if len(set(wanted)) != len(wanted):
        raise ConfigError(f"--gpus {gpus}: a GPU is named twice; each can have one worker")
    return [Device(f"gpu{name}", name) for name in wanted] or [Device("cpu", "")]


def _visible_gpus() -> list[str]:
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    count = [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"]
    said = subprocess.run(count, capture_output=True, text=True, check=False).stdout.strip()
    return [str(index) for index in range(int(said))] if said.isdigit() else []


class Workers:
    """The workers of this machine. Call every method from the main thread.

    Args:
        pool: the work pool that they serve.
        on: one worker each.
        say: shows a line.
    """

    def __init__(self, pool: str, on: Sequence[Device], say: Say) -> None:
        self._say, host = say, socket.gethostname()
        self._scratch = tempfile.TemporaryDirectory(prefix="rl4seg-workers-", ignore_cleanup_errors=True)
        self._running = [
            Child(name, _command(pool, name), _environment(device, self._scratch.name), say)
            for name, device in ((f"{host}-{device.label}", device) for device in on)
        ]

    @property
    def names(self) -> list[str]:
        """Their names, as the dashboard shows them."""
        return [child.name for child in self._running]

    def start(self) -> None:
        """Start all; runs that an earlier worker of the same name has left behind are marked Crashed."""
        for run in runs_of(self.names):
            if process_of(run) is None:
                mark_crashed(run, "Its worker had died. Press Retry: finished stages are kept.")
                self._say(f"{run.name}: left behind by an earlier worker, marked Crashed")
        for child in self._running:
            child.start()
            self._say(f"{child.name}: serves the pool")

    def look_after(self) -> None:
        """Start dead workers again, after their runs have been ended."""
        for child in self._running:
            if child.alive():
                continue
            if child.just_died:
                for name in self._end_runs([child], "Its worker died."):
                    self._say(f"{child.name}: the worker has died, its run is marked Crashed: {name}")
            if child.start_again():
                self._say(f"{child.name}: started again")

    def stop(self) -> None:
        """End all: first what they run, which says so itself, then them. No run stays in Running."""
        for child in self._running:
            child.quiet = True
            child.tell(signal.SIGSTOP)  # takes no new run, and still holds the pipe that its run prints into
        self._end_runs(self._running, "Its worker was stopped.")
        for child in self._running:
            child.wait(5.0)
        self._scratch.cleanup()

    def _end_runs(self, workers: Sequence[Child], why: str) -> list[str]:
        """End what these workers have started, them too, and mark unfinished runs Crashed; returns their names."""
        names = [child.name for child in workers]
        for child in workers:
            child.tell_all(signal.SIGTERM)
        try:
            runs = runs_of(names)
            until = time.monotonic() + END_SECONDS
            while any(process_of(run) for run in runs) and time.monotonic() < until:
                time.sleep(0.2)
            for child in workers:
                child.tell_all(signal.SIGKILL)
            for run in runs and runs_of(names):  # those that could not say so themselves
                mark_crashed(run, f"{why} Press Retry: finished stages are kept.")
        except Exception as error:  # a server that is gone marks them by its automation, once it is back
            self._say(f"{', '.join(names)}: the server did not take what became of their runs ({error!r})")
            return []
        finally:
            for child in workers:
                child.tell_all(signal.SIGKILL)
        return [run.name for run in runs]


def _command(pool: str, name: str) -> list[str]:
    return [
        sys.executable, "-P", "-m", "prefect", "worker", "start", "--type", "process",
        "--pool", pool, "--name", name, "--limit", "1", "--no-create-pool-if-not-found",
    ]  # fmt: skip


def _environment(device: Device, scratch: str) -> dict[str, str]:
    """Ours, with this Python first on the path, as runs are started as ``python``, and a place for leftovers."""
    from prefect.settings import get_current_settings

    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {
        **os.environ,
        **get_current_settings().to_environment_variables(exclude_unset=True),
        "PATH": path,
        "TMPDIR": scratch,
        "CUDA_VISIBLE_DEVICES": device.visible,
        "PREFECT_WORKER_QUERY_SECONDS": os.environ.get("PREFECT_WORKER_QUERY_SECONDS", "2"),
        "PYTHONUNBUFFERED": "1",
    }
