"""What the policy reads and chooses."""

from __future__ import annotations

import pytest
import torch

from rl4seg.configs.paser import RoutingConfig
from rl4seg.paser.policy import EVERYTHING, NOTHING, choices, feature_count, features, new_policy, per_patch


def test_features_are_means_over_the_cells_of_a_patch() -> None:
    config = RoutingConfig(grid=(1, 2), resolution=1)
    images = torch.tensor([[0.0, 1.0, 0.5, 0.5]]).reshape(1, 1, 1, 4)
    answer = torch.tensor([0, 1, 1, 1])
    probabilities = torch.nn.functional.one_hot(answer, 2).T.reshape(1, 2, 1, 4).float()
    uncertain = torch.tensor([0.0, 1.0, 0.5, 0.5]).reshape(1, 1, 4)
    read = features(config, images, probabilities, uncertain)[0, :, 0]
    # patch 0: half class 0; entropy mean .5, root mean square sqrt(.5); grey mean .5, spread .5 (times 4)
    assert read[:, 0].tolist() == pytest.approx([0.5, 0.5, 0.5, 0.5**0.5, 0.5, 2.0])
    assert read[:, 1].tolist() == pytest.approx([0.0, 1.0, 0.5, 0.5, 0.5, 0.0])
    published = RoutingConfig(grid=(1, 2), resolution=1, inputs=("answer", "entropy"))
    assert torch.equal(features(published, images, probabilities, uncertain)[0, :, 0], read[:4])


@pytest.mark.parametrize("grid", [(3,), (2, 3), (2, 3, 2)])
def test_there_is_a_logit_per_net_and_patch_and_none_is_preferred_at_first(grid: tuple[int, ...]) -> None:
    config = RoutingConfig(grid=grid, resolution=2)
    read = torch.rand(2, feature_count(config.inputs, 3, 1), *(2 * count for count in grid))
    logits = new_policy(config, 3, 1, 4, 0)(read)
    assert logits.shape == (2, 4, *grid)
    assert logits.count_nonzero() == 0


def test_patches_are_numbered_as_in_the_grid() -> None:
    logits = torch.zeros(1, 2, 2, 3)
    logits[0, 1, 1, 0] = 1  # second row, first column: patch 3
    assert per_patch(logits)[0, :, 1].tolist() == [0, 0, 0, 1, 0, 0]


def test_the_threshold_moves_along_the_cost() -> None:
    costs = torch.tensor([0.0, 0.1, 0.9])
    logits = torch.log(torch.tensor([[0.2, 0.3, 0.5]]))
    # log pi(2) - log pi(1) = log(5/3) = .511: above .511 / .8 = .639 net 1 is chosen;
    # log pi(1) - log pi(0) = log 1.5 = .405: above 4.05 net 0.
    for threshold, net in (
        (EVERYTHING, 2),
        (0.0, 2),
        (0.638, 2),
        (0.640, 1),
        (4.05, 1),
        (4.06, 0),
        (NOTHING, 0),
    ):
        assert choices(logits, costs, threshold).tolist() == [net]


def test_of_equals_the_cheaper_is_chosen() -> None:
    assert choices(torch.zeros(1, 3), torch.tensor([0.5, 0.1, 0.9])).tolist() == [1]
