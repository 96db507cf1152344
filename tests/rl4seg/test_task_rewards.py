import numpy as np
import pytest
import torch
from torch import Tensor

from reward_data.anatomy import RuleSet, load_rules
from reward_data.errors import ConfigError
from rl4seg import metrics
from rl4seg.task_rewards import (
    REWARDS,
    RewardContext,
    accuracy,
    boundary,
    confusion,
    dice,
    hausdorff,
    miou,
    validity,
)

NAMES = ("background", "a", "b")
RULES = RuleSet(classes=NAMES, rules=())


def context(images: int = 1, **changes: object) -> RewardContext:
    return RewardContext(NAMES, [(1.0, 1.0)] * images, **changes)  # type: ignore[arg-type]


def pair(mask: list[list[int]], truth: list[list[int]]) -> tuple[Tensor, Tensor]:
    return torch.tensor(mask)[None, None], torch.tensor(truth)[None]


MASK = [[0, 1, 1, 0], [0, 1, 2, 2]]
TRUTH = [[0, 0, 1, 1], [0, 0, 2, 0]]
# class 0: mask 3, truth 5, both 2 -> IoU 1/3, Dice 1/2; a: 3, 2, 1 -> 1/4, 2/5; b: 2, 1, 1 -> 1/2, 2/3; right 4 of 8


def test_overlap_by_hand() -> None:
    masks, truth = pair(MASK, TRUTH)
    assert confusion(masks, truth, context())[0, 0].tolist() == [[2, 2, 1], [1, 1, 0], [0, 0, 1]]
    assert miou(masks, truth, context()).item() == pytest.approx((1 / 3 + 1 / 4 + 1 / 2) / 3)
    assert dice(masks, truth, context()).item() == pytest.approx((1 / 2 + 2 / 5 + 2 / 3) / 3)
    assert accuracy(masks, truth, context()).item() == pytest.approx(4 / 8)
    assert miou(masks, truth, context(background=False)).item() == pytest.approx((1 / 4 + 1 / 2) / 2)


def test_ignored_pixels_count_nowhere() -> None:
    masks, truth = pair(MASK, [[0, 9, 1, 1], [0, 9, 2, 0]])
    # left: mask 0 1 0 / 0 2 2, truth 0 1 1 / 0 2 0: 0: 3, 3, 2 -> 1/2; a: 1, 2, 1 -> 1/2; b: 2, 1, 1 -> 1/2
    seen = context(ignore_index=9)
    assert miou(masks, truth, seen).item() == pytest.approx(1 / 2)
    assert dice(masks, truth, seen).item() == pytest.approx(2 / 3)
    assert accuracy(masks, truth, seen).item() == pytest.approx(4 / 6)


def test_an_ignored_class_is_not_scored() -> None:
    masks, truth = pair([[0, 1, 2, 2]], [[0, 1, 1, 2]])
    # the last pixel is ignored: 0: 1, 1, 1 -> 1; a: 1, 2, 1 -> 1/2; b, wrongly predicted once, is no class
    assert miou(masks, truth, context(ignore_index=2)).item() == pytest.approx(3 / 4)


def test_absent_classes_are_left_out_and_a_lost_one_is_not() -> None:
    masks, truth = pair([[0, 0, 1, 1]], [[0, 0, 1, 1]])
    for name in ("miou", "dice", "accuracy", "boundary", "hausdorff"):
        assert REWARDS[name](masks, truth, context()).item() == 1
    masks, truth = pair([[0, 0, 1, 1]], [[0, 0, 1, 2]])
    assert miou(masks, truth, context()).item() == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert hausdorff(masks, truth, context()).item() < 0.51


@pytest.mark.parametrize("name", ["miou", "dice", "accuracy", "boundary", "hausdorff"])
def test_an_image_in_which_nothing_can_be_judged_earns_half(name: str) -> None:
    masks, truth = pair([[0, 1, 2, 2]], [[9, 9, 9, 9]])
    assert REWARDS[name](masks, truth, context(ignore_index=9)).item() == 0.5


