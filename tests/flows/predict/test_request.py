"""The request of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.predict.request import PredictRequest, request_from
from reward_data.errors import ConfigError

PLACES = (Path("model"), Path("in"), Path("out"))


def test_what_is_not_given_keeps_its_default() -> None:
    nothing = dict.fromkeys(("tta", "tto", "window", "scale", "device", "batch_size", "save", "iteration"))
    plain = request_from(*PLACES, **nothing)
    assert plain == PredictRequest(model=PLACES[0], source=PLACES[1], output=PLACES[2])


def test_options_reach_their_place() -> None:
    given = request_from(
        *PLACES, tta=4, tto=5, window="sliding", scale=0.5, post_process=True, save="masks, errors"
    )
    options = given.options
    assert (options.augmented.draws, options.optimised.rounds) == (4, 5)
    assert (options.window.mode, options.window.scale, options.post_process) == ("sliding", 0.5, True)
    assert given.save == ("errors",)
    assert request_from(*PLACES, save="masks").save == ()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"save": "mask"}, r"--save mask: no kind 'mask'; wanted any of masks, errors, overlays"),
        ({"window": "round"}, r"options.window.mode='round'"),
        ({"precision": "half"}, r"runtime.precision='half'"),
        ({"tta": -1}, r"options.augmented.draws=-1"),
    ],
)
def test_values_that_do_not_exist(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        request_from(*PLACES, **given)
