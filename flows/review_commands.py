"""`rl4seg review`: what a run waits for, and what comes back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from flows.review_folder import ReviewFolder

review = typer.Typer(
    help="The expert in the loop: what a run waits for, and what comes back.", no_args_is_help=True
)

Run = Annotated[Path, typer.Argument(help="A run folder, e.g. runs/demo.")]
Iteration = Annotated[
    int | None,
    typer.Option(min=1, help="Review after this iteration; default: the one that is open, else the last."),
]


@review.command("import")
def take(
    run: Run,
    folder: Annotated[
        Path | None,
        typer.Argument(help="Corrected masks by name, with or without cases.csv; default: the export."),
    ] = None,
    iteration: Iteration = None,
) -> None:
    """Check corrected masks and decisions, and take them all in; with an error nothing changes."""
    from flows.review_folder import in_words

    chosen = _chosen(run, iteration)
    again = chosen.returned is not None
    returned = chosen.take(folder or chosen.path)
    typer.echo(f"review after iteration {chosen.iteration}: {in_words(returned)}")
    if again:
        typer.echo("an earlier import of this review is replaced: what was made from it runs anew")
    typer.echo(f"continue: rl4seg resume {run}")


@review.command()
def status(run: Run) -> None:
    """Which cases a run asks about, what is decided, and what to do next."""
    from flows.review_folder import reviews_of
    from flows.review_table import show_review

    for folder in reviews_of(run):
        show_review(folder)


def _chosen(run: Path, iteration: int | None) -> ReviewFolder:
    from flows.review_folder import ReviewFolder, reviews_of

    if iteration is not None:
        return ReviewFolder(run, iteration)
    folders = reviews_of(run)
    return next((folder for folder in folders if folder.returned is None), folders[-1])