@pytest.mark.parametrize("name", [*REWARDS])
@pytest.mark.parametrize("shape", [(9,), (6, 7), (5, 6, 7)])
def test_every_reward_scores_every_mask_of_any_dimension(name: str, shape: tuple[int, ...]) -> None:
    if name == "validity" and len(shape) == 1:
        pytest.skip("anatomical rules are for two and three axes")
    generator = torch.Generator().manual_seed(1)
    masks = torch.randint(0, 3, (2, 3, *shape), generator=generator)
    truth = masks[:, 1].clone()
    seen = RewardContext(NAMES, [(1.0,) * len(shape)] * 2, rules=RULES)
    score = REWARDS[name](masks, truth, seen)
    assert score.shape == (2, 3)
    assert ((score >= 0) & (score <= 1)).all()
    assert (score[:, 1] == 1).all()  # the truth itself
    if name != "validity":
        assert (score[:, [0, 2]].mean() < 1).all()
        one_by_one = [
            REWARDS[name](
                masks[i : i + 1, m : m + 1], truth[i : i + 1], RewardContext(NAMES, [(1.0,) * len(shape)])
            )
            for i in range(2)
            for m in range(3)
        ]
        torch.testing.assert_close(score.flatten(), torch.cat(one_by_one).flatten())


def test_dice_is_that_of_the_metrics_where_all_classes_are_there() -> None:
    rng = np.random.default_rng(0)
    mask, truth = rng.integers(0, 3, (2, 12, 13))
    ours = dice(torch.from_numpy(mask)[None, None], torch.from_numpy(truth)[None], context(background=False))
    assert ours.item() == pytest.approx(metrics.dice_per_class(mask, truth, 3).mean())


def square(row: int, column: int, value: int = 1, size: int = 4, shape: int = 12) -> Tensor:
    out = torch.zeros(1, shape, shape, dtype=torch.long)
    out[:, row : row + size, column : column + size] = value
    return out


def test_boundary_by_hand() -> None:
    truth = square(4, 4)  # 12 border pixels, a ring
    near, far = square(4, 5)[:, None], square(4, 7)[:, None]
    assert boundary(near, truth, context()).item() == 1  # off by one pixel, the tolerance
    # off by three: the mask's columns 7..10, the truth's 4..7. Of the mask's 12 border pixels those in column 7 (4, on
    # the truth's right side) and column 8 (rows 4 and 7, within one pixel of column 7) are near; the same the other way
    assert boundary(far, truth, context()).item() == pytest.approx(6 / 12)
    assert (
        boundary(far, truth, context(boundary_tolerance=0.2)).item() == 1
    )  # 3 of the 17 pixels of the diagonal
    assert boundary(torch.zeros_like(near), truth, context()).item() == 0


def test_the_image_edge_is_no_border() -> None:
    # the right half: its border is column 6 alone, 12 pixels; shifted by 3 none is near the other
    truth, moved = torch.zeros(1, 12, 12, dtype=torch.long), torch.zeros(1, 1, 12, 12, dtype=torch.long)
    truth[..., 6:], moved[..., 9:] = 1, 1
    assert boundary(moved, truth, context()).item() == 0


def test_hausdorff_by_hand_and_in_mm() -> None:
    truth, moved = square(4, 4), square(4, 6)[:, None]
    # moved by 2 columns: HD95 is 2 columns; the reward falls to 0 at a quarter of the diagonal
    seen = RewardContext(NAMES, [(1.0, 1.0)])
    assert hausdorff(moved, truth, seen).item() == pytest.approx(1 - 2 / (0.25 * np.hypot(12, 12)))
    wide = RewardContext(NAMES, [(1.0, 3.0)], hausdorff_range=0.5)
    assert hausdorff(moved, truth, wide).item() == pytest.approx(1 - 6 / (0.5 * np.hypot(12, 36)))
    assert hausdorff(torch.zeros_like(moved), truth, seen).item() == 0  # a lost structure


def test_validity_is_the_verdict_of_the_rules() -> None:
    rules = load_rules("lv_myo")
    masks = torch.zeros(1, 2, 32, 32, dtype=torch.long)
    seen = RewardContext(rules.classes, [(1.0, 1.0)], rules=rules)
    assert validity(masks, masks[:, 0], seen).tolist() == [[0, 0]]  # nothing there
    with pytest.raises(ConfigError, match="needs anatomical rules"):
        validity(masks, masks[:, 0], context())
