"""A run through the worker, killed at random moments: ``python -m tests.benchmarks.kills [CONFIG] [--kills 20]``.

First the run as `rl4seg run` and undisturbed through `rl4seg submit`, for their times and digests; then again with a
store of its own while it is killed (kill -9 of the flow, or of the worker and the flow) and retried, until it has been
killed that often. Ends with exit code 1 where a digest differs, or a process, a held lock or a temporary file stays.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.flows.operations.pool import Place, descendants, digests, flow_process, lineage, place
from tests.flows.tiny import is_alive

NAME = "killed"


def worker_of(here: Place) -> int:
    """The Prefect worker below `rl4seg up`."""
    for pid in descendants(here.commands[0].process.pid):
        if is_alive(pid) and b"worker\0start" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    raise LookupError("no worker")


def kill(here: Place, run_id: str, rng: random.Random) -> str:
    """Kill the run's process, or its worker and then the process; returns where it was."""
    pids = [flow_process(here.api, run_id)]
    if rng.random() < 0.3:
        pids.insert(0, worker_of(here))
    stage = next((row["label"] for row in reversed(lineage(here.folder / "killed", NAME))), "start")
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return f"{'worker and flow' if len(pids) > 1 else 'flow':<16} in {stage}"


def disturbed(here: Place, arguments: list[str], kills: int, seconds: float, rng: random.Random) -> int:
    """One run, killed at most so often; how often it was."""
    run_id = here.submit(*arguments)
    for count in range(kills):
        here.api.wait(run_id, "RUNNING", "COMPLETED")
        until = time.monotonic() + rng.uniform(0, 2 * seconds / kills + 5)
        while time.monotonic() < until and here.api.state(run_id) == "RUNNING":
            time.sleep(0.05)
        if here.api.state(run_id) == "COMPLETED":
            return count
        print(f"kill {count + 1:>3}: {kill(here, run_id, rng)}", flush=True)
        here.api.wait(run_id, "CRASHED", seconds=120)
        here.api.retry(run_id)
    here.api.wait(run_id, "COMPLETED", seconds=3600)
    return kills


def left_behind(store: Path, run: Path) -> list[str]:
    """Half-written artifacts, checkpoints, held locks and temporary files."""
    left = [str(path) for name in ("_building", "_checkpoints") for path in (store / name).iterdir()]
    for lock in (store / "_locks").iterdir():
        with lock.open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                left.append(f"held: {lock}")
    return left + [str(path) for path in run.glob(".*")]


def main() -> int:
    """Run, kill, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", nargs="?", default="auto_iteration/demo")
    parser.add_argument("overrides", nargs="*", default=[])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    base, rng = [asked.config, f"name={NAME}", *asked.overrides], random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as folder, place(Path(folder)) as here:
        scratch = here.folder / "tmp"
        scratch.mkdir()
        started = time.monotonic()
        here.call("run", *base, "output=direct")
        direct = time.monotonic() - started
        wanted = digests(here.folder / "direct", NAME)
        up = here.up(TMPDIR=str(scratch))
        started = time.monotonic()
        here.call("submit", *base, "output=undisturbed", "--watch")
        submitted = time.monotonic() - started
        print(f"rl4seg run {direct:.0f} s, through the worker {submitted:.0f} s", flush=True)
        same = [digests(here.folder / "undisturbed", NAME) == wanted]
        killed, round_ = 0, 0
        while killed < asked.kills:
            round_ += 1
            output = here.folder / "killed"
            killed += disturbed(here, [*base, f"output={output}"], asked.kills - killed, submitted, rng)
            same.append(digests(output, NAME) == wanted)
            left = left_behind(output / "store", output / NAME)
            print(
                f"run {round_}: completed, digests {'equal' if same[-1] else 'DIFFER'}, left behind: {left}"
            )
            same.append(not left)
            output.rename(here.folder / f"killed-{round_}")
        below = descendants(up.process.pid)
        code = up.stop()
        processes = [pid for pid in below if is_alive(pid)]
        files = [str(path) for path in scratch.iterdir()]
        print(f"{killed} kills; rl4seg up ended with {code}; processes left {processes}, files left {files}")
    return int(not all(same) or code != 0 or bool(processes) or bool(files))


if __name__ == "__main__":
    sys.exit(main())
