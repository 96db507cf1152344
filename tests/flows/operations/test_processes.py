"""Supervised processes: their lines, their end, and how often they are started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.operations import processes
from flows.operations.processes import Child
from tests.flows.operations.pool import wait_for
from tests.flows.tiny import is_alive

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc which processes there are")
PARENT = "import subprocess, sys, time; print('begun', flush=True); subprocess.Popen(['sleep', '60']); time.sleep(60)"


def child(code: str, said: list[str], log: Path | None = None) -> Child:
    made = Child("name", [sys.executable, "-c", code], dict(os.environ), said.append, log)
    made.start()
    return made


def test_its_lines_have_its_name() -> None:
    said: list[str] = []
    one = child("print('first'); print(); print('second')", said)
    assert one.wait(20)
    wait_for(lambda: len(said) == 2, 5, "both lines")
    assert said == ["[name] first", "[name] second"]
    one.end(1)


def test_its_lines_go_to_a_log_instead(tmp_path: Path) -> None:
    said: list[str] = []
    one = child("print('first')", said, tmp_path / "new" / "log")
    one.wait(20)
    one.end(1)
    assert (tmp_path / "new" / "log").read_text() == "first\n"
    assert said == []
    assert list(one.lines) == ["first"]


def test_it_ends_when_asked_and_is_killed_when_it_will_not() -> None:
    said: list[str] = []
    stubborn = (
        "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    for code in ("import time; print('up', flush=True); time.sleep(60)", stubborn):
        one = child(code, said)
        wait_for(lambda: said, 20, "it has begun")
        assert one.alive()
        one.end(0.5)
        assert not one.alive()
        said.clear()


def test_everything_that_it_started_is_told_even_after_its_own_death() -> None:
    said: list[str] = []
    one = child(PARENT, said)
    wait_for(lambda: said, 20, "it has begun")
    below = Path(f"/proc/{one.pid}/task/{one.pid}/children")
    grandchild = int(wait_for(lambda: below.read_text().split(), 5, "a grandchild")[0])
    one.tell(signal.SIGKILL)
    one.wait(5)
    assert is_alive(grandchild)
    one.tell_all(signal.SIGKILL)
    wait_for(lambda: not is_alive(grandchild), 5, "the grandchild has ended")
    one.tell_all(signal.SIGKILL)  # nobody is left: nothing happens


def test_it_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from flows.operations.processes import Child\n"
        "one = Child('name', ['sleep', '60'], dict(os.environ), print); one.start()\n"
        "print(one.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    wait_for(lambda: Path(f"/proc/{pid}/comm").read_text().strip() == "sleep", 10, "it runs its program")
    parent.kill()
    parent.wait()
    wait_for(lambda: not is_alive(pid), 5, "the child has ended too")


def test_what_keeps_dying_is_started_again_ever_later(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(processes.time, "monotonic", lambda: now[0])
    said: list[str] = []
    one = child("pass", said)
    pauses = []
    for _ in range(8):
        one.wait(20)
        assert not one.start_again()
        asked = now[0]
        while not one.start_again():
            now[0] += 0.5
        pauses.append(now[0] - asked)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    now[0] += 61  # this one has lived long enough
    one.wait(20)
    assert not one.start_again()
    now[0] += 1
    assert one.start_again()
    monkeypatch.setattr(processes.time, "monotonic", time.perf_counter)
    one.end(5)
