"""Stop rule and collapse alarm on small phantom runs: ``python -m tests.benchmarks.stop_rule``.

Runs of `tests.benchmarks.stop_runs` (cached: a second call answers at once; about half a minute of one core each), the
bounds of `rl4seg.configs.stop` looked for on the seeds CHOOSING and scored on SCORING. Printed: how often the chosen
iteration is the best one or within 0.5 Dice points of it on the test images, against other rules; how often, and how
late, the alarm finds a collapse, and how often it rings where there is none. A collapse is an iteration whose test Dice
lies 5 points below that of the policy given; an alarm is false where Dice has not fallen by a point at any time.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rl4seg.configs.stop import StopConfig
from rl4seg.stop_rule import Signals, judge
from tests.benchmarks.stop_runs import CHOOSING, SCORING, Result, run, scenarios

NEAR, COLLAPSE, HARMLESS = 0.005, 0.05, 0.01
Rule = Callable[[Sequence[Signals]], int]
OTHERS: dict[str, Rule] = {
    "last": lambda history: history[-1].iteration,
    "given": lambda history: 0,
    "validity alone": lambda history: max(history, key=lambda s: s.validity).iteration,
    "reward alone": lambda history: max(history, key=lambda s: s.mean_reward or 0.0).iteration,
}


@dataclass(frozen=True)
class Outcome:
    """What stop rule and alarm make of one run. ``alarm``: iteration and reasons; ``chosen``: of those until then."""

    result: Result
    alarm: int | None
    reasons: tuple[str, ...]
    chosen: int

    @property
    def collapse(self) -> int | None:
        """The first iteration that has collapsed, by test labels."""
        dice = self.result.dice
        return next((i for i, value in enumerate(dice) if value < dice[0] - COLLAPSE), None)

    @property
    def false_alarm(self) -> bool:
        """An alarm though no iteration has lost a point of Dice."""
        return self.alarm is not None and min(self.result.dice) > self.result.dice[0] - HARMLESS

    def loss(self, iteration: int) -> float:
        """Dice below the best iteration of the run."""
        return max(self.result.dice) - self.result.dice[iteration]


def follow(result: Result, config: StopConfig) -> Outcome:
    """The run as the flow would have gone: judged after each iteration, stopped at the first alarm."""
    for number in range(2, len(result.signals) + 1):
        judgement = judge(result.signals[:number], config)
        if judgement.alarm:
            return Outcome(result, number - 1, judgement.alarm, judgement.choice.iteration)
    return Outcome(result, None, (), judge(result.signals, config).choice.iteration)


def choices(title: str, outcomes: Sequence[Outcome]) -> None:
    """Rule -> within 0.5 points of the best iteration, mean loss, worse than the policy given."""
    print(
        f"\n{title}: {len(outcomes)} runs\n{'rule':<18}{'within .5 points':>18}{'mean loss':>12}{'below given':>13}"
    )
    rules = {"stop rule": [o.chosen for o in outcomes]}
    rules |= {name: [rule(o.result.signals) for o in outcomes] for name, rule in OTHERS.items()}
    for name, chosen in rules.items():
        losses = [o.loss(c) for o, c in zip(outcomes, chosen, strict=True)]
        below = sum(o.result.dice[c] < o.result.dice[0] - NEAR for o, c in zip(outcomes, chosen, strict=True))
        near = sum(loss <= NEAR for loss in losses)
        print(f"{name:<18}{f'{near} of {len(losses)}':>18}{100 * statistics.fmean(losses):>12.2f}{below:>13}")


def alarms(title: str, outcomes: Sequence[Outcome]) -> None:
    """Caught, how late, and false alarms."""
    fallen = [o for o in outcomes if o.collapse is not None]
    caught = [o for o in fallen if o.alarm is not None]
    late = [o.alarm - o.collapse for o in caught if o.alarm is not None and o.collapse is not None]
    sound = [o for o in outcomes if min(o.result.dice) > o.result.dice[0] - HARMLESS]
    false = [o for o in sound if o.false_alarm]
    print(f"{title}: collapses {len(fallen)}, caught {len(caught)}, late by {late} iterations; ", end="")
    print(f"sound runs {len(sound)}, false alarms {len(false)}")


def main() -> None:
    """Run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--choosing", nargs="*", type=int, default=list(CHOOSING))
    parser.add_argument("--scoring", nargs="*", type=int, default=list(SCORING))
    arguments = parser.parse_args()
    config = StopConfig()
    for title, seeds in (("bounds chosen here", arguments.choosing), ("scored here", arguments.scoring)):
        outcomes = [follow(run(scenario), config) for scenario in scenarios(seeds)]
        if not outcomes:
            continue
        print(f"\n## {title}: seeds {seeds}")
        for o in outcomes:
            dice = " ".join(f"{value:.3f}" for value in o.result.dice)
            rings = f"alarm at {o.alarm}: {o.reasons[0]}" if o.alarm is not None else ""
            print(f"{o.result.scenario.name:<22}{dice:<32}chosen {o.chosen}  {rings}")
        choices("normal runs", [o for o in outcomes if not o.result.scenario.broken])
        choices("all runs", outcomes)
        alarms("normal runs", [o for o in outcomes if not o.result.scenario.broken])
        alarms("planted", [o for o in outcomes if o.result.scenario.broken])


if __name__ == "__main__":
    main()
