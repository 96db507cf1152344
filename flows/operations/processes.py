"""Child processes that are supervised: their lines shown under their names, started again when they die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

Say = Callable[[str], None]
QUICK_SECONDS = 60.0  # a child that lives shorter is started again ever later
LONGEST_PAUSE = 60.0
LINES_KEPT = 40
# On Linux the kernel sends a child SIGTERM when its parent dies, even by kill -9: PR_SET_PDEATHSIG of prctl(2).
_BIND = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execvp(sys.argv[1], sys.argv[1:])"
_BOUND = (sys.executable, "-S", "-c", _BIND) if sys.platform == "linux" else ()


class Child:
    """A process in a session of its own, so that Ctrl-C reaches its parent alone; it is ended if that one is killed.

    Args:
        name: shown before each of its lines.
        command: program and arguments.
        environment: all of its environment.
        say: shows a line.
        log: a file that takes its lines instead; begun anew at every start of this object.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        say: Say,
        log: Path | None = None,
    ) -> None:
        self.name = name
        self.lines: deque[str] = deque(maxlen=LINES_KEPT)
        self.quiet = False
        self._command, self._environment, self._say, self._log = command, dict(environment), say, log
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text("")
        self._pause, self._again_at, self._started = 0.0, 0.0, 0.0
        self._process: subprocess.Popen[str] | None = None
        self._relay: threading.Thread | None = None

    def start(self) -> None:
        """Start it; call this from the main thread."""
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            [*_BOUND, *self._command],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._relay = threading.Thread(target=self._show, args=(self._process,), daemon=True)
        self._relay.start()

    @property
    def pid(self) -> int:
        """Its process id; 0 before the first start."""
        return self._process.pid if self._process else 0

    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def just_died(self) -> bool:
        """Whether it has ended and nobody has asked for another start yet."""
        return not self.alive() and not self._again_at

    def start_again(self) -> bool:
        """Start it anew where it has died, after a pause that grows while it keeps dying; whether it was started."""
        now = time.monotonic()
        if not self._again_at:
            lived = now - self._started
            self._pause = 1.0 if lived > QUICK_SECONDS else min(max(2 * self._pause, 1.0), LONGEST_PAUSE)
            self._again_at = now + self._pause
        if now < self._again_at:
            return False
        self._again_at = 0.0
        self.start()
        return True

    def tell(self, number: signal.Signals) -> None:
        """Send it a signal; nothing happens where it has ended."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def tell_all(self, number: signal.Signals) -> None:
        """Send a signal to it and to everything that it has started, also after it has died itself."""
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def end(self, seconds: float) -> None:
        """Ask it to end, wait that long, then kill it."""
        self.tell(signal.SIGTERM)
        self.wait(seconds)
        self.tell(signal.SIGKILL)
        self.wait(seconds)
        if self._relay is not None:
            self._relay.join(timeout=1.0)

    def wait(self, seconds: float) -> bool:
        """Wait until it has ended; whether it has."""
        try:
            if self._process is not None:
                self._process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _show(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            text = line.rstrip()
            self.lines.append(text)
            if self._log is not None:
                with self._log.open("a", encoding="utf-8") as stream:
                    stream.write(line)
            elif text and not self.quiet:
                self._say(f"[{self.name}] {text}")
