"""Test-time optimisation: what it gains, and that it leaves the policy alone."""

from __future__ import annotations

import numpy as np
import pytest

from reward_data.types import Float32
from rl4seg.configs.predict import CAREFUL, OptimisedConfig, PredictConfig
from rl4seg.predictor import Predictor
from tests.rl4seg.copying import RUNTIME, copying_package, image_of, ring

QUICK = CAREFUL.model_copy(update={"learning_rate": 0.05})


def two_pieces() -> Float32:
    """Two discs at .3, for which lv (.5) is a little likelier than background (0): invalid, and lv earns .5 only."""
    image = np.zeros((1, 16, 16), np.float32)
    image[0, 3:6, 3:6] = image[0, 9:13, 9:13] = 0.3
    return image


def using(rounds: int, when: str = "invalid", flag: float | None = None, seed: int = 0) -> Predictor:
    settings = OptimisedConfig.model_validate({"rounds": rounds, "when": when, "ppo": QUICK})
    package = copying_package((16, 16), reward=True, flag=flag)
    return Predictor(package, RUNTIME, PredictConfig(optimised=settings, seed=seed))


def test_the_best_by_reward_is_kept_and_the_policy_is_bit_equal_afterwards() -> None:
    used = using(8)
    model = used.package.model
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    (plain,), (better,) = (p.infer([p.prepare(two_pieces())]) for p in (using(0), used))
    assert plain.reward is not None
    assert better.reward is not None
    assert better.reward > plain.reward
    assert better.rounds > 0
    assert all(value.equal(before[name]) for name, value in model.network.state_dict().items())
    assert all(parameter.grad is None for parameter in model.network.parameters())
    # so the next image is seen as it would have been
    assert np.array_equal(used.infer([used.prepare(two_pieces())])[0].probabilities, better.probabilities)


def test_where_nothing_gets_better_the_first_mask_stays() -> None:
    """At a learning rate of nearly 0 all masks earn the same: the earliest of equals."""
    settings = OptimisedConfig(rounds=2, ppo=CAREFUL.model_copy(update={"learning_rate": 1e-12}))
    used = Predictor(copying_package((16, 16), reward=True), RUNTIME, PredictConfig(optimised=settings))
    result = used.predict(two_pieces())
    assert (result.rounds, result.valid) == (0, False)


@pytest.mark.parametrize(
    ("when", "flag", "optimised"),
    [("invalid", None, False), ("flagged", 1.0, True), ("flagged", 0.0, False), ("either", 1.0, True)],
)
def test_a_valid_mask_is_optimised_only_where_the_flag_asks_for_it(
    when: str, flag: float | None, optimised: bool
) -> None:
    one_piece = two_pieces()
    one_piece[0, :7] = 0
    used = using(8, when, flag)
    assert used.predict(one_piece).valid
    assert (used.predict(one_piece).rounds > 0) is optimised


def test_a_mask_that_passes_is_left_alone_beside_one_that_does_not() -> None:
    used = using(8)
    images = [two_pieces(), image_of(ring((16, 16), 0.2, 0.4))]
    first, second = used.infer([used.prepare(image) for image in images])
    assert first.rounds > 0
    assert second.rounds == 0
