"""Waiting for an expert without holding a worker: a suspended run with a form, or a polite end.

A run of a deployment is suspended: its process ends, its worker takes the next run, and Resume (in the dashboard with
the form, by `rl4seg resume`, or by the API) sends it back to the pool, where it answers every finished stage from the
store and comes here again. An answer that cannot be used is refused with one error, and the run is suspended again.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal, NoReturn

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.exceptions import Pause
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.logging import get_run_logger
from prefect.states import Completed
from pydantic import Field, create_model

from flows.dashboard import publish_stage
from flows.review_folder import ReviewFolder, in_words
from flows.review_tasks import ReviewExport
from flows.stages import current_environment
from reward_data.errors import Rl4SegError
from reward_data.expert import DECISIONS, Decision
from reward_data.review import SHEET, Answers

STATE = "WaitingForReview"
AS_WRITTEN = "as in the files"
MOST_FIELDS = 60  # cases that the form lists one by one; more are decided in cases.csv

Word = Literal["as in the files", "accept", "correct", "reject", "skip"]


class Waiting(Pause, SystemExit):
    """Ends a run that waits: Prefect leaves its state alone, and the process ends with exit code 0."""


def wait(folder: ReviewFolder, label: str, export: ReviewExport) -> None:
    """Return once something has been taken in, or end the run in the meantime.

    Raises:
        Waiting: nobody has answered yet, and no worker runs this.
        Pause: as Prefect does when it suspends the run.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or context.flow_run.deployment_id is None:
        _tell(folder, label, export)
        _end(folder, context)
    key = f"{folder.pause_key}-{export.digest[:8]}-{folder.refusals}"  # answered once, it returns at once
    try:
        answer = suspend_flow_run(wait_for_input=form(folder), key=key)
    except Pause:
        _tell(folder, label, export)
        raise
    take_answer(folder, answer)


def take_answer(folder: ReviewFolder, answer: Any) -> None:
    """Take in what a form says; what cannot be used is refused, and everything stays as it was."""
    logger = get_run_logger() if FlowRunContext.get() is not None else logging.getLogger(__name__)
    decisions = dict[str, Decision]()
    for number, case in enumerate(folder.export.cases):
        word = getattr(answer.decisions, _name(number), AS_WRITTEN)
        if word in DECISIONS:
            decisions[case.case] = DECISIONS[DECISIONS.index(word)]
    place = Path(answer.folder) if answer.folder else folder.path
    try:
        returned = folder.take(place, Answers(decisions, answer.accept_all))
    except Rl4SegError as error:
        folder.refuse(str(error))
        logger.error("the review is refused, the run waits on: %s", error)
    else:
        logger.info("review: %s", in_words(returned))


def form(folder: ReviewFolder) -> type[RunInput]:
    """The form that the dashboard's Resume shows: accept all, a decision per case, a folder of corrected masks."""
    fields: dict[str, Any] = {}
    for number, case in enumerate(folder.export.cases[:MOST_FIELDS]):
        about = f"trust {case.trust:.3f}" + (f", breaks {', '.join(case.violated)}" if case.violated else "")
        fields[_name(number)] = (Word, Field(default=AS_WRITTEN, title=case.case, description=about))
    decisions = create_model("Decisions", **fields)
    whole: type[RunInput] = create_model(
        "ReviewAnswer",
        __base__=RunInput,
        accept_all=(
            bool,
            Field(default=False, description="Accept every mask that nobody has changed or decided about."),
        ),
        decisions=(
            decisions,
            Field(default=decisions(), description="Per case; they win over cases.csv."),
        ),
        folder=(
            str,
            Field(
                default="",
                description="Folder of corrected masks, as the worker sees it; empty = the export's own.",
            ),
        ),
    )
    return whole.with_initial_data(description=_description(folder))


def _name(number: int) -> str:
    return f"case_{number + 1:03d}"


def _description(folder: ReviewFolder) -> str:
    refused = f"**Refused:** {folder.refusal}\n\n" if folder.refusal else ""
    return (
        f"{refused}{len(folder.export.cases)} cases are in `{folder.path.resolve()}`. Correct masks there, or decide "
        "here or in `cases.csv`, then Submit. README.txt says how; nothing is used before all of it is checked."
    )


def _tell(folder: ReviewFolder, label: str, export: ReviewExport) -> None:
    """Say in the run folder, on the console and in the dashboard what is waited for."""
    here = current_environment()
    message = folder.next_steps
    if here.run_folder is not None:
        place = here.run_folder.begin("review", f"{label} · review", export.key, "Review")
        here.run_folder.finish(place, "waiting", error=message)
    if here.console is not None:
        here.console.print(message, highlight=False, soft_wrap=True)
    sheet = folder.path / SHEET
    figures = {"cases": len(folder.export.cases)}
    publish_stage(
        f"{label} · review", "review", figures, None, sheet.read_bytes() if sheet.is_file() else None
    )


def _end(folder: ReviewFolder, context: FlowRunContext | None) -> NoReturn:
    """End a run that no worker has started: nothing can start it anew but its command."""
    if context is None or context.flow_run is None:
        raise Waiting()
    state: State[Any] = Completed(name=STATE, message=folder.next_steps)
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(context.flow_run.id, state, force=True)
    raise Waiting(state=state)
