"""What a comparison of uncertainty measures found, in plain words: by the paired intervals, never by ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flows.reporting.verdict import Statement
from rl4seg.uncertainty_statistics import BETTER

STATISTICS = {
    "ece": "ECE",
    "ace": "ACE",
    "mce": "MCE",
    "pearson": "Pearson r",
    "spearman": "Spearman r",
    "auroc": "AUROC",
    "auroc_quartile": "AUROC, lowest quarter",
    "aurc": "AURC",
    "excess_aurc": "excess AURC",
}
SOFTMAX = "maximum softmax"
GOOD_ECE = 0.05
FEW = 5


def statements(content: Mapping[str, Any]) -> tuple[Statement, ...]:
    """The sentences at the top of the page and below the terminal's table."""
    return (*_calibrated(content), *_ranks(content), *_reward_against_softmax(content), *_doubts(content))


def with_interval(figure: Mapping[str, float | None], sign: bool = False) -> str:
    """0.041 [0.035, 0.052]; a dash where unknown."""
    if figure["value"] is None:
        return "–"
    shape = "{:+.3f}" if sign else "{:.3f}"
    value = shape.format(figure["value"])
    if figure["low"] is None:
        return value
    return f"{value} [{shape.format(figure['low'])}, {shape.format(figure['high'])}]"


def figure_of(content: Mapping[str, Any], name: str, statistic: str) -> Mapping[str, float | None]:
    """One method's figure with its interval."""
    found = next(method for method in content["methods"] if method["name"] == name)
    figure: Mapping[str, float | None] = found["figures"][statistic]
    return figure


def _calibrated(content: Mapping[str, Any]) -> Iterator[Statement]:
    best = content["best"]["ece"]
    if best is None:
        return
    value = figure_of(content, best["name"], "ece")
    honest = value["value"] is not None and value["value"] <= GOOD_ECE
    yield Statement(
        tone="good" if honest else "warning",
        text=f"Best calibrated: {best['name']}, ECE {with_interval(value)} on the pixels where mask or truth is "
        "foreground"
        + _equals(best["equal"])
        + ("." if honest else f"; above {GOOD_ECE:g}: take no method's probabilities at their word."),
    )


def _ranks(content: Mapping[str, Any]) -> Iterator[Statement]:
    best = content["best"]["auroc"]
    limit, bad, cases = content["dice_below"], content["bad_cases"], content["cases"]
    if best is None:
        yield Statement(
            tone="neutral",
            text=f"{bad} of {cases} images have a Dice below {limit:g}: finding them cannot be measured. "
            "Choose another limit by --dice-below.",
        )
    else:
        yield Statement(
            tone="good",
            text=f"Finds the {bad} of {cases} images with Dice below {limit:g} best: {best['name']}, AUROC "
            f"{with_interval(figure_of(content, best['name'], 'auroc'))}{_equals(best['equal'])}.",
        )
    best = content["best"]["aurc"]
    if best is not None:
        yield Statement(
            tone="neutral",
            text=f"Best to sort images by, over all coverages: {best['name']}, AURC "
            f"{with_interval(figure_of(content, best['name'], 'aurc'))}{_equals(best['equal'])}.",
        )


def _equals(names: Sequence[str]) -> str:
    if not names:
        return " (every other method is worse beyond its interval)"
    shown = f"{len(names)} others" if len(names) > 3 else "; ".join(names)
    return f" (not told apart from it: {shown})"


def _reward_against_softmax(content: Mapping[str, Any]) -> Iterator[Statement]:
    """The pair that the reward net has to win: the first one, see `rl4seg.uncertainty.pairs`."""
    if not content["pairs"]:
        return
    pair = content["pairs"][0]
    rivals = [method for method in content["methods"] if method["name"].startswith(SOFTMAX)]
    chosen = " (of the softmax rows the better calibrated)" if len(rivals) > 1 else ""
    parts, verdicts = [], []
    for statistic in ("ece", "auroc", "aurc"):
        found = pair["figures"][statistic]
        verdict = judged(statistic, found)
        verdicts.append(verdict)
        parts.append(f"{STATISTICS[statistic]} {with_interval(found, sign=True)}, {verdict}")
    tone = "good" if set(verdicts) == {"better"} else "warning" if "worse" in verdicts else "neutral"
    answer = {"good": "Yes", "warning": "Not in everything", "neutral": "Not shown in everything"}[tone]
    if tone == "warning" and "better" not in verdicts:
        answer = "No"
    yield Statement(
        tone=tone,
        text=f"Is the reward net better than softmax? {answer}. {pair['a']} less {pair['b']}{chosen}: "
        f"{'; '.join(parts)}.{_over_all_pixels(content, pair)}",
    )


def _over_all_pixels(content: Mapping[str, Any], pair: Mapping[str, Any]) -> str:
    """The other way to count, which may say the opposite."""
    found = {
        method["name"]: method["all_pixels"]["ece"] for method in content["methods"] if method["all_pixels"]
    }
    a, b = found[pair["a"]], found[pair["b"]]
    return f" Over all pixels, background included, ECE is {a:.3f} against {b:.3f}."


def judged(statistic: str, difference: Mapping[str, float | None]) -> str:
    """Better, worse, or not told apart: by the interval of a paired difference."""
    low, high = difference["low"], difference["high"]
    if low is None or high is None:
        return "not known"
    if low <= 0 <= high:
        return "not told apart"
    return "better" if (high < 0) == (BETTER[statistic] == "low") else "worse"


def _doubts(content: Mapping[str, Any]) -> Iterator[Statement]:
    if content["patients"] < 30 or min(content["bad_cases"], content["cases"] - content["bad_cases"]) < FEW:
        yield Statement(
            tone="warning",
            text=f"{content['cases']} cases of {content['patients']} patients, {content['bad_cases']} of them bad, are "
            "few: the intervals are rough.",
        )
    for row in content["missing"]:
        yield Statement(
            tone="neutral", text=f"Not measured: {row['name']}. {row['how'][:1].upper()}{row['how'][1:]}."
        )
    yield Statement(
        tone="neutral",
        text="One run: the intervals are over patients, not over seeds. Labels of these cases were used to "
        "measure, never to fit.",
    )
