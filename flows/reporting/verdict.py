"""Did the loop help? Plain sentences drawn from the result rows, with the doubts said aloud.

The verdict speaks of the policy that the run hands out: the iteration that the stop rule has chosen, else the last.

Two policies are called different only where their difference exceeds twice its standard error over cases: paired, case
by case, where both rows carry `case_dice` (`case_valid`); else as if the cases were independent, which is the more
cautious of the two. Spread between seeds is not in one run and is said to be missing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pydantic import Field

from flows.reporting.data import LOGIT_BIAS, MAIN, PPO_OFF, SOURCE_ONLY, UPPER_BOUND, EvaluationRow
from flows.reporting.tables import percent
from reward_data.types import Config
from rl4seg.stop_rule import Judgement

AREA_DRIFT = 0.2  # relative change of a class's mean area that is worth a warning
REWARD_RISE = 0.005  # rise of the mean reward that counts as one


class Statement(Config):
    """One sentence of the verdict."""

    tone: Literal["good", "neutral", "warning"] = Field(description="How it is coloured.")
    text: str = Field(description="Plain text.")


class Difference(NamedTuple):
    """``value`` = a - b; ``margin`` = two standard errors over cases; ``detail`` for the sentence."""

    value: float
    margin: float
    detail: str = ""

    @property
    def sign(self) -> int:
        """+1 or -1 beyond the spread of cases, else 0."""
        return 0 if abs(self.value) <= self.margin else int(math.copysign(1, self.value))


def dice_difference(a: EvaluationRow, b: EvaluationRow) -> Difference | None:
    """Mean Dice of a minus b, or None where one of them has no labels."""
    if a.dice_mean is None or b.dice_mean is None:
        return None
    gains = [
        a.case_dice[case] - b.case_dice[case] for case in sorted(a.case_dice.keys() & b.case_dice.keys())
    ]
    if len(gains) >= 2:
        better = sum(gain > 0 for gain in gains)
        return _paired(gains, f", better on {better} of {len(gains)} cases")
    variance = sum(row.dice_mean.sd**2 / max(row.cases, 1) for row in (a, b) if row.dice_mean)
    return Difference(a.dice_mean.mean - b.dice_mean.mean, 2 * math.sqrt(variance))


def _paired(gains: Sequence[float], detail: str = "") -> Difference:
    return Difference(statistics.fmean(gains), 2 * statistics.stdev(gains) / math.sqrt(len(gains)), detail)


def validity_difference(a: EvaluationRow, b: EvaluationRow) -> Difference | None:
    """Validity of a minus b, unpaired margin from the binomial spread; None where not measured."""
    if a.validity is None or b.validity is None:
        return None
    gains = [
        float(a.case_valid[case]) - float(b.case_valid[case])
        for case in sorted(a.case_valid.keys() & b.case_valid.keys())
    ]
    if len(gains) >= 2:
        return _paired(gains)
    shares = ((row.validity, max(row.cases, 1)) for row in (a, b) if row.validity is not None)
    variance = sum(share * (1 - share) / cases for share, cases in shares)
    return Difference(a.validity - b.validity, 2 * math.sqrt(variance))


def last_row(rows: Sequence[EvaluationRow], arm: str, iteration: int | None = None) -> EvaluationRow | None:
    """The row of ``arm`` at ``iteration``, else its last one, else None."""
    own = sorted((row for row in rows if row.arm == arm), key=lambda row: row.iteration)
    same = [row for row in own if row.iteration == iteration]
    candidates = same or own
    return candidates[-1] if candidates else None


def handed_out(rows: Sequence[EvaluationRow]) -> EvaluationRow | None:
    """The row of the policy that the run hands out: the chosen one, else the loop's last, else None."""
    return next((row for row in rows if row.chosen), None) or last_row(rows, MAIN)


def honest_verdict(
    rows: Sequence[EvaluationRow], stop: Judgement | None = None, flag: Mapping[str, Any] | None = None
) -> tuple[Statement, ...]:
    """Whether the policy handed out is better than source-only, PPO off and logit bias, and every reason for doubt.

    ``stop``: what the stop rule says of the loop; None = it was not asked. ``flag``: the model's trust flag.
    """
    said = tuple(_stop_rule(stop)) if stop is not None else ()
    return (*said, *_verdict(rows), *((_flag(flag),) if flag else ()))


def _flag(flag: Mapping[str, Any]) -> Statement:
    """What the trust flag finds where it was chosen."""
    found = "there was none to find" if flag["found"] is None else f"finds {percent(flag['found'])} of them"
    text = (
        f"Trust flag: masks with a trust below {flag['threshold']:.3f} are flagged, to find those with a mean Dice "
        f"below {flag['dice_below']:.3f}. Chosen on {flag['basis']} ({flag['bad']} of {flag['images']} bad): {found} "
        f"and flags {percent(flag['flagged'])} of all. On other images it can do worse."
    )
    return Statement(tone="neutral", text=text)


