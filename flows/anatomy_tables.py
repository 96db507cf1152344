"""`rl4seg anatomy`: acceptance tables and fitted rule sets for a folder of masks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from flows.console import console
from reward_data.anatomy import RuleSet, load_rules, rules_to_yaml
from reward_data.anatomy_fit import AcceptanceTable, CaseMask, check_folder, fit_folder
from reward_data.atomic import atomic_file
from reward_data.errors import ConfigError, DataError
from reward_data.formats import ENDINGS, ending, read_image, read_labels, stem
from reward_data.types import LabelMap


def label_map(rules: RuleSet, merge: list[str]) -> LabelMap:
    """The rule set's classes with ``3=0``-like merges of native values.

    Raises:
        ConfigError: a merge is not two whole numbers, or leads to no class.
    """
    try:
        pairs = {int(native): int(value) for native, value in (text.split("=") for text in merge)}
    except ValueError as error:
        raise ConfigError(f"--merge takes NATIVE=CLASS, e.g. --merge 3=0; got {merge}") from error
    bad = [value for value in pairs.values() if not 0 <= value < len(rules.classes)]
    if bad:
        raise ConfigError(f"--merge leads to class {bad[0]}; the classes are 0..{len(rules.classes) - 1}")
    return LabelMap(names=tuple(rules.classes), merge=pairs)


def label_files(folder: Path) -> list[Path]:
    """Label files of an nnU-Net raw folder (labelsTr, labelsTs), of images/ + labels/, or of a plain label folder.

    Raises:
        DataError: the folder is missing or holds no label file.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give a folder of label files")
    inside = sorted(path for path in folder.rglob("label*") if path.is_dir())
    files = sorted(f for place in inside or [folder] for f in place.iterdir() if ending(f) in ENDINGS)
    if not files:
        raise DataError(
            f"{folder}: no label files; wanted files ending in {', '.join(ENDINGS)}, or labelsTr/labelsTs"
        )
    return files


def masks(folder: Path, labels: LabelMap) -> Iterator[CaseMask]:
    """(id, mask, spacing_mm) of every label file."""
    for path in label_files(folder):
        yield stem(path), labels.apply(read_labels(path), str(path)), read_image(path).spacing_mm


def print_acceptance(folder: Path, rules_name: str, merge: list[str]) -> AcceptanceTable:
    """Print how many masks pass, per rule, and which do not."""
    rules = load_rules(rules_name)
    found = check_folder(masks(folder, label_map(rules, merge)), rules)
    table = Table(title=f"{folder} · {rules.name}", box=None)
    table.add_column("rule", no_wrap=True)
    for name in ("accepted", "min / median / max", "allowed"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in found.rows:
        measured = " / ".join(f"{v:.3g}" for v in (row.smallest, row.median, row.largest))
        low, high = ("" if v is None else f"{v:.3g}" for v in (row.low, row.high))
        unit = "" if row.unit == "ratio" else f" {row.unit}"
        table.add_row(escape(row.rule), f"{row.accepted:.1%}", measured, f"{low} .. {high}{unit}")
    out = console()
    out.print(table)
    for name, broken in list(found.rejected.items())[:20]:
        out.print(f"{name}: {'; '.join(str(measurement) for measurement in broken)}", highlight=False)
    out.print(f"accepted {found.accepted} of {found.total} masks ({found.share:.2%})", highlight=False)
    return found


def fit_rules(
    folder: Path, rules_name: str, merge: list[str], acceptance: float, margin: float, out: Path | None
) -> None:
    """Print or write the rule set with fitted thresholds.

    Raises:
        DataError: the folder or a mask cannot be read, ``acceptance`` cannot be reached, or ``out`` not be written.
    """
    rules = load_rules(rules_name)
    fitted = fit_folder(masks(folder, label_map(rules, merge)), rules, acceptance, margin)
    text = rules_to_yaml(fitted)
    if out is None:
        console().print(text, highlight=False, soft_wrap=True)
        return
    with atomic_file(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    console().print(f"wrote {out}; use it by rules={out}", highlight=False)
