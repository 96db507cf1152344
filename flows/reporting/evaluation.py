"""The page and the terminal's table of `rl4seg evaluate`; the look is that of the run's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from rich import box
from rich.table import Table

from flows.console import console
from flows.reporting.data import ReliabilityCurve
from flows.reporting.figures import INK, Chart, draw, reliability_charts
from flows.reporting.templates import template
from rl4seg.evaluation_figures import FLAGGED, FOUND

PAGE = "evaluation.html"
GOOD, BAD = "#0072b2", "#d55e00"
GLOSSARY = {
    "dice": ("Dice", "Overlap of mask and label on the native grid; the mean is over classes, unions left out."),
    "hd95": ("HD95, HD", "95th percentile and largest distance between the borders; a lost structure counts as the "
             "image diagonal."),
    "validity": ("Validity", "Share of masks that obey every anatomical rule."),
    "trust": ("Trust", "The Dice that a mask's error map lets expect, without a label."),
    "flagged": ("Flagged", "Trust is below the model's threshold."),
    "curve": ("True curve", "What every threshold on trust would find and flag here; no threshold does better."),
    "auroc": ("AUROC of trust", "Probability that an image of low Dice has less trust than another one; .5 is chance."),
    "aurc": ("AURC", "Mean 1 - Dice of the images kept, over all shares kept, most trusted first; excess: less that of "
             "an oracle that sorts by Dice."),
    "ece": ("ECE", "Gap between confidence and share of right pixels, where mask or label is foreground; 20 bins."),
    "interval": ("95 % interval", "Bootstrap over patients, who are drawn whole."),
}  # fmt: skip


class Line(NamedTuple):
    """A row of the result table. ``key`` in the glossary."""

    key: str
    name: str
    value: str
    interval: str
    sd: str


def lines(content: Mapping[str, Any]) -> list[Line]:
    """All figures with their intervals, means before single structures."""
    unit = "mm" if content["unit"] == "mm" else "px"
    found: list[Line] = []
    if content["labelled"]:
        for key, label, form in (
            ("dice", "Dice", ".3f"),
            ("hd95", f"HD95, {unit}", ".2f"),
            ("hd", f"HD, {unit}", ".2f"),
        ):
            found.append(
                _line("hd95" if key == "hd" else key, f"{label}, mean", content[f"{key}_mean"], form)
            )
            found += [_line("", f"{label}, {name}", figure, form) for name, figure in content[key].items()]
        for name, calibration in content["calibration"].items():
            found.append(_line("ece", f"ECE of {name}", calibration["ece"], ".3f"))
    found.append(_line("validity", "Validity", content["validity"], ".1%", spread=False))
    found.append(_line("trust", "Trust", content["trust"], ".3f"))
    if content["flagged"]:
        found.append(_line("flagged", "Flagged", content["flagged"], ".1%", spread=False))
    for name, figure in (content["areas"] or {}).items():
        found.append(_line("", f"Area of {name}, mm²", figure, ",.0f"))
    return found + (_finding_lines(content["finding"]) if content["labelled"] else [])


def _finding_lines(finding: Mapping[str, Any]) -> list[Line]:
    below = f"Dice < {finding['dice_below']:g}"
    found = []
    if finding["found"]:
        found.append(
            _line("flagged", f"Share of images with {below} that are flagged", finding["found"], ".1%")
        )
    if finding["curve"]:
        best, least = finding["curve"]["best_found"], finding["curve"]["least_flagged"]
        found.append(Line("curve", f"Best share found with {FLAGGED:.0%} flagged", f"{best:.1%}", "", ""))
        found.append(Line("curve", f"Least share flagged with {FOUND:.0%} found", f"{least:.1%}", "", ""))
    found.append(_line("auroc", f"AUROC of trust, {below}", finding["auroc"], ".3f"))
    found.append(_line("aurc", "AURC", finding["aurc"], ".3f"))
    found.append(_line("aurc", "Excess AURC", finding["excess_aurc"], ".3f"))
    return found


def _line(key: str, name: str, figure: Mapping[str, Any], form: str, spread: bool = True) -> Line:
    if figure["value"] is None:
        return Line(key, name, "–", "", "")
    limits = "" if figure["low"] is None else f"{figure['low']:{form}} to {figure['high']:{form}}"
    sd = f"± {figure['sd']:{form}}" if spread and figure.get("sd") is not None else ""
    return Line(key, name, f"{figure['value']:{form}}", limits, sd)


def statements(content: Mapping[str, Any]) -> list[dict[str, str]]:
    """What the figures say, in sentences with a tone."""
    found = [_about_quality(content)]
    if content["labelled"]:
        found.append(_about_flag(content["finding"]))
    elif content["flagged"]:
        chosen_on = content["flag"]["flagged"]
        marked = content["flagged"]["value"]
        text = f"{marked:.0%} of the images are flagged; where the flag was chosen {chosen_on:.0%} were."
        found.append({"tone": "neutral", "text": text})
    broken = list(content["violations"].items())[:3]
    if broken:
        words = ", ".join(f"{rule} ({count})" for rule, count in broken)
        found.append({"tone": "neutral", "text": f"Rules broken most: {words}."})
    return found


def _about_quality(content: Mapping[str, Any]) -> dict[str, str]:
    valid = f"{content['validity']['value']:.0%} of the masks obey every anatomical rule"
    if not content["labelled"]:
        trust = content["trust"]["value"]
        text = f"{valid}. Without labels nothing is known of Dice and distances; mean trust is {trust:.2f}."
        return {"tone": "neutral", "text": text}
    dice = content["dice_mean"]
    limits = "" if dice["low"] is None else f" ({dice['low']:.3f} to {dice['high']:.3f})"
    return {"tone": "neutral", "text": f"Mean Dice {dice['value']:.3f}{limits}; {valid}."}


def _about_flag(finding: Mapping[str, Any]) -> dict[str, str]:
    below = f"a Dice below {finding['dice_below']:g}"
    if not finding["bad"]:
        return {"tone": "good", "text": f"No image has {below}."}
    if not finding["found"]:
        auroc = finding["auroc"]["value"]
        ranks = "" if auroc is None else f" Trust tells them from the others with an AUROC of {auroc:.2f}."
        return {
            "tone": "neutral",
            "text": f"{finding['bad']} images have {below}; the model has no flag.{ranks}",
        }
    share, marked = finding["found"]["value"], finding["flagged"]["value"]
    text = f"The flag finds {share:.0%} of the {finding['bad']} images with {below} and marks {marked:.0%} of all."
    best, least = finding["curve"]["best_found"], finding["curve"]["least_flagged"]
    text += f" No threshold finds more than {best:.0%} with {FLAGGED:.0%} marked; {FOUND:.0%} take {least:.0%} marked."
    return {"tone": "good" if share >= FOUND and marked <= FLAGGED else "warning", "text": text}


def print_result(content: Mapping[str, Any]) -> None:
    """The terminal's table and sentences."""
    out = console()
    title = f"{content['model']['name']}, iteration {content['model']['iteration']}: {_cases(content)}"
    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("figure")
    for head in ("value", "95 % interval", "sd over cases"):
        table.add_column(head, justify="right")
    for line in lines(content):
        table.add_row(line.name, line.value, line.interval, line.sd)
    out.print(table)
    for statement in statements(content):
        out.print(f"- {statement['text']}", highlight=False, markup=False)


