"""The cached-task decorator: a function that writes files becomes a stage that returns a typed reference.

A stage's key covers its name, the code that it reaches, and its arguments: configurations field by field, artifacts by
their digest; never a path, a device or a label. A stored artifact of that key, verified byte by byte, is the answer;
otherwise the function runs under the key's lock. Keys hold the digests of inputs: where a lost artifact is built again
with the same bytes, its intact dependents stay Cached; with other bytes, they have other keys and run.
"""

from __future__ import annotations

import contextvars
import copy
import inspect
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec

from rich.console import Console

from flows.progress import StageProgress, stage_line
from flows.run_folder import RunFolder, Status
from flows.stage_keys import refs_in, stage_key
from flows.store import ArtifactRef, ArtifactStore, Comparison, RefT, Report
from reward_data.errors import ArtifactError
from reward_data.types import Progress
from rl4seg.configs.runtime import RuntimeConfig

if TYPE_CHECKING:
    from rl4seg.runtime import Runtime

P = ParamSpec("P")
METRICS = "figures.json"
log = logging.getLogger(__name__)
_active: contextvars.ContextVar[StageEnvironment] = contextvars.ContextVar("stage_environment")


# --- what surrounds a stage ------------------------------------------------------------------------------------------


class Restart:
    """Which stages run anew although their artifacts stand: a chosen one, and all that are made from it.

    Args:
        chosen: whether a stage of this label is the chosen one.
        began: when the run began (seconds since the epoch); an artifact built later is not built again.
    """

    def __init__(self, chosen: Callable[[str], bool], began: float) -> None:
        self._chosen, self._began = chosen, began
        self._anew: set[str] = set()

    def since(self, labels: Iterable[str], key: str, inputs: Iterable[ArtifactRef]) -> float | None:
        """The time before which an artifact of this stage is no answer; None = whenever it was built."""
        if not any(map(self._chosen, labels)) and self._anew.isdisjoint(ref.key for ref in inputs):
            return None
        self._anew.add(key)
        return self._began


@dataclass(frozen=True)
class StageEnvironment:
    """Where stages run: set once by the flow, never an argument of a stage and never part of a key.

    With a ``plan`` nothing runs: every stage adds its label there and answers with a reference to nothing.
    ``prefix`` goes before every label on console and dashboard, e.g. "seed 0 · " in a run of several seeds.
    """

    store: ArtifactStore
    run_folder: RunFolder | None = None
    console: Console | None = None
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    restart: Restart | None = None
    plan: list[str] | None = None
    prefix: str = ""

    def publish(self, ref: RefT) -> RefT:
        """Copy the report into the run folder, if any, and show it in the dashboard; returns the reference."""
        if self.plan is not None:
            return ref
        folder = self.store.path(ref)
        if self.run_folder is not None:
            self.run_folder.publish(folder)
        if _inside_flow():
            from flows.dashboard import publish_comparison, publish_report

            send = publish_comparison if isinstance(ref, Comparison) else publish_report
            send(self.run_folder.path if self.run_folder else None, folder)
        return ref


@contextmanager
def environment(active: StageEnvironment) -> Iterator[StageEnvironment]:
    """Make an environment the one that stages called inside the block use."""
    token = _active.set(active)
    try:
        yield active
    finally:
        _active.reset(token)


def current_environment() -> StageEnvironment:
    """The environment of the enclosing `environment` block.

    Raises:
        ArtifactError: there is none.
    """
    try:
        return _active.get()
    except LookupError as error:
        raise ArtifactError(
            "a stage was called without a store; wrap the call: with environment(StageEnvironment(store)): ..."
        ) from error