def _stop_rule(stop: Judgement) -> Iterator[Statement]:
    """Alarm and choice; both were made without labels."""
    last = stop.history[-1].iteration
    if stop.alarm:
        text = f"Collapse alarm: the loop was stopped after iteration {last}: {'; '.join(stop.alarm)}."
        yield Statement(tone="warning", text=text)
    number = stop.choice.iteration
    which = f"iteration {number} of {last}" if number else "the policy given, unchanged"
    tone = "neutral" if number else "warning"
    text = f"Handed out: {which}; {stop.choice.why}. Chosen without labels."
    yield Statement.model_validate({"tone": tone, "text": text})


def _verdict(rows: Sequence[EvaluationRow]) -> tuple[Statement, ...]:
    last, source = handed_out(rows), last_row(rows, SOURCE_ONLY)
    if last is not None and last is source:
        return _nothing_changed(rows, source)
    if last is None or source is None:
        missing = MAIN if last is None else SOURCE_ONLY
        text = f"No verdict: there is no evaluated row for {missing!r}, so there is nothing to compare."
        return (Statement(tone="neutral", text=text),)
    controls = (
        _ppo_share(last, last_row(rows, PPO_OFF, last.iteration)),
        *_against_bias(last, last_row(rows, LOGIT_BIAS)),
        *_upper_bound(last, source, last_row(rows, UPPER_BOUND)),
    )
    return (_headline(last, source), *controls, *_warnings(rows, last, source), _caveat(last))


def _nothing_changed(rows: Sequence[EvaluationRow], source: EvaluationRow) -> tuple[Statement, ...]:
    """What is to say where the policy given is handed out: what the loop's last iteration would have been."""
    loop = last_row(rows, MAIN)
    if loop is None:
        return (_caveat(source),)
    words = _compared(loop, source) or "nothing was measured that could tell"
    text = f"What was not handed out: iteration {loop.iteration} against source-only, {words}."
    return (Statement(tone="neutral", text=text), _caveat(source))


def _points(value: float) -> str:
    return f"{100 * value:+.1f} points"


def _dice_words(a: EvaluationRow, b: EvaluationRow) -> str:
    gain = dice_difference(a, b)
    if gain is None or a.dice_mean is None or b.dice_mean is None:
        return ""
    spread = "within the spread of cases" if gain.sign == 0 else "beyond the spread of cases"
    return (
        f"mean Dice {b.dice_mean.mean:.3f} → {a.dice_mean.mean:.3f} "
        f"({gain.value:+.3f}, {spread} of ± {gain.margin:.3f}{gain.detail})"
    )


def _validity_words(a: EvaluationRow, b: EvaluationRow) -> str:
    gain = validity_difference(a, b)
    if gain is None or a.validity is None or b.validity is None:
        return ""
    spread = ", within the spread of cases" if gain.sign == 0 else ""
    return f"validity {percent(b.validity)} → {percent(a.validity)} ({_points(gain.value)}{spread})"


def _compared(a: EvaluationRow, b: EvaluationRow) -> str:
    return "; ".join(words for words in (_dice_words(a, b), _validity_words(a, b)) if words)


def _signs(a: EvaluationRow, b: EvaluationRow) -> list[int]:
    return [gain.sign for gain in (dice_difference(a, b), validity_difference(a, b)) if gain is not None]


def _headline(last: EvaluationRow, source: EvaluationRow) -> Statement:
    signs, words = _signs(last, source), _compared(last, source)
    where = f"after {last.iteration} iteration{'s' if last.iteration != 1 else ''}, against source-only"
    if last.dice_mean is None:
        changed = {1: "rose", 0: "did not change beyond the spread of cases", -1: "fell"}
        validity = f"Validity {changed[signs[0]]} {where}: {words}. " if signs else ""
        text = (
            f"{validity}No labels: only label-free signals are known here (validity, reward, class areas). "
            "They can improve while the masks get worse, so look at the montages before trusting them."
        )
        return Statement(tone="warning" if -1 in signs else "neutral", text=text)
    if -1 in signs:
        head, tone = ("The picture is mixed", "warning") if 1 in signs else ("The loop hurt", "warning")
    elif 1 in signs:
        head, tone = "The loop helped", "good"
    else:
        head, tone = "The loop did not help", "neutral"
    return Statement.model_validate({"tone": tone, "text": f"{head} {where}: {words}."})


def _ppo_share(last: EvaluationRow, off: EvaluationRow | None) -> Statement:
    if off is None:
        text = "PPO off was not run, so this run cannot say how much of the change is PPO's own."
        return Statement(tone="neutral", text=text)
    words = f"PPO off → {last.arm}: {_compared(last, off)}."
    dice, validity = dice_difference(last, off), validity_difference(last, off)
    better = [name for name, gain in (("Dice", dice), ("validity", validity)) if gain and gain.sign > 0]
    worse = [name for name, gain in (("Dice", dice), ("validity", validity)) if gain and gain.sign < 0]
    if worse:
        text = f"PPO off is better in {' and '.join(worse)}"
        text += f", PPO in {' and '.join(better)}" if better else ": PPO did harm here"
        return Statement(tone="warning", text=f"{text}. {words}")
    if not better:
        text = "PPO off is as good: what changed comes from the anchor (self-training), not from PPO"
        return Statement(tone="warning", text=f"{text}. {words}")
    beside = ", not Dice" if better == ["validity"] and dice is not None else ""
    return Statement(tone="good", text=f"PPO's own part is {' and '.join(better)}{beside}. {words}")


