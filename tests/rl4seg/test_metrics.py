import numpy as np
import pytest
from scipy.spatial.distance import directed_hausdorff

from rl4seg.metrics import auroc, border_points, dice, dice_per_class, reliability, surface_distances


def square(top: int, left: int, size: int, shape: tuple[int, int] = (20, 20)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[top : top + size, left : left + size] = True
    return mask


def test_dice_by_hand() -> None:
    # 4x4 squares shifted by two columns overlap in 8 pixels: 2 * 8 / 32
    assert dice(square(0, 0, 4), square(0, 2, 4)) == pytest.approx(0.5)


def test_dice_of_empty_masks() -> None:
    empty = np.zeros((4, 4), bool)
    assert dice(empty, empty) == 1
    assert dice(empty, square(0, 0, 1, (4, 4))) == 0


def test_dice_per_class_is_per_class() -> None:
    a, b = np.array([[1, 1, 2, 0]]), np.array([[1, 2, 2, 0]])
    assert dice_per_class(a, b, 3).tolist() == pytest.approx([2 / 3, 2 / 3])


def test_distances_in_mm_by_hand() -> None:
    # one pixel against one pixel three columns away, spacing 2 x .5 mm: 1.5 mm
    distances = surface_distances(square(0, 0, 1), square(0, 3, 1), (2.0, 0.5))
    assert distances.hd == pytest.approx(1.5)
    assert distances.hd95 == pytest.approx(1.5)


def test_hausdorff_agrees_with_scipy_and_hd95_ignores_a_speck() -> None:
    a, b = square(4, 4, 8), square(5, 5, 8)
    b[19, 19] = True
    points_a, points_b = border_points(a, (1.0, 1.0)), border_points(b, (1.0, 1.0))
    wanted = max(directed_hausdorff(points_a, points_b)[0], directed_hausdorff(points_b, points_a)[0])
    got = surface_distances(a, b, (1.0, 1.0))
    assert got.hd == pytest.approx(wanted)
    assert got.hd95 < 3 < got.hd


def test_lost_structure_costs_the_image_diagonal() -> None:
    empty = np.zeros((3, 4), bool)
    assert surface_distances(empty, empty, (1.0, 1.0)).hd == 0
    assert surface_distances(empty, square(0, 0, 1, (3, 4)), (1.0, 1.0)).hd == pytest.approx(5)


def test_reliability_by_hand_and_confidence_one_is_kept() -> None:
    # four pixels at 1.0, three right: last bin confidence 1, accuracy .75; two at .6, one right: gap .1
    curve = reliability(np.array([1.0, 1.0, 1.0, 1.0, 0.6, 0.6]), np.array([1, 1, 1, 0, 1, 0], bool), 20)
    assert curve.counts[-1] == 4
    assert curve.ece == pytest.approx((4 * 0.25 + 2 * 0.1) / 6)
    assert curve.ace == pytest.approx((0.25 + 0.1) / 2)
    assert curve.mce == pytest.approx(0.25)


def test_reliability_of_nothing() -> None:
    curve = reliability(np.zeros(0), np.zeros(0, bool))
    assert (curve.ece, curve.ace, curve.mce) == (0, 0, 0)


def test_auroc_by_hand() -> None:
    # positives .8 .4, negatives .6 .2: three of four pairs in order
    assert auroc(np.array([0.8, 0.4, 0.6, 0.2]), np.array([1, 1, 0, 0], bool)) == pytest.approx(0.75)
    assert auroc(np.array([0.5, 0.5]), np.array([1, 0], bool)) == pytest.approx(0.5)
    assert np.isnan(auroc(np.array([0.5]), np.array([True])))
