"""What a comparison has shown, in plain words drawn from its figures by rules, with the doubts said aloud.

"Better" and "worse" are said only where the 95 % interval of the paired difference, over seeds and patients, does not
hold zero; everything else is "not told apart".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from flows.reporting.comparison_data import DICE, VALIDITY, ArmResult, ComparisonData, Difference
from flows.reporting.data import PPO_OFF, SOURCE_ONLY, UPPER_BOUND
from flows.reporting.tables import percent
from flows.reporting.verdict import Statement

VALIDITY_GOAL = 0.99
GAP_GOAL = 0.5
FEW_SEEDS, FEW_PATIENTS = 3, 20


def comparison_verdict(data: ComparisonData) -> tuple[Statement, ...]:
    """Which arms the loop beats, or which variants beat the base, and every reason for doubt."""
    body = _of_ablation(data) if data.is_ablation else _of_arms(data)
    return (*body, *_caveats(data))


def _statement(tone: Literal["good", "neutral", "warning"], text: str) -> Statement:
    return Statement(tone=tone, text=text)


# --- words -----------------------------------------------------------------------------------------------------------


def signed(difference: Difference, measure: str) -> str:
    """A difference with its interval: "+.021 [+.010, +.032]"; validity in points."""
    if measure == VALIDITY:
        value, low, high = (100 * number for number in (difference.value, difference.low, difference.high))
        return f"{value:+.1f} points [{low:+.1f}, {high:+.1f}]"
    return f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"


def level(result: ArmResult, measure: str) -> str:
    """The mean of an arm with its spread over seeds."""
    figure = result.measures[measure]
    if measure == VALIDITY:
        return percent(figure.mean) + ("" if figure.sd is None else f" ± {100 * figure.sd:.1f}")
    return f"{figure.mean:.3f}" + ("" if figure.sd is None else f" ± {figure.sd:.3f}")


def _difference(result: ArmResult, measure: str) -> Difference | None:
    figure = result.measures.get(measure)
    return figure.difference if figure else None


def _listed(results: Sequence[ArmResult], measure: str) -> str:
    """The arms, with their differences where they are beyond chance; the others stand in the table."""
    named = []
    for result in results:
        difference = _difference(result, measure)
        if difference is not None:
            named.append(f"{result.arm} ({signed(difference, measure)})" if difference.sign else result.arm)
    return ", ".join(named)


def _sorted_out(results: Sequence[ArmResult], measure: str) -> dict[int, list[ArmResult]]:
    """Arms by the sign of their difference."""
    found: dict[int, list[ArmResult]] = {1: [], 0: [], -1: []}
    for result in results:
        difference = _difference(result, measure)
        if difference is not None:
            found[difference.sign].append(result)
    return found


def _name(measure: str) -> str:
    return "validity" if measure == VALIDITY else "mean Dice"


# --- the loop against its rivals -------------------------------------------------------------------------------------


def _of_arms(data: ComparisonData) -> Iterator[Statement]:
    rivals = [result for result in data.arms if result.arm not in (data.reference, UPPER_BOUND)]
    loop = data.arm(data.reference)
    if loop is None or not rivals:
        yield _statement("neutral", f"No verdict: there is nothing to compare {data.reference} with.")
        return
    measures = [measure for measure in (DICE, VALIDITY) if measure in loop.measures]
    yield _headline(data, loop, rivals, measures)
    for measure in measures:
        yield from _against(data, rivals, measure)
    yield from _ppo_share(data, measures)
    yield from _gap(data)
    if VALIDITY in measures:
        yield _validity(loop)


def _headline(
    data: ComparisonData, loop: ArmResult, rivals: Sequence[ArmResult], measures: Sequence[str]
) -> Statement:
    levels = " and ".join(f"{_name(measure)} {level(loop, measure)}" for measure in measures)
    signs = {measure: _sorted_out(rivals, measure) for measure in measures}
    beaten = " and ".join(f"{len(signs[m][1])} of {len(rivals)} rivals in {_name(m)}" for m in measures)
    source = data.arm(SOURCE_ONLY)
    gains = [d.sign for m in measures if source is not None and (d := _difference(source, m)) is not None]
    text = f"{data.reference} reaches {levels}; it beats {beaten}, with the interval of the difference above zero."
    if all(len(signs[m][1]) == len(rivals) for m in measures):
        return _statement("good", f"Better than every rival. {text}")
    if any(signs[m][-1] for m in measures):
        return _statement("warning", f"Some rival is better. {text}")
    if not any(sign > 0 for sign in gains):
        return _statement("warning", f"No gain over source-only is shown. {text}")
    return _statement("neutral", f"Better than some rivals, worse than none. {text}")


def _against(data: ComparisonData, rivals: Sequence[ArmResult], measure: str) -> Iterator[Statement]:
    found = _sorted_out(rivals, measure)
    parts = [
        f"{words} {_listed(found[sign], measure)}"
        for sign, words in ((1, "better than"), (0, "not told apart from"), (-1, "worse than"))
        if found[sign]
    ]
    if parts:
        tone: Literal["good", "neutral", "warning"] = "neutral" if found[0] else "good"
        text = f"{_name(measure).capitalize()} of {data.reference}: {'; '.join(parts)}."
        yield _statement("warning" if found[-1] else tone, text.replace("dice", "Dice"))


def _ppo_share(data: ComparisonData, measures: Sequence[str]) -> Iterator[Statement]:
    off = data.arm(PPO_OFF)
    if off is None:
        yield _statement(
            "neutral", "PPO off was not run, so nothing is known of how much of the gain is PPO's own."
        )
        return
    differences = {measure: _difference(off, measure) for measure in measures}
    adds = [_name(m) for m, difference in differences.items() if difference and difference.sign > 0]
    costs = [_name(m) for m, difference in differences.items() if difference and difference.sign < 0]
    words = ", ".join(f"{_name(m)} {signed(d, m)}" for m, d in differences.items() if d is not None)
    if costs:
        yield _statement(
            "warning", f"PPO costs {' and '.join(costs)} against the same loop without it: {words}."
        )
    elif adds:
        yield _statement(
            "good", f"PPO itself adds {' and '.join(adds)}, against the same loop without it: {words}."
        )
    else:
        text = f"PPO itself is not shown to add anything to the same loop without it: {words}."
        yield _statement("warning", text)


def _gap(data: ComparisonData) -> Iterator[Statement]:
    gap = data.gap
    if gap is None:
        return
    between = f"the {gap.dice:.3f} Dice between source-only and training on target labels"
    if gap.share is None or gap.low is None or gap.high is None:
        text = f"There is no gap to close: {between} are not told apart from zero."
        yield _statement("warning", text)
        return
    words = f"closes {100 * gap.share:.0f} % [{100 * gap.low:.0f}, {100 * gap.high:.0f}] of {between}"
    tone: Literal["good", "warning"] = "good" if gap.share >= GAP_GOAL else "warning"
    reached = "at least half, the goal" if gap.share >= GAP_GOAL else "less than half, the goal is missed"
    yield _statement(tone, f"{data.reference} {words}: {reached}.")


def _validity(loop: ArmResult) -> Statement:
    mean = loop.measures[VALIDITY].mean
    if mean >= VALIDITY_GOAL:
        return _statement("good", f"{percent(mean)} of the masks are valid: the goal of 99 % is reached.")
    return _statement("warning", f"{percent(mean)} of the masks are valid: the goal of 99 % is missed.")


# --- variants against the base ---------------------------------------------------------------------------------------


def _of_ablation(data: ComparisonData) -> Iterator[Statement]:
    variants = [result for result in data.arms if result.arm != data.reference]
    base = data.arm(data.reference)
    if base is None or not variants:
        yield _statement("neutral", "No verdict: there is no variant beside the base.")
        return
    measures = [measure for measure in (DICE, VALIDITY) if measure in base.measures]
    yield _statement("neutral", f"{data.spec.question} {_answer(variants, measures)}")
    for measure in measures:
        found = _sorted_out(variants, measure)
        parts = [
            f"{words}: {_listed(found[sign], measure)}"
            for sign, words in ((1, "better"), (0, "not told apart"), (-1, "worse"))
            if found[sign]
        ]
        text = f"{_name(measure)} against the base, {data.reference} ({level(base, measure)}) - {'; '.join(parts)}."
        yield _statement("neutral", text[0].upper() + text[1:])
    yield _statement(
        "neutral",
        "Variants were compared to choose between them: score what is chosen once on the test images.",
    )


def _answer(variants: Sequence[ArmResult], measures: Sequence[str]) -> str:
    """Whether some variant beats the base in one measure and loses in none."""
    winners = []
    for result in variants:
        signs = [d.sign for measure in measures if (d := _difference(result, measure)) is not None]
        if 1 in signs and -1 not in signs:
            winners.append(result.arm)
    if winners:
        return f"Better than the base in something and worse in nothing: {', '.join(winners)}."
    return "No variant is shown to be better than the base without being worse in something."


# --- doubts ----------------------------------------------------------------------------------------------------------


def _caveats(data: ComparisonData) -> Iterator[Statement]:
    seeds = len(data.spec.seeds)
    what = f"{data.cases} target images of {data.patients} patient{'s' if data.patients != 1 else ''}"
    if data.labelled == 0:
        text = "The target has no labels: only validity is known, and masks can become valid and wrong."
        yield _statement("warning", text)
    if seeds == 1:
        text = f"One seed: spreads over seeds cannot be given, and intervals are about the patients alone ({what})."
        yield _statement("warning", text + " Another training might give something else.")
    elif seeds < FEW_SEEDS:
        text = f"Only {seeds} seeds: spreads over seeds and intervals are rough ({what})."
        yield _statement("warning", text)
    else:
        text = f"{seeds} seeds, {what}: intervals draw seeds and patients anew. Other data may answer differently."
        yield _statement("neutral", text)
    if data.patients < FEW_PATIENTS:
        text = f"{data.patients} patients are few: bootstrap intervals are too narrow on small samples."
        yield _statement("warning", text)
