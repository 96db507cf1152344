"""How a running stage shows itself: one line in the terminal, one progress artifact in the dashboard."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from uuid import UUID

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

log = logging.getLogger(__name__)
SPARSE_SECONDS = 30.0  # between lines where there is no terminal to draw a bar in
DASHBOARD_SECONDS = 2.0  # between updates of the progress artifact; shorter stages have none


class StageProgress:
    """A `reward_data.types.Progress` for the length of one stage; use it as a context manager.

    Args:
        label: what is running, e.g. "iteration 2 · PPO".
        console: where to draw; None draws nothing.
        dashboard: whether a Prefect task is running that can own a progress artifact.
    """

    def __init__(self, label: str, console: Console | None = None, dashboard: bool = False) -> None:
        self._label = label
        self._terminal = _terminal(label, console) if console else None
        self._dashboard = _Dashboard(label) if dashboard else None

    def __call__(self, done: int, total: int, metrics: Mapping[str, float] | None = None) -> None:
        """``done`` of ``total`` units are finished; ``metrics`` are the latest values by name."""
        text = metrics_text(metrics or {})
        if self._terminal:
            self._terminal.update(done, total, text)
        if self._dashboard:
            self._dashboard.update(done, total, text)

    def __enter__(self) -> StageProgress:
        if self._terminal:
            self._terminal.start()
        if self._dashboard:
            self._dashboard.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._terminal:
            self._terminal.stop()
        if self._dashboard:
            self._dashboard.stop(finished=error is None)


def metrics_text(metrics: Mapping[str, float]) -> str:
    """``loss 0.3123  dice 0.871``."""
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def stage_line(label: str, status: str, seconds: float | None) -> str:
    """The one line (rich markup) that stays of a finished stage."""
    mark = {"built": "[green]✓[/]", "cached": "[bright_blue]✓[/]"}.get(status, "[red]✗[/]")
    text = status.capitalize() if status != "built" or seconds is None else f"{seconds:.1f} s"
    return f"{mark} {escape(label):<44} {text}"


class _Bar:
    """A live bar that vanishes with its stage."""

    def __init__(self, label: str, console: Console) -> None:
        self._bars = Progress(
            TextColumn("  {task.description:<44}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[metrics]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._task: TaskID = self._bars.add_task(escape(label), total=None, metrics="")

    def start(self) -> None:
        self._bars.start()

    def update(self, done: int, total: int, text: str) -> None:
        self._bars.update(self._task, completed=done, total=total, metrics=escape(text))

    def stop(self) -> None:
        self._bars.stop()


class _Lines:
    """A line now and then, for log files."""

    def __init__(self, label: str, console: Console) -> None:
        self._label, self._console = label, console
        self._last = time.monotonic()

    def start(self) -> None:
        self._last = time.monotonic()

    def update(self, done: int, total: int, text: str) -> None:
        if time.monotonic() - self._last >= SPARSE_SECONDS:
            self._last = time.monotonic()
            self._console.print(f"  {escape(self._label)}  {done}/{total}  {escape(text)}", highlight=False)

    def stop(self) -> None:
        pass


def _terminal(label: str, console: Console) -> _Bar | _Lines:
    return _Bar(label, console) if console.is_terminal else _Lines(label, console)


class _Dashboard:
    """The progress artifact of a Prefect task, kept up to date by a thread: no server can slow a training down."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._latest: tuple[int, int, str] = (0, 0, "")
        self._artifact: UUID | None = None
        self._ended = threading.Event()
        context = contextvars.copy_context()  # with it the artifact belongs to this task run
        self._thread = threading.Thread(target=context.run, args=(self._keep_up,), daemon=True)

    def start(self) -> None:
        self._thread.start()

    def update(self, done: int, total: int, text: str) -> None:
        self._latest = (done, total, text)

    def stop(self, finished: bool) -> None:
        if finished:
            _, total, text = self._latest
            self._latest = (total, total, text)
        self._ended.set()
        self._thread.join(DASHBOARD_SECONDS)

    def _keep_up(self) -> None:
        sent = self._latest
        while not self._ended.wait(DASHBOARD_SECONDS):
            sent = self._send_if_new(sent)
        if self._artifact is not None:
            self._send_if_new(sent)

    def _send_if_new(self, sent: tuple[int, int, str]) -> tuple[int, int, str]:
        latest = self._latest
        if latest == sent:
            return sent
        try:
            self._send(*latest)
        except (
            Exception
        ) as error:  # whatever a server or its client may raise: it is only a picture of the work
            log.info("%s: the dashboard does not take progress (%r)", self._label, error)
        return latest

    def _send(self, done: int, total: int, text: str) -> None:
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        percent = min(100.0, 100.0 * done / max(total, 1))
        description = f"{self._label}: {done} of {total}  {text}".rstrip()
        if self._artifact is None:
            created = create_progress_artifact(percent, description=description)
            self._artifact = created if isinstance(created, UUID) else None
        else:
            update_progress_artifact(self._artifact, percent, description=description)