def _against_bias(last: EvaluationRow, bias: EvaluationRow | None) -> Iterator[Statement]:
    if bias is None or not _signs(last, bias):
        return
    words = f"Logit bias → {last.arm}: {_compared(last, bias)}."
    signs = _signs(last, bias)
    if 1 in signs and -1 not in signs:
        text = f"It is more than a larger foreground: the loop beats the logit bias. {words}"
        yield Statement(tone="good", text=text)
    else:
        text = f"A bias on the foreground logits, without any training, does as well or better somewhere. {words}"
        yield Statement(tone="warning", text=text)


def _upper_bound(
    last: EvaluationRow, source: EvaluationRow, upper: EvaluationRow | None
) -> Iterator[Statement]:
    if upper is None or None in (last.dice_mean, source.dice_mean, upper.dice_mean):
        return
    gap, gain = dice_difference(upper, source), dice_difference(last, source)
    if gap is None or gain is None:
        return
    if gap.sign <= 0:
        text = f"Training on target labels gains nothing over source-only ({gap.value:+.3f} Dice): no gap to close."
        yield Statement(tone="warning", text=text)
    else:
        share = f"{100 * gain.value / gap.value:.0f} %"
        text = f"The loop closes {share} of the {gap.value:.3f} Dice between source-only and training on target labels."
        yield Statement(tone="neutral", text=text)


def _warnings(
    rows: Sequence[EvaluationRow], last: EvaluationRow, source: EvaluationRow
) -> Iterator[Statement]:
    path = [source, *sorted((r for r in rows if r.arm == MAIN), key=lambda r: r.iteration)]
    until = [row for row in path if row.iteration <= last.iteration]
    texts = (*_reward_hacking(until), *_class_collapse(last, source), *_past_the_best(path, last))
    yield from (Statement(tone="warning", text=text) for text in texts)


def _reward_hacking(path: Sequence[EvaluationRow]) -> Iterator[str]:
    """Mean reward up while validity (or Dice) is down, from the best earlier iteration to the last."""
    last = path[-1]
    earlier = [row for row in path[:-1] if row.mean_reward is not None]
    if last.mean_reward is None:
        return
    for name in ("validity", "Dice"):
        scored = [(score, row) for row in earlier if (score := _score(row, name)) is not None]
        now = _score(last, name)
        if not scored or now is None:
            continue
        best, row = max(scored, key=lambda pair: pair[0])
        rise = last.mean_reward - (row.mean_reward or 0.0)
        if rise > REWARD_RISE and now < best - 1 / max(last.cases, 1):
            yield (
                f"Mean reward rises ({row.mean_reward:.3f} → {last.mean_reward:.3f}) while {name} falls "
                f"({best:.3f} → {now:.3f}) from iteration {row.iteration} to {last.iteration}: the policy may be "
                "gaming its reward net."
            )


def _score(row: EvaluationRow, name: str) -> float | None:
    if name == "validity":
        return row.validity
    return row.dice_mean.mean if row.dice_mean else None


def _class_collapse(last: EvaluationRow, source: EvaluationRow) -> Iterator[str]:
    for name, now in (last.dice or {}).items():
        before = (source.dice or {}).get(name)
        if before is None:
            continue
        margin = 2 * math.sqrt((now.sd**2 + before.sd**2) / max(last.cases, 1))
        if now.mean < before.mean - margin:
            yield f"Dice of {name} falls against source-only: {before.mean:.3f} → {now.mean:.3f}."
    for name, area in last.class_area.items():
        old = source.class_area.get(name, 0.0)
        if old > 0 and abs(area / old - 1) > AREA_DRIFT:
            verb = "shrinks" if area < old else "grows"
            yield (
                f"The mean area of {name} {verb} by {100 * abs(area / old - 1):.0f} % against source-only: "
                "validity does not notice this, look at the montages."
            )


def _past_the_best(path: Sequence[EvaluationRow], last: EvaluationRow) -> Iterator[str]:
    """Another iteration than the one handed out was the best: by the test labels, which nobody chose by."""
    scored = [row for row in path if row.dice_mean is not None]
    if len(scored) < 2 or last.dice_mean is None:
        return
    best = max(scored, key=lambda row: row.dice_mean.mean if row.dice_mean else 0.0)
    lost = dice_difference(last, best)
    if lost is not None and lost.sign < 0 and best.iteration > 0:
        words = _dice_words(last, best)
        which = "the last one" if last is path[-1] else f"iteration {last.iteration}, which is handed out"
        hurt = "later iterations hurt" if best.iteration < last.iteration else "it was stopped too early"
        yield f"Iteration {best.iteration} was better than {which} ({words}): {hurt}."


def _caveat(last: EvaluationRow) -> Statement:
    text = f"One run with one seed on {last.cases} cases: ± is over cases. Repeat with other seeds before concluding."
    return Statement(tone="neutral", text=text)
