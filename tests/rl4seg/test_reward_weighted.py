import math

import pytest
import torch

from reward_data.errors import DataError
from rl4seg.reward_weighted import check_counts, deficit_weights, image_cross_entropy, weighted_cross_entropy

LN2 = math.log(2)


def logits(*probabilities: list[float]) -> torch.Tensor:
    """Pixels of one row with these class probabilities. Shape: (1, K, n)."""
    return torch.tensor(probabilities).log().T[None]


def test_image_weights_by_hand() -> None:
    # deficits .5, .2, 0; means of the others .1, .25, .35; weight = deficit - .1 * that
    found = deficit_weights(torch.tensor([0.5, 0.8, 1.0]))
    torch.testing.assert_close(found, torch.tensor([0.49, 0.175, -0.035]))
    found = deficit_weights(torch.tensor([0.5, 0.8, 1.0]), negative=False)
    torch.testing.assert_close(found, torch.tensor([0.49, 0.175, 0.0]))
    found = deficit_weights(torch.tensor([0.5, 0.8, 1.0]), compare=0.5)
    torch.testing.assert_close(found, torch.tensor([0.45, 0.075, -0.175]))


def test_a_batch_of_one_has_nothing_to_compare_with() -> None:
    torch.testing.assert_close(deficit_weights(torch.tensor([0.7])), torch.tensor([0.3]))


def test_an_image_that_cannot_be_judged_counts_half() -> None:
    # deficits .5 and .2: .5 - .1 * .2, .2 - .1 * .5
    found = deficit_weights(torch.tensor([math.nan, 0.8]))
    torch.testing.assert_close(found, torch.tensor([0.48, 0.15]))


def test_cross_entropy_by_hand() -> None:
    # two pixels of true class 0 and 1 with probabilities 1/2 and 1/4: -log is ln 2 and 2 ln 2
    row, truth = logits([0.5, 0.5], [0.75, 0.25]), torch.tensor([[0, 1]])
    assert image_cross_entropy(row, truth).item() == pytest.approx(1.5 * LN2)
    assert image_cross_entropy(row, truth, reduction="sum").item() == pytest.approx(3 * LN2)
    # weights 1 and 3: (ln 2 + 3 * 2 ln 2) / 2, over the pixels and not over their weights (that would be 7 / 4)
    weights = torch.tensor([1.0, 3.0])
    assert image_cross_entropy(row, truth, weights).item() == pytest.approx(3.5 * LN2)
    # the second pixel ignored: ln 2
    assert image_cross_entropy(row, torch.tensor([[0, 255]]), weights, 255).item() == pytest.approx(LN2)


def test_the_whole_loss_by_hand() -> None:
    # rewards .5 and 1 -> weights .5 - 0 and 0 - .05; cross-entropies 1.5 ln 2 and ln 2
    both = torch.cat([logits([0.5, 0.5], [0.75, 0.25]), logits([0.5, 0.5], [0.5, 0.5])])
    cross_entropy = image_cross_entropy(both, torch.tensor([[0, 1], [0, 1]]))
    weight = deficit_weights(torch.tensor([0.5, 1.0]))
    wanted = (0.5 * 1.5 * LN2 - 0.05 * LN2) / 2
    assert weighted_cross_entropy(cross_entropy, weight).item() == pytest.approx(wanted)
    # a batch of one with reward .5
    one = weighted_cross_entropy(cross_entropy[:1], deficit_weights(torch.tensor([0.5])))
    assert one.item() == pytest.approx(0.5 * 1.5 * LN2)


def test_no_gradient_reaches_the_weights() -> None:
    cross_entropy = torch.ones(2, requires_grad=True)
    reward = torch.tensor([0.2, 0.4], requires_grad=True)
    weighted_cross_entropy(cross_entropy, deficit_weights(reward)).backward()
    assert reward.grad is None
    # weights .8 - .06 and .6 - .08, halved by the mean
    torch.testing.assert_close(cross_entropy.grad, torch.tensor([0.37, 0.26]))


def test_an_ignored_image_among_others_adds_nothing() -> None:
    both = logits([0.5, 0.5], [0.75, 0.25]).repeat(2, 1, 1)
    found = image_cross_entropy(both, torch.tensor([[0, 1], [255, 255]]), None, 255)
    torch.testing.assert_close(found, torch.tensor([1.5 * LN2, 0.0]))


@pytest.mark.parametrize(
    ("truth", "weights", "message"),
    [
        ([[255, 255]], None, r"classes \[255\] only"),
        ([[0, 1]], [0.0, 0.0, 1.0], r"classes \[0, 1\] only.*weights \[0.0, 0.0, 1.0\]"),
        ([[0, 255]], [0.0, 1.0, 1.0], "none of its pixels counts"),
    ],
)
def test_a_batch_in_which_nothing_counts_is_one_clear_error(
    truth: list[list[int]], weights: list[float] | None, message: str
) -> None:
    given = None if weights is None else torch.tensor(weights)
    with pytest.raises(DataError, match=message):
        check_counts(torch.tensor(truth), given, 255)


def test_classes_that_are_absent_while_others_count_are_no_error() -> None:
    truth = torch.zeros(1, 2, dtype=torch.long)
    row = logits([0.5, 0.25, 0.25], [0.25, 0.5, 0.25])
    assert image_cross_entropy(row, truth, torch.tensor([1.0, 2.0, 3.0])).item() == pytest.approx(1.5 * LN2)


def test_weights_of_another_length_are_one_clear_error() -> None:
    with pytest.raises(DataError, match="class_weights has 2 values, the network 3 classes"):
        image_cross_entropy(torch.zeros(1, 3, 4), torch.zeros(1, 4, dtype=torch.long), torch.ones(2))
