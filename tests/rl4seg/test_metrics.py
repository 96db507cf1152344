import numpy as np
import pytest
from scipy.spatial.distance import directed_hausdorff

from rl4seg.metrics import (
    aurc,
    auroc,
    border_points,
    class_entropy,
    dice,
    dice_per_class,
    excess_aurc,
    mutual_information,
    pearson,
    reliability,
    risk_coverage,
    spearman,
    surface_distances,
)


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


def test_confidence_zero_and_one_are_in_the_outer_bins_and_a_single_pixel_counts() -> None:
    # a one-pixel structure, missed with confidence 1: the gap is 1. One pixel at 0, wrong as it says: no gap.
    assert reliability(np.array([[1.0]]), np.array([[False]])).ece == 1
    curve = reliability(np.array([0.0, 1.0]), np.array([False, False]), 20)
    assert (curve.counts[0], curve.counts[-1], curve.counts.sum()) == (1, 1, 2)
    assert (curve.ece, curve.ace, curve.mce) == (0.5, 0.5, 1.0)


def test_bins_are_closed_below() -> None:
    # .05 is the edge of the first two of twenty bins and belongs to the second
    assert reliability(np.array([0.05, 0.049]), np.ones(2, bool), 20).counts[:2].tolist() == [1, 1]


def test_correlations_by_hand() -> None:
    # x - mean = (-1, 0, 1), y - mean = (-1, -1, 2): 3 / sqrt(2 * 6)
    assert pearson(np.array([1.0, 2, 3]), np.array([0.0, 0, 3])) == pytest.approx(3 / 12**0.5)
    # ranks (1, 2, 3) against (1.5, 1.5, 3): the mean rank of the tie
    assert spearman(np.array([1.0, 2, 30]), np.array([0.0, 0, 3])) == pytest.approx(1.5 / (2 * 1.5) ** 0.5)
    assert spearman(np.array([1.0, 2, 3]), np.array([9.0, 4, 1])) == -1


def test_a_constant_or_too_little_has_no_correlation() -> None:
    for a, b in (([1.0, 1, 1], [1.0, 2, 3]), ([1.0, 2], [4.0, 4]), ([1.0], [1.0]), ([], [])):
        assert np.isnan(pearson(np.array(a), np.array(b)))
        assert np.isnan(spearman(np.array(a), np.array(b)))
    with pytest.raises(ValueError, match=r"got shapes \(2,\) and \(3,\)"):
        pearson(np.zeros(2), np.zeros(3))


def test_risk_coverage_by_hand() -> None:
    # surest first: risks 0, .6, .3 -> means 0, .3, .3
    curve = risk_coverage(np.array([0.5, 0.9, 0.1]), np.array([0.6, 0.0, 0.3]))
    assert curve.tolist() == pytest.approx([0, 0.3, 0.3])
    assert aurc(np.array([0.5, 0.9, 0.1]), np.array([0.6, 0.0, 0.3])) == pytest.approx(0.2)
    # the oracle: 0, .3, .6 -> 0, .15, .3, mean .15
    assert excess_aurc(np.array([0.5, 0.9, 0.1]), np.array([0.6, 0.0, 0.3])) == pytest.approx(0.05)
    assert excess_aurc(np.array([0.4, 1.0, 0.7]), np.array([0.6, 0.0, 0.3])) == pytest.approx(0)


def test_tied_scores_are_worth_the_mean_over_their_orders() -> None:
    risk = np.array([0.0, 0.2, 0.7])
    # all tied: whatever share is kept, the mean risk is .3
    assert risk_coverage(np.ones(3), risk).tolist() == pytest.approx([0.3, 0.3, 0.3])
    # the first two tied, orders (0, .2) and (.2, 0): curves (0, .1, .3) and (.2, .1, .3), mean (.1, .1, .3)
    assert risk_coverage(np.array([0.8, 0.8, 0.1]), risk).tolist() == pytest.approx([0.1, 0.1, 0.3])
    assert np.isnan(aurc(np.zeros(0), np.zeros(0)))


def test_mutual_information_by_hand() -> None:
    # two samples of one pixel, sure of different classes: each has entropy 0, their mean log 2
    sure = np.array([[1.0, 0.0]])
    assert class_entropy(sure).tolist() == [0]
    assert mutual_information(np.array([[0.5, 0.5]]), np.zeros(1)) == pytest.approx([np.log(2)])
    # two samples that agree to be unsure disagree about nothing; rounding never makes it negative
    assert mutual_information(np.array([[0.5, 0.5]]), np.array([np.log(2) + 1e-9])) == pytest.approx([0.0])
