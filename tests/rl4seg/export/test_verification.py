"""Is an export the policy?"""

import numpy as np
import pytest
import torch

from reward_data.errors import ArtifactError
from rl4seg.export.verification import compare, probe_images


def _policy(batch: torch.Tensor) -> torch.Tensor:
    return torch.cat([batch, 0.4 + 0 * batch], 1)


def test_images_are_in_range_unlike_and_the_same_each_time() -> None:
    images = probe_images(2, (12, 9))
    assert images.shape == (16, 2, 12, 9)
    assert images.dtype == np.float32
    assert images.min() >= 0
    assert images.max() <= 1
    assert (images == probe_images(2, (12, 9))).all()
    assert len({image.tobytes() for image in images}) == 16
    assert all(image.any() for image in images)  # none is black


def test_the_policy_itself_differs_by_nothing() -> None:
    found = compare(_policy, _policy, probe_images(1, (8, 8)), "x")
    assert (found.images, found.logits, found.probabilities, found.pixels) == (16, 0, 0, 0)


def test_a_difference_is_measured() -> None:
    # + 1e-4 on one of two logits moves a probability p(1 - p) 1e-4 <= 2.5e-5
    found = compare(
        _policy,
        lambda x: _policy(x) + torch.tensor([1e-4, 0])[None, :, None, None],
        probe_images(1, (8, 8)),
        "x",
    )
    assert found.logits == pytest.approx(1e-4, rel=1e-2)
    assert 1e-5 < found.probabilities <= 2.6e-5


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: _policy(x) * 1.01,
        lambda x: _policy(x) * float("nan"),
        lambda x: torch.cat([_policy(x[:1])] * len(x)),  # a batch axis that is not free
    ],
)
def test_another_network_is_refused(wrong: object) -> None:
    with pytest.raises(ArtifactError, match="it is not written"):
        compare(_policy, wrong, probe_images(1, (8, 8)), "x")  # type: ignore[arg-type]


def test_another_shape_is_refused() -> None:
    with pytest.raises(ArtifactError, match="gives"):
        compare(_policy, lambda x: _policy(x)[..., :-1], probe_images(1, (8, 8)), "x")
