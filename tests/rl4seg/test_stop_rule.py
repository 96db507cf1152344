"""The alarm and the choice on hand-made signals: each bound by itself, and who wins."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from rl4seg.configs.stop import AlarmBounds, StopConfig
from rl4seg.stop_rule import Judgement, Signals, admissible, alarm, choose, judge

BOUNDS = AlarmBounds(
    validity_drop=0.2,
    validity_share=0.25,
    reward_drop=0.05,
    kl=0.3,
    area_drift=0.4,
    agreement=0.75,
    entropy_share=0.1,
)
CONFIG = StopConfig(alarm=BOUNDS, kl=0.1, area_drift=0.25, agreement=0.85, reward_weight=0.0)


def signals(iteration: int = 0, **values: Any) -> Signals:
    """The policy given, or an iteration that is a little better than it."""
    usual: dict[str, Any] = {
        "cases": 40, "validity": 0.6 + 0.05 * iteration, "mean_reward": 0.8, "kl": 0.01 * iteration, "entropy": 0.2,
        "area_drift": {"lv": 0.0, "myo": 0.0}, "agreement": 0.95,
    }  # fmt: skip
    return Signals(iteration=iteration, **(usual | values))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        # .6 - .2 = .4 is still allowed, .39 is not
        ({"validity": 0.39}, "validity 0.39 is more than 0.2 below the 0.60 of the policy given, since iteration 3"),
        ({"mean_reward": 0.74}, "mean reward 0.740 is more than 0.05 below the 0.800"),
        ({"kl": 0.31}, "KL 0.310 to the policy given is above 0.3 nats per pixel"),
        # exp(-.5) = .607, exp(-.4) = .670, exp(.4) = 1.492
        ({"area_drift": {"lv": 0.0, "myo": -0.5}},
         "myo shrinks to 61 % of its area under the policy given, wanted 67 to 149 %"),
        ({"area_drift": {"lv": 0.5, "myo": 0.0}}, "lv grows to 165 % of its area"),
        ({"agreement": 0.7}, "Dice 0.70 with the valid masks of the policy given is below 0.75"),
        ({"entropy": 0.019}, "entropy 0.0190 is below 0.1 times the 0.2000"),
    ],
)  # fmt: skip
def test_each_sign_rings_by_itself(change: dict[str, Any], said: str) -> None:
    (reason,) = alarm(signals(3, **change), signals(), BOUNDS)
    assert said in reason
    assert reason.endswith("since iteration 3")


@pytest.mark.parametrize(
    "change",
    [
        {"validity": 0.41}, {"mean_reward": 0.76}, {"kl": 0.3}, {"area_drift": {"lv": 0.4, "myo": -0.4}},
        {"agreement": 0.75}, {"entropy": 0.021}, {"mean_reward": None},
    ],
)  # fmt: skip
def test_no_alarm_within_the_bounds(change: dict[str, Any]) -> None:
    assert alarm(signals(3, **change), signals(), BOUNDS) == ()


def test_of_a_small_validity_a_share_must_be_left() -> None:
    given = signals(validity=0.16)
    (reason,) = alarm(signals(1, validity=0.03), given, BOUNDS)  # .25 x .16 = .04
    assert reason == "validity 0.03 is below 0.25 times the 0.16 of the policy given, since iteration 1"
    assert alarm(signals(1, validity=0.05), given, BOUNDS) == ()
    assert alarm(signals(1, validity=0.0), signals(validity=0.0), BOUNDS) == ()


def test_all_reasons_are_told() -> None:
    dead = signals(2, validity=0.0, kl=2.0, agreement=0.0, area_drift={"lv": -7.0, "myo": -7.0})
    assert len(alarm(dead, signals(), BOUNDS)) == 5


def test_the_most_valid_iteration_within_bounds_is_chosen() -> None:
    history = [signals(i) for i in range(4)]
    assert choose(history, CONFIG).iteration == 3
    # the third one is the most valid, but its wall has grown by a third: exp(.29) = 1.34
    drifted = [*history[:3], signals(3, area_drift={"lv": 0.0, "myo": 0.29})]
    choice = choose(drifted, CONFIG)
    assert choice.iteration == 2
    assert "beyond bounds: iteration 3" in choice.why
    for change in ({"kl": 0.11}, {"agreement": 0.84}, {"mean_reward": 0.7}):
        assert choose([*history[:3], signals(3, **change)], CONFIG).iteration == 2


def test_the_policy_given_is_kept_where_nothing_is_better() -> None:
    worse = [signals(), signals(1, validity=0.5), signals(2, validity=0.55)]
    assert choose(worse, CONFIG).iteration == 0
    far = [signals(), signals(1, validity=0.9, kl=0.2), signals(2, validity=1.0, agreement=0.8)]
    choice = choose(far, CONFIG)
    assert choice.iteration == 0
    assert "no iteration within bounds" in choice.why
    assert "iterations 1, 2" in choice.why


def test_ties_go_to_the_earlier_iteration() -> None:
    assert choose([signals(), signals(1, validity=0.6)], CONFIG).iteration == 0
    assert choose([signals(), signals(1), signals(2, validity=0.65)], CONFIG).iteration == 1


def test_the_reward_can_weigh_in() -> None:
    history = [
        signals(),
        signals(1, validity=0.7, mean_reward=0.8),
        signals(2, validity=0.68, mean_reward=0.83),
    ]
    assert choose(history, CONFIG).iteration == 1
    # .7 + .8 = 1.5 against .68 + .83 = 1.51
    assert choose(history, CONFIG.model_copy(update={"reward_weight": 1.0})).iteration == 2
    unknown = [each.model_copy(update={"mean_reward": None}) for each in history]
    assert choose(unknown, CONFIG.model_copy(update={"reward_weight": 1.0})).iteration == 1


def test_a_judgement_holds_everything_and_survives_json() -> None:
    history = [signals(), signals(1), signals(2, validity=0.1)]
    found = judge(history, CONFIG)
    assert found.history == tuple(history)
    assert len(found.alarm) == 1
    assert found.choice.iteration == 1
    assert Judgement.model_validate_json(found.model_dump_json()) == found
    assert judge(history[:1], CONFIG).alarm == ()


def test_candidates_are_never_wider_than_the_alarm() -> None:
    assert admissible(signals(1), signals(), StopConfig())
    with pytest.raises(ValidationError, match=r"kl 0.4 is above alarm.kl 0.3"):
        StopConfig(kl=0.4, alarm=BOUNDS)
    with pytest.raises(ValidationError, match=r"agreement 0.7 is below alarm.agreement 0.75"):
        StopConfig(agreement=0.7, alarm=BOUNDS)