def _cases(content: Mapping[str, Any]) -> str:
    which = "all" if content["split"] == "all" else content["split"]
    return f"{content['cases']} images of {content['patients']} patients ({which}), {content['labelled']} with labels"


def render(content: Mapping[str, Any], rows: Sequence[Mapping[str, object]]) -> str:
    """The page; ``rows`` are those of ``cases.csv``."""
    worst = "dice_mean" if content["labelled"] else "trust"
    ordered = sorted(rows, key=lambda row: float(str(row.get(worst, "inf"))))
    columns = [
        key for key in dict.fromkeys(k for row in rows for k in row) if key not in ("case", "violated")
    ]
    return template(PAGE).render(
        content=content,
        cases=_cases(content),
        statements=statements(content),
        cards=_cards(content),
        lines=lines(content),
        rows=ordered,
        columns=columns,
        heads=[column.replace("_", " ") for column in columns],
        sorted_by=worst.replace("_mean", ""),
        charts=_charts(content, rows) if content["labelled"] else (),
        reliability=_reliability(content) if content["labelled"] else (),
        glossary=GLOSSARY,
    )


def _cards(content: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """(key, label, value, what stands below)."""
    chosen = [
        ("validity", "Validity", content["validity"], ".0%"),
        ("trust", "Mean trust", content["trust"], ".2f"),
    ]
    if content["labelled"]:
        chosen.insert(0, ("dice", "Mean Dice", content["dice_mean"], ".3f"))
        chosen.insert(1, ("hd95", "Mean HD95", content["hd95_mean"], ".1f"))
        chosen.append(("auroc", "AUROC of trust", content["finding"]["auroc"], ".2f"))
    if content["flagged"]:
        chosen.append(("flagged", "Flagged", content["flagged"], ".0%"))
    found = []
    for key, label, figure, form in chosen:
        line = _line(key, label, figure, form)
        found.append((key, label, line.value, line.interval))
    return found


def _reliability(content: Mapping[str, Any]) -> tuple[Chart, ...]:
    curves = []
    for name, calibration in content["calibration"].items():
        curve = calibration["curve"]
        title = "Softmax" if name == "softmax" else f"1 − {name}"
        curves.append(
            ReliabilityCurve(
                title=title,
                **{key: curve[key] for key in ("confidence", "accuracy", "counts", "ece")},
            )
        )
    return reliability_charts(curves)


def _charts(content: Mapping[str, Any], rows: Sequence[Mapping[str, object]]) -> tuple[Chart, ...]:
    known = [(float(str(row["trust"])), float(str(row["dice_mean"]))) for row in rows if "dice_mean" in row]
    charts = (_scatter(content, np.array(known)), _risk(content["finding"]))
    return (*charts, _curve(content["finding"])) if content["finding"]["curve"] else charts


def _scatter(content: Mapping[str, Any], points: np.ndarray) -> Chart:
    trust, dice = points.T
    limit, flag = content["finding"]["dice_below"], content["flag"]

    def paint(axes: Axes) -> None:
        bad = dice < limit
        for chosen, tint in ((~bad, GOOD), (bad, BAD)):
            axes.scatter(trust[chosen], dice[chosen], s=12, color=tint, alpha=0.75, linewidths=0)
        axes.axhline(limit, color=INK, linewidth=0.8, linestyle=(0, (3, 2)))
        if flag is not None:
            axes.axvline(flag["threshold"], color=BAD, linewidth=0.9)
        axes.set(xlabel="trust", ylabel="mean Dice", ylim=(0, 1))

    return draw("Trust and Dice", "Trust of every image against its mean Dice", paint, (4.2, 3.2))


def _risk(finding: Mapping[str, Any]) -> Chart:
    def paint(axes: Axes) -> None:
        for values, tint, style, label in (
            (finding["risk"], GOOD, "-", "by trust"),
            (finding["oracle_risk"], INK, (0, (1, 1)), "oracle"),
        ):
            axes.plot(
                np.arange(1, len(values) + 1) / len(values), values, color=tint, linestyle=style, label=label
            )
        axes.axhline(finding["risk"][-1], color="#9ca3af", linewidth=1)
        axes.set(xlim=(0, 1), xlabel="share of images kept, most trusted first", ylabel="their mean 1 − Dice")
        axes.set_ylim(bottom=0)
        axes.legend(loc="lower right", fontsize=8)

    alt = "Risk-coverage curve: mean 1 minus Dice over the share of images kept, by trust and by an oracle"
    return draw("Setting images aside", alt, paint, (4.2, 3.2))


def _curve(finding: Mapping[str, Any]) -> Chart:
    curve, share = finding["curve"], finding["bad"] / (len(finding["risk"]) or 1)

    def paint(axes: Axes) -> None:
        axes.step(curve["flagged"], curve["found"], where="post", color=GOOD, label="by trust")
        axes.plot([0, share, 1], [0, 1, 1], color=INK, linestyle=(0, (1, 1)), label="oracle")
        axes.plot([0, 1], [0, 1], color="#9ca3af", linewidth=1, label="by chance")
        axes.axhline(FOUND, color=INK, linewidth=0.8, linestyle=(0, (3, 2)))
        axes.axvline(FLAGGED, color=INK, linewidth=0.8, linestyle=(0, (3, 2)))
        if finding["found"]:
            here = finding["flagged"]["value"], finding["found"]["value"]
            axes.scatter(*here, s=38, color=BAD, zorder=3, label="the flag")
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        axes.set(
            xlabel="share of all images flagged", ylabel=f"share of Dice < {finding['dice_below']:g} found"
        )
        axes.legend(loc="lower right", fontsize=8)

    alt = "Share of bad images found over the share of all images flagged, for every threshold on trust"
    return draw("What any threshold would find", alt, paint, (4.2, 3.2))