@dataclass(frozen=True)
class StageContext:
    """What a running stage has. ``out``: its empty output folder. ``checkpoint``: kept if it is killed."""

    out: Path
    checkpoint: Path
    progress: Progress
    environment: StageEnvironment
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> str:
        """The device asked for, e.g. ``auto`` or ``cuda:1``."""
        return self.environment.runtime.device

    def runtime(self) -> Runtime:
        """Device, precision and threads, resolved; imports torch."""
        from rl4seg.runtime import start

        return start(self.environment.runtime)

    def path(self, ref: ArtifactRef) -> Path:
        """The folder of an input artifact, verified; see `ArtifactStore.path`."""
        return self.environment.store.path(ref)

    def record(self, **values: float | int | str | bool | None) -> None:
        """Add figures to the artifact's figures.json. They must repeat from run to run: no times, no paths."""
        self.metrics.update(values)


# --- stages ----------------------------------------------------------------------------------------------------------


class Stage(Generic[P, RefT]):
    """A cached stage; call it like its function without the context. Inside a flow every call is a task run."""

    def __init__(
        self, function: Callable[Concatenate[StageContext, P], None], kind: type[RefT], title: str
    ) -> None:
        self._function, self._kind, self._title, self._label = function, kind, title, title
        self.__name__, self.__doc__ = function.__name__, function.__doc__

    def named(self, label: str) -> Stage[P, RefT]:
        """The same stage under another label, e.g. "iteration 2 · PPO"; the label is no part of the key."""
        other = copy.copy(self)
        other._label = label
        return other

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> RefT:
        """The artifact for these arguments: a Prefect task run inside a flow, else like `direct`.

        Raises:
            Rl4SegError: as the stage's function does.
        """
        plan = current_environment().plan
        if plan is not None:
            plan += dict.fromkeys((self._shown_label, self._label))
            return self._kind(key=f"planned-{len(plan)}", digest=f"planned-{len(plan)}", size=0)
        if not _inside_flow():
            return self.direct(*args, **kwargs)
        inputs = list(refs_in(self._bound(*args, **kwargs)))
        return _run_as_task(self._title, self._shown_label, inputs, lambda: self._run(True, *args, **kwargs))

    def direct(self, *args: P.args, **kwargs: P.kwargs) -> RefT:
        """The artifact for these arguments, without Prefect."""
        return self._run(False, *args, **kwargs)[0]

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The stage key of these arguments.

        Raises:
            TypeError: an argument that no key can hold.
        """
        return stage_key(self._function, self._kind, self._bound(*args, **kwargs))

    @property
    def _shown_label(self) -> str:
        return current_environment().prefix + self._label

    def _bound(self, *args: P.args, **kwargs: P.kwargs) -> dict[str, Any]:
        bound = inspect.signature(self._function).bind(None, *args, **kwargs)
        bound.apply_defaults()
        return dict(list(bound.arguments.items())[1:])

    def _run(self, dashboard: bool, *args: P.args, **kwargs: P.kwargs) -> tuple[RefT, bool]:
        """(the artifact, whether it was there already), noted in the run folder and shown on the console."""
        here, arguments = current_environment(), self._bound(*args, **kwargs)
        key = stage_key(self._function, self._kind, arguments)
        inputs = list(refs_in(arguments))
        made_from = tuple(ref.digest for ref in inputs)
        labels = (self._label, self._shown_label)
        since = here.restart.since(labels, key, inputs) if here.restart else None
        with _Note(here, self.__name__, self._label, key, self._kind.__name__) as note:

            def build(out: Path, checkpoint: Path) -> None:
                note.status = "built"
                with StageProgress(self._shown_label, here.console, dashboard) as progress:
                    context = StageContext(out, checkpoint, progress, here)
                    self._function(context, *args, **kwargs)
                if context.metrics:
                    text = json.dumps(context.metrics, indent=1, sort_keys=True)
                    (out / METRICS).write_text(text + "\n", encoding="utf-8")

            ref = here.store.lookup(key, self._kind, since)
            if ref is None:
                ref = here.store.build(key, self._kind, made_from, build, self._shown_label, since)
            note.ref = ref
        if (
            dashboard and note.status == "built" and not isinstance(ref, Report | Comparison)
        ):  # the flow shows them
            _show(here, self.__name__, self._shown_label, ref, arguments)
        return ref, note.status == "cached"


def stage(
    kind: type[RefT], *, title: str
) -> Callable[[Callable[Concatenate[StageContext, P], None]], Stage[P, RefT]]:
    """Make a stage of ``function(context, ...)`` whose files in ``context.out`` become an artifact of ``kind``.

    ``title`` is the task's name in the dashboard. Training stages leave their curves in ``history.csv``.
    """
    return lambda function: Stage(function, kind, title)


class _Note:
    """One stage's line on the console and row in lineage.json, from its start to its end."""

    def __init__(self, here: StageEnvironment, stage: str, label: str, key: str, kind: str) -> None:
        self._here, self._label, self._key = here, label, key
        self.status: Status = "cached"
        self.ref: ArtifactRef | None = None
        self._place = here.run_folder.begin(stage, label, key, kind) if here.run_folder else 0

    def __enter__(self) -> _Note:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        values: dict[str, Any] = {}
        if self.ref is None:
            self.status, values = "failed", {"error": str(error) or repr(error)}
        else:
            metrics = self._here.store.root / self._key / METRICS
            values = self.ref.model_dump(include={"digest", "size", "made_from"})
            values |= {"path": self._key, "seconds": self._here.store.seconds(self._key)}
            values["metrics"] = json.loads(metrics.read_text()) if metrics.is_file() else {}
        if self._here.run_folder:
            self._here.run_folder.finish(self._place, self.status, **values)
        if self._here.console:
            self._here.console.print(
                stage_line(self._here.prefix + self._label, self.status, values.get("seconds")),
                highlight=False,
            )


