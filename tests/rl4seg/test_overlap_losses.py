import pytest
import torch

from rl4seg.losses import soft_dice_loss
from rl4seg.overlap_losses import dice_loss, lovasz_gradient, lovasz_softmax
from rl4seg.task_rewards import RewardContext, miou


def logits(*probabilities: list[float]) -> torch.Tensor:
    """Pixels of one row with these class probabilities. Shape: (1, K, n)."""
    return torch.tensor(probabilities).clamp(min=1e-30).log().T[None]


def test_lovasz_by_hand() -> None:
    # truth 1, 0; probabilities of class 1: .6, .3
    row, truth = logits([0.4, 0.6], [0.7, 0.3]), torch.tensor([[1, 0]])
    # class 1: errors .4 (in the truth), .3 (not). Jaccard loss after the first 1 - 0 / 1 = 1, after both 1 - 0 / 2 = 1,
    # its growth 1, 0 -> .4. Class 0: errors .4 (not in it), .3 (in it): 1 - 1 / 2 = .5, 1 - 0 / 2 = 1; .5, .5 -> .35
    assert lovasz_softmax(row, truth).item() == pytest.approx((0.4 + 0.35) / 2)
    assert lovasz_softmax(row, truth, background=False).item() == pytest.approx(0.4)
    torch.testing.assert_close(lovasz_gradient(torch.tensor([0.0, 1.0])), torch.tensor([0.5, 0.5]))
    # three pixels, truth 1 0 1 in order of errors: 1 - 1/2, 1 - 1/3, 1 - 0/3 -> 1/2, 1/6, 1/3
    wanted = torch.tensor([1 / 2, 1 / 6, 1 / 3])
    torch.testing.assert_close(lovasz_gradient(torch.tensor([1.0, 0.0, 1.0])), wanted)


def test_lovasz_of_a_hard_mask_is_one_minus_its_iou() -> None:
    generator = torch.Generator().manual_seed(0)
    masks, truth = (torch.randint(0, 3, (4, 6, 7), generator=generator) for _ in range(2))
    hard = torch.nn.functional.one_hot(masks, 3).movedim(-1, 1).float() * 200
    context = RewardContext(("background", "a", "b"), [(1.0, 1.0)] * 4)
    wanted = 1 - miou(masks[:, None], truth, context).mean()
    assert lovasz_softmax(hard, truth).item() == pytest.approx(wanted.item(), abs=1e-6)


def test_lovasz_passes_over_absent_classes_and_ignored_pixels() -> None:
    row, truth = logits([0.4, 0.6], [0.7, 0.3], [0.5, 0.5]), torch.tensor([[1, 0, 9]])
    assert lovasz_softmax(row, truth, ignore_index=9).item() == pytest.approx((0.4 + 0.35) / 2)
    # class 0 alone: errors .6, .3, .5, all in the truth -> their mean... of 1 - iou: growth 1/3 each
    alone = lovasz_softmax(row, torch.tensor([[0, 0, 0]])).item()
    assert alone == pytest.approx((0.6 + 0.3 + 0.5) / 3)
    nothing = row.clone().requires_grad_()
    loss = lovasz_softmax(nothing, torch.tensor([[9, 9, 9]]), ignore_index=9)
    loss.backward()
    assert loss.item() == 0


@pytest.mark.parametrize("loss", [dice_loss, lovasz_softmax])
def test_losses_fall_toward_the_truth(loss: object) -> None:
    generator = torch.Generator().manual_seed(1)
    truth = torch.randint(0, 3, (2, 5, 5, 5), generator=generator)
    right = torch.nn.functional.one_hot(truth, 3).movedim(-1, 1).float()
    values = [loss(scale * right, truth).item() for scale in (-2.0, 0.0, 2.0, 50.0)]  # type: ignore[operator]
    assert values == sorted(values, reverse=True)
    assert values[-1] == pytest.approx(0, abs=1e-4)


def test_dice_is_that_of_the_losses_without_background_and_drops_ignored_pixels() -> None:
    generator = torch.Generator().manual_seed(2)
    row = torch.randn(2, 3, 6, 6, generator=generator)
    truth = torch.randint(0, 3, (2, 6, 6), generator=generator)
    torch.testing.assert_close(dice_loss(row, truth, background=False), soft_dice_loss(row, truth))
    ignored = truth.clone()
    ignored[:, 3:] = 9
    torch.testing.assert_close(dice_loss(row, ignored, 9), dice_loss(row[:, :, :3], truth[:, :3]))
    # two pixels by hand: p of class 0 .5, .75, truth 0, 1: (2 * .5) / (1.25 + 1), (2 * .25) / (.75 + 1)
    found = dice_loss(logits([0.5, 0.5], [0.75, 0.25]), torch.tensor([[0, 1]]))
    assert found.item() == pytest.approx(1 - (1 / 2.25 + 0.5 / 1.75) / 2, abs=1e-5)
