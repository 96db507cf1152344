"""The terminal's view of a review."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from flows.console import console
from flows.review_folder import ReviewFolder
from reward_data.errors import Rl4SegError
from reward_data.review import read_review


def show_review(folder: ReviewFolder) -> None:
    """Print the cases of a review, what is decided about each, and what comes next."""
    export, out = folder.export, console()
    state = "waiting for review" if folder.returned is None else "imported"
    decided, problem = _decided(folder)
    out.print(f"{folder.path}: {state}", highlight=False, soft_wrap=True)
    table = Table("case", "trust", "violated", "decision")
    for case in export.cases:
        violated = escape(", ".join(case.violated))
        table.add_row(escape(case.case), f"{case.trust:.3f}", violated, decided.get(case.case, ""))
    out.print(table)
    if folder.returned is None:
        for message in filter(None, dict.fromkeys((problem, folder.refusal))):
            out.print(f"- {message}", highlight=False, soft_wrap=True, markup=False)
        out.print(
            f"next: rl4seg review import {folder.run}, then rl4seg resume {folder.run}", highlight=False
        )


def _decided(folder: ReviewFolder) -> tuple[dict[str, str], str]:
    """Decision by case id, as imported or, while the review is open, as an import would find it; and what is wrong."""
    try:
        returned = read_review(folder.export, folder.returned or folder.path)
    except Rl4SegError as error:
        return {}, str(error)
    return {item.exported.case: item.decision for item in returned}, ""
