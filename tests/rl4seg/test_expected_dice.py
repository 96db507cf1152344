"""The Dice decision rule against enumeration of every truth and every mask of a tiny image."""

import itertools

import pytest
import torch
from torch import Tensor

from rl4seg.expected_dice import expected_dice_by_size, expected_dice_masks


def every_mask(classes: int, pixels: int) -> Tensor:
    return torch.tensor(list(itertools.product(range(classes), repeat=pixels)))


def score_table(probability: Tensor, background: bool) -> Tensor:
    """Expected mean Dice of every mask, over every truth. Shape: (K, n) -> (K^n,)."""
    classes, pixels = probability.shape
    masks = every_mask(classes, pixels)
    chance = torch.stack([probability[masks[:, j], j] for j in range(pixels)], 1).prod(1)
    total = torch.zeros(len(masks), dtype=torch.float64)
    values = range(0 if background else 1, classes)
    for value in values:
        a = (masks == value).double()
        size = a.sum(1)
        both = size[:, None] + size[None]
        total += (torch.where(both > 0, 2 * (a @ a.T) / both.clamp(min=1), 1.0) * chance[None]).sum(1)
    return total / len(values)


def index_of(mask: Tensor, classes: int) -> int:
    return int(sum(int(v) * classes**j for j, v in enumerate(mask.flatten().flip(0))))


@pytest.mark.parametrize("scale", [1.0, 0.3, 0.02])
@pytest.mark.parametrize("pixels", [1, 2, 5, 8])
def test_expected_dice_by_size_is_exact(pixels: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(pixels)
    p = (torch.rand(pixels, generator=generator, dtype=torch.float64) * scale).sort(descending=True).values
    table = score_table(torch.stack([1 - p, p]), False)
    tops = [torch.tensor([1] * size + [0] * (pixels - size)) for size in range(pixels + 1)]
    wanted = torch.stack([table[index_of(mask, 2)] for mask in tops])
    torch.testing.assert_close(expected_dice_by_size(p), wanted, atol=1e-8, rtol=0)


def test_by_hand() -> None:
    # one pixel of probability p: the empty mask scores 1 - p, the full one p
    torch.testing.assert_close(
        expected_dice_by_size(torch.tensor([0.3])), torch.tensor([0.7, 0.3]).double(), atol=1e-8, rtol=0
    )
    # two of p = 1/2: sizes 0 .. 2. empty: 1/4. one: truths with it alone 1/4 * 1, with both 1/4 * 2/3.
    # both: one of them 2/4 * 2/3, both 1/4
    wanted = torch.tensor([1 / 4, 1 / 4 + 1 / 6, 1 / 3 + 1 / 4], dtype=torch.float64)
    torch.testing.assert_close(expected_dice_by_size(torch.tensor([0.5, 0.5])), wanted, atol=1e-8, rtol=0)


def test_certain_pixels() -> None:
    p = torch.tensor([1.0] * 50 + [0.0] * 50)
    found = expected_dice_by_size(p)
    assert int(found.argmax()) == 50
    assert found[50].item() == pytest.approx(1, abs=1e-8)
    assert found[100].item() == pytest.approx(2 / 3, abs=1e-8)
    assert found[0] == 0
    with pytest.raises(ValueError, match="falling"):
        expected_dice_by_size(p.flip(0))


@pytest.mark.parametrize("seed", range(5))
def test_no_mask_of_two_classes_has_a_higher_expected_dice(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    p = torch.rand(8, generator=generator, dtype=torch.float64) * [1.0, 0.7, 0.5, 0.3, 0.1][seed]
    probability = torch.stack([1 - p, p])
    mask = expected_dice_masks(probability.reshape(1, 2, 2, 4))[0]
    table = score_table(probability, False)
    assert table[index_of(mask, 2)].item() == pytest.approx(table.max().item(), abs=1e-8)


def test_the_argmax_mask_is_beaten_where_a_structure_is_uncertain() -> None:
    # eight pixels of .4: argmax is empty, with expected Dice .6^8 = .017; all of them score about 2 * .4 / 1.4
    p = torch.full((8,), 0.4, dtype=torch.float64)
    probability = torch.stack([1 - p, p])
    mask = expected_dice_masks(probability.reshape(1, 2, 8))[0]
    assert mask.tolist() == [1] * 8
    table = score_table(probability, False)
    assert table[0].item() == pytest.approx(0.6**8)
    assert table[-1].item() > 0.5


@pytest.mark.parametrize("background", [False, True])
def test_more_classes_are_near_the_best_and_never_below_the_argmax_in_the_mean(background: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    rows = []
    for _ in range(25):
        probability = (2 * torch.randn(3, 5, generator=generator, dtype=torch.float64)).softmax(0)
        table = score_table(probability, background)
        mask = expected_dice_masks(probability[None], background)[0]
        argmax = probability.argmax(0)
        rows.append([table[index_of(mask, 3)], table[index_of(argmax, 3)], table.max()])
    ours, argmax_score, best = torch.tensor(rows, dtype=torch.float64).mean(0).tolist()
    assert argmax_score < ours <= best
    assert best - ours < 0.5 * (best - argmax_score)


def test_a_volume_and_a_batch() -> None:
    generator = torch.Generator().manual_seed(4)
    probability = torch.randn(2, 3, 4, 5, 6, generator=generator).softmax(1)
    masks = expected_dice_masks(probability)
    assert masks.shape == (2, 4, 5, 6)
    assert torch.equal(masks[1], expected_dice_masks(probability[1:])[0])
    sure = torch.nn.functional.one_hot(masks, 3).movedim(-1, 1).float()
    assert torch.equal(expected_dice_masks(sure), masks)
    assert torch.equal(expected_dice_masks(sure, background=True), masks)