# --- Prefect ---------------------------------------------------------------------------------------------------------


def _show(
    here: StageEnvironment, stage: str, label: str, ref: ArtifactRef, arguments: Mapping[str, Any]
) -> None:
    """Let the dashboard have figures and a picture of what a stage has made; no failure here fails the stage."""
    from flows.dashboard import publish_stage, stage_figures
    from flows.reporting.stage_pictures import picture

    folder = here.store.root / ref.key
    png, figures = None, dict[str, Any]()
    try:
        figures = stage_figures(folder)
        png = picture(
            stage, folder, {name: _paths(here.store.root, value) for name, value in arguments.items()}
        )
    except Exception as error:  # whatever drawing raises: the artifact stands all the same
        log.info("%s: no picture (%r)", label, error)
    publish_stage(label, stage, figures, here.store.seconds(ref.key), png)


def _paths(root: Path, value: Any) -> Any:
    """An argument with every artifact replaced by its folder."""
    if isinstance(value, ArtifactRef):
        return root / value.key
    return tuple(_paths(root, item) for item in value) if isinstance(value, tuple) else value


def _inside_flow() -> bool:
    """Whether a Prefect flow is running here; where nobody has imported Prefect, none is."""
    if "prefect" not in sys.modules:
        return False
    from prefect.context import FlowRunContext

    return FlowRunContext.get() is not None


def _run_as_task(
    title: str, label: str, inputs: list[ArtifactRef], work: Callable[[], tuple[RefT, bool]]
) -> RefT:
    """Run ``work`` as a task run that ends as Completed, Cached or Failed; Prefect itself keeps no result.

    A flow run that is retried from the dashboard calls every stage again, and the store answers. The task's ``inputs``
    and its result are there for the arrows of the dashboard's graph.
    """
    from prefect import State, task
    from prefect.cache_policies import NO_CACHE
    from prefect.logging import get_run_logger
    from prefect.states import Completed

    from flows.prefect_settings import quiet_user_errors

    quiet_user_errors()
    done: list[RefT] = []

    def run(inputs: list[ArtifactRef]) -> State[Any]:
        ref, cached = work()
        done.append(ref)
        get_run_logger().info("%s: %s %s", label, "cached" if cached else "built", ref.key[:12])
        return Completed(
            name="Cached" if cached else "Completed", message=f"{ref.kind} {ref.key[:12]}", data=ref
        )

    name = label.replace("{", "{{").replace("}", "}}")
    options = task(name=title, task_run_name=name, cache_policy=NO_CACHE, persist_result=False)
    options(run)(inputs)
    return done[0]
