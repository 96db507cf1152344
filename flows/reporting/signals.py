"""The signals of the stop rule as a table of the report."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from flows.reporting.tables import decimals, percent
from rl4seg.stop_rule import Judgement, Signals

HEADS = {
    "Iteration": "0 is the policy given; ● is handed out",
    "Validity": "share of masks that pass every anatomical rule",
    "Mean reward": "mean calibrated reward, all judged by the reward net of iteration 1",
    "KL": "mean KL to the policy given, nats per pixel",
    "Entropy": "mean entropy of the class probabilities, nats per pixel",
    "Agreement": "mean Dice with the given policy's masks, where those are valid",
    "Shape": "mean Dice of masks with their reconstruction by the source's shape prior",
}


class SignalTable(NamedTuple):
    """What the template shows: column heads with their meaning, cells, the choice in words, the alarm's reasons."""

    heads: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, ...], ...]
    words: str
    alarm: tuple[str, ...]


def signal_table(stop: Judgement) -> SignalTable:
    """One row per iteration, the one handed out marked."""
    first, number = stop.history[0], stop.choice.iteration
    heads = list(HEADS.items())
    heads += [(f"Area {name}", "change against the given policy's valid masks") for name in first.area_drift]
    heads += [(f"{name} to source", "change against the source's labels") for name in first.area_to_source]
    which = f"Iteration {number} is handed out" if number else "The policy given is handed out, unchanged"
    rows = tuple(tuple(_cells(each, each.iteration == number)) for each in stop.history)
    return SignalTable(tuple(heads), rows, f"{which}: {stop.choice.why}.", stop.alarm)


def _cells(signals: Signals, chosen: bool) -> Iterator[str]:
    yield f"{signals.iteration} ●" if chosen else str(signals.iteration)
    yield percent(signals.validity)
    yield "–" if signals.mean_reward is None else decimals(signals.mean_reward)
    yield from (decimals(signals.kl), decimals(signals.entropy), decimals(signals.agreement))
    yield "–" if signals.shape_agreement is None else decimals(signals.shape_agreement)
    for drift in (*signals.area_drift.values(), *signals.area_to_source.values()):
        yield f"{100 * (math.exp(drift) - 1):+.0f} %"
