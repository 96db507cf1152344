"""The contact sheet: every mask on one page, the least trusted first. Pictures lie beside it and load when seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import quote

import numpy as np

from flows.predict.records import Record
from flows.predict.tables import area_unit
from flows.reporting.montage import class_colour
from flows.reporting.templates import template
from rl4seg.package import PackageSpec, TrustFlag

PAGE = "contact_sheet.html"
RULES_SHOWN = 2  # of a mask's broken rules; the others by number
GLOSSARY = {
    "trust": ("Trust", "The Dice that a mask's error map lets expect, 0 to 1; of a sequence that of the frame trusted "
              "least."),
    "flagged": ("Flagged", "Trust is below the model's threshold: look at this mask before you use it."),
    "invalid": ("Invalid", "The mask breaks an anatomical rule; cases.csv has its value and its limits."),
    "error": ("Error map", "For every pixel the probability that the mask is wrong there."),
}  # fmt: skip


class Tile(NamedTuple):
    """One mask on the page; links are relative, quoted."""

    id: str
    trust: float
    flagged: bool
    rules: tuple[str, ...]
    more: tuple[str, ...]
    areas: tuple[tuple[str, str], ...]
    frames: int
    picture: str | None
    opens: str
    moving: str | None


class Group(NamedTuple):
    """Tiles under one heading."""

    key: str
    title: str
    tiles: tuple[Tile, ...]


def contact_sheet(records: Sequence[Record], spec: PackageSpec) -> str:
    """The page."""
    good = sorted((r for r in records if r.error is None), key=lambda r: (r.trust, r.id))
    bad = [record for record in records if record.error is not None]
    tiles = tuple(_tile(record, spec) for record in good)
    return template(PAGE, functions={"class_colour": class_colour}).render(
        spec=spec,
        names=spec.labels.names[1:],
        images=len(good),
        groups=_groups(tiles, spec),
        failures=bad,
        cards=_cards(good, bad, spec),
        statements=statements(good, bad, spec),
        rules=Counter(rule for record in good for rule in broken_rules(record)).most_common(),
        unit=area_unit(spec).replace("2", "²").replace("3", "³"),
        glossary=GLOSSARY,
    )


def statements(good: Sequence[Record], bad: Sequence[Record], spec: PackageSpec) -> list[dict[str, str]]:
    """What to know first, as sentences with a tone."""
    found: list[dict[str, str]] = []
    if spec.trust is None:
        found.append(
            {"tone": "neutral", "text": "This model has no trust flag. The least trusted masks stand first."}
        )
    elif good:
        flag, marked = spec.trust, sum(bool(record.flagged) for record in good)
        share = marked / len(good)
        text = f"{marked} of {len(good)} images are flagged ({share:.0%}): trust below {flag.threshold:.2f}."
        found.append({"tone": "warning" if marked else "good", "text": text})
        found.append({"tone": "neutral", "text": _about_flag(flag)})
        if len(good) >= 20 and share > max(2 * flag.flagged, flag.flagged + 0.2):
            found.append({
                "tone": "warning",
                "text": f"Far more images are flagged than where the flag was chosen ({flag.flagged:.0%}): these "
                "images may be unlike those that the model has learned from.",
            })  # fmt: skip
    invalid = sum(not record.valid for record in good)
    if invalid:
        found.append({"tone": "warning", "text": f"{invalid} of {len(good)} masks break an anatomical rule."})
    if bad:
        found.append(
            {
                "tone": "warning",
                "text": f"{len(bad)} file{'s' if len(bad) > 1 else ''} could not be used; see below.",
            }
        )
    return found


def _about_flag(flag: TrustFlag) -> str:
    """What the flag did on the images that it was chosen on."""
    bad = f"masks with a Dice below {flag.dice_below:g}"
    finds = f"there were no {bad}" if flag.found is None else f"the flag found {flag.found:.0%} of the {bad}"
    return f"Where it was chosen, {finds} and marked {flag.flagged:.0%} of all. Basis: {flag.basis}."


def broken_rules(record: Record) -> list[str]:
    """The rules that a file breaks, each once, in words: no_gap(lv, myo) as "no gap (lv, myo)"."""
    labels = {text.split("=", 1)[0] for frame in record.frames for text in frame.violated}
    return sorted(label.replace("_", " ").replace("(", " (") for label in labels)


def _cards(
    good: Sequence[Record], bad: Sequence[Record], spec: PackageSpec
) -> list[tuple[str, str, str, str]]:
    """(key, label, value, what stands below)."""
    trusts = [record.trust for record in good]
    cards = [("", "Images", str(len(good)), "")]
    if trusts:
        low, middle = float(np.min(trusts)), float(np.median(trusts))
        cards.append(("trust", "Median trust", f"{middle:.2f}", f"lowest {low:.2f}"))
    if spec.trust is not None:
        flagged = sum(bool(record.flagged) for record in good)
        cards.append(("flagged", "Flagged", str(flagged), f"trust below {spec.trust.threshold:.2f}"))
    invalid = sum(not record.valid for record in good)
    cards.append(("invalid", "Invalid", str(invalid), "break an anatomical rule"))
    if bad:
        cards.append(("", "Not usable", str(len(bad)), "see below"))
    return cards


def _groups(tiles: tuple[Tile, ...], spec: PackageSpec) -> list[Group]:
    if spec.trust is None:
        return [Group("all", "All masks", tiles)] if tiles else []
    groups = [
        Group("flagged", "Flagged: look at these", tuple(tile for tile in tiles if tile.flagged)),
        Group("rest", "Not flagged", tuple(tile for tile in tiles if not tile.flagged)),
    ]
    return [group for group in groups if group.tiles]


def _tile(record: Record, spec: PackageSpec) -> Tile:
    links = {kind: quote(name) for kind, name in record.outputs.items()}
    rules = broken_rules(record)
    areas = [(name, record.area(name)) for name in spec.labels.names[1:]]
    return Tile(
        id=record.id,
        trust=record.trust,
        flagged=bool(record.flagged),
        rules=tuple(rules[:RULES_SHOWN]),
        more=tuple(rules[RULES_SHOWN:]),
        areas=tuple((name, f"{area:,.0f}") for name, area in areas if area is not None),
        frames=len(record.frames),
        picture=links.get("thumbnails"),
        opens=links.get("overlays", links["masks"]),
        moving=links.get("moving"),
    )
