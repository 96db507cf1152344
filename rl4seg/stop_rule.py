"""Which iteration is handed out, and whether the loop has collapsed: pure functions of label-free signals.

No single signal is enough. A reward net can be gamed, validity does not see a wall that shrinks, an empty mask may
break no rule at all, and a policy can become sure of nonsense: so the alarm looks at each of them by itself, and the
choice asks for the best score only among iterations that have not moved too far from the policy given to the loop.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from pydantic import ConfigDict, Field

from reward_data.types import Config
from rl4seg.configs.stop import AlarmBounds, StopConfig

JUDGEMENT = "judgement.json"


class Signals(Config):
    """One iteration's signals; 0 is the policy given. Areas are log ratios: -.69 is half, +.69 is double."""

    model_config = ConfigDict(allow_inf_nan=False)

    iteration: int = Field(ge=0, description="Of the loop; 0 = the policy that it was given.")
    cases: int = Field(ge=1, description="Held-back target images.")
    validity: float = Field(ge=0, le=1, description="Share of masks that pass every anatomical rule.")
    mean_reward: float | None = Field(
        description="Mean calibrated reward, all iterations judged by the reward net of the first."
    )
    kl: float = Field(description="Mean KL to the policy given, per pixel, nats.")
    entropy: float = Field(description="Mean entropy of the class probabilities, per pixel, nats.")
    area_drift: dict[str, float] = Field(
        description="Class -> mean log ratio of its area to that in the given policy's valid mask of the same image."
    )
    area_to_source: dict[str, float] = Field(
        default_factory=dict,
        description="Class -> log ratio of its mean area to that of the source's labels, where there is a source.",
    )
    agreement: float = Field(
        ge=0, le=1, description="Mean Dice with the given policy's masks, where those are valid."
    )
    shape_agreement: float | None = Field(
        default=None, description="Mean Dice of masks with their reconstruction by the source's shape prior."
    )

    @property
    def worst_drift(self) -> float:
        """The largest |log area ratio| to the given policy's valid masks over the classes; 0 without classes."""
        return max((abs(value) for value in self.area_drift.values()), default=0.0)


class Choice(Config):
    """The iteration that is handed out."""

    iteration: int = Field(ge=0, description="0 = the policy that the loop was given.")
    why: str = Field(description="In plain words, with the figures that decided.")


class Judgement(Config):
    """What is known after an iteration: all signals so far, whether the last ones ring the alarm, and the choice."""

    history: tuple[Signals, ...] = Field(min_length=1, description="Of iterations 0, 1, ..., in order.")
    alarm: tuple[str, ...] = Field(
        default=(), description="Why the last iteration is a collapse; empty = it is none."
    )
    choice: Choice = Field(description="What would be handed out now.")


def judge(history: Sequence[Signals], config: StopConfig) -> Judgement:
    """The judgement on the last of some iterations; ``history`` begins with the policy given."""
    reasons = alarm(history[-1], history[0], config.alarm) if len(history) > 1 else ()
    return Judgement(history=tuple(history), alarm=reasons, choice=choose(history, config))


def alarm(signals: Signals, first: Signals, bounds: AlarmBounds) -> tuple[str, ...]:
    """Every sign of a collapse in plain words (value, bound, since when), or nothing.

    Args:
        signals: of the iteration that is judged.
        first: of the policy that the loop was given.
        bounds: what is still no collapse.
    """
    return tuple(f"{text}, since iteration {signals.iteration}" for text in _signs(signals, first, bounds))


def _signs(signals: Signals, first: Signals, bounds: AlarmBounds) -> Iterator[str]:
    given = "of the policy given"
    if signals.validity < first.validity - bounds.validity_drop:
        yield (
            f"validity {signals.validity:.2f} is more than {bounds.validity_drop:g} below the "
            f"{first.validity:.2f} {given}"
        )
    elif signals.validity < bounds.validity_share * first.validity:
        yield (
            f"validity {signals.validity:.2f} is below {bounds.validity_share:g} times the {first.validity:.2f} {given}"
        )
    if (
        signals.mean_reward is not None
        and first.mean_reward is not None
        and signals.mean_reward < first.mean_reward - bounds.reward_drop
    ):
        yield (
            f"mean reward {signals.mean_reward:.3f} is more than {bounds.reward_drop:g} below the "
            f"{first.mean_reward:.3f} {given}"
        )
    if signals.kl > bounds.kl:
        yield f"KL {signals.kl:.3f} to the policy given is above {bounds.kl:g} nats per pixel"
    for name, drift in signals.area_drift.items():
        if abs(drift) > bounds.area_drift:
            verb = "shrinks" if drift < 0 else "grows"
            yield (
                f"{name} {verb} to {100 * math.exp(drift):.0f} % of its area under the policy given, wanted "
                f"{100 * math.exp(-bounds.area_drift):.0f} to {100 * math.exp(bounds.area_drift):.0f} %"
            )
    if signals.agreement < bounds.agreement:
        yield (f"Dice {signals.agreement:.2f} with the valid masks {given} is below {bounds.agreement:g}")
    if signals.entropy < bounds.entropy_share * first.entropy:
        yield (
            f"entropy {signals.entropy:.4f} is below {bounds.entropy_share:g} times the {first.entropy:.4f} {given}"
        )


def choose(history: Sequence[Signals], config: StopConfig) -> Choice:
    """The iteration to hand out: the best score among those within bounds; ties go to the earlier one.

    Iteration 0, the policy given, is always a candidate, so that nothing worse is handed out where signals can tell.
    """
    first = history[0]
    candidates = [each for each in history if each is first or admissible(each, first, config)]
    best = max(candidates, key=lambda each: (score(each, config), -each.iteration))
    beyond = [each.iteration for each in history if each not in candidates]
    words = f"validity {best.validity:.2f}" + (
        "" if best.mean_reward is None else f", mean reward {best.mean_reward:.3f}"
    )
    if best is first:
        why = f"no iteration within bounds scores above the policy given ({words})"
    else:
        why = f"the best score within bounds ({words}; the policy given: validity {first.validity:.2f})"
    return Choice(
        iteration=best.iteration, why=why + (f"; beyond bounds: {_listed(beyond)}" if beyond else "")
    )


def admissible(signals: Signals, first: Signals, config: StopConfig) -> bool:
    """Whether an iteration may be handed out: no alarm, and not too far from the policy given."""
    return (
        not alarm(signals, first, config.alarm)
        and signals.kl <= config.kl
        and signals.worst_drift <= config.area_drift
        and signals.agreement >= config.agreement
    )


def score(signals: Signals, config: StopConfig) -> float:
    """What an iteration is chosen by; higher is better."""
    return signals.validity + config.reward_weight * (signals.mean_reward or 0.0)


def _listed(iterations: Sequence[int]) -> str:
    return f"iteration{'s' if len(iterations) > 1 else ''} {', '.join(map(str, iterations))}"
