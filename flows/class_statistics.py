"""`rl4seg data class-stats`: class frequencies and weights of a folder of labels."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape
from rich.progress import Progress as Bar
from rich.table import Table

from flows.anatomy_tables import label_files
from flows.console import console
from reward_data.class_statistics import ClassStatistics, class_weights, count_files, write_statistics
from reward_data.errors import ConfigError
from reward_data.types import LabelMap


def label_map(names: str | None, merge: list[str]) -> LabelMap | None:
    """Classes by name, e.g. "matrix,small,large", with ``3=0``-like merges; None where neither is given.

    Raises:
        ConfigError: merges without names, or a merge that is not two whole numbers or leads to no class.
    """
    if names is None:
        if merge:
            raise ConfigError("--merge needs the classes; give --names, e.g. --names background,lv,myo")
        return None
    classes = tuple(name.strip() for name in names.split(",") if name.strip())
    try:
        pairs = {int(native): int(value) for native, value in (text.split("=") for text in merge)}
    except ValueError as error:
        raise ConfigError(f"--merge takes NATIVE=CLASS, e.g. --merge 3=0; got {merge}") from error
    bad = [value for value in pairs.values() if not 0 <= value < len(classes)]
    if len(classes) < 2 or bad:
        raise ConfigError(
            f"--names {names} --merge {merge}: wanted two classes or more and merges into 0..{len(classes) - 1}"
        )
    return LabelMap(names=classes, merge=pairs)


def print_class_statistics(
    folder: Path,
    names: str | None = None,
    merge: list[str] | None = None,
    smooth: float = 0.1,
    ignore_index: int | None = None,
    out: Path | None = None,
) -> ClassStatistics:
    """Count a folder's labels, print pixels, frequency and weight of every class, and write them where asked to.

    Raises:
        DataError: the folder or a file cannot be read, or a label value is no class.
        ConfigError: classes, merges or the name of ``out`` cannot be used, or a class is nowhere and smooth is 0.
    """
    files = label_files(folder)
    shown = console()
    with Bar(console=shown, transient=True, disable=not shown.is_terminal) as bar:
        task = bar.add_task("counting", total=len(files))
        found = count_files(
            files,
            label_map(names, merge or []),
            ignore_index,
            lambda done, total, metrics=None: bar.update(task, completed=done),
        )
    weights = class_weights(found, smooth)
    table = Table(title=f"{folder} · {found.files} labels", box=None)
    for column in ("value", "class", "pixels", "frequency", "labels with it", "weight"):
        table.add_column(column, justify="left" if column == "class" else "right", no_wrap=True)
    for value, name in enumerate(found.names):
        table.add_row(
            str(value), escape(name), f"{found.pixels[value]:,}", f"{found.frequencies[value]:.4%}",
            str(found.images[value]), f"{weights[value]:.4f}",
        )  # fmt: skip
    shown.print(table)
    shown.print(
        f"class_weights=[{','.join(f'{weight:.4f}' for weight in weights)}]   (smooth {smooth:g}; "
        f"{found.total:,} pixels{f', {found.ignored:,} ignored' if found.ignored else ''})",
        highlight=False, markup=False,
    )  # fmt: skip
    if out is not None:
        write_statistics(found, smooth, out)
        shown.print(f"wrote {out}; use it by tuning.class_weights={out}", highlight=False, markup=False)
    return found
