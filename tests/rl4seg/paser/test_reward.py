"""IoU, gains and rewards of patches, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rl4seg.paser.reward import confusion, gains, mean_iou, rewards, routed


def test_confusion_counts_truth_by_answer() -> None:
    answer, truth = torch.tensor([[0, 1], [1, 2]]), torch.tensor([[0, 0], [1, 1]])
    # (truth, answer): (0, 0), (0, 1), (1, 1), (1, 2)
    assert confusion(answer, truth, 3).tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]


def test_mean_iou_of_a_hand_worked_patch() -> None:
    counts = np.array([[1, 1, 0], [0, 1, 1], [0, 0, 0]])
    # class 0: 1 / 2, class 1: 1 / 3, class 2: 0 / 1; mean 5 / 18
    assert mean_iou(counts) == pytest.approx(5 / 18)
    # weights 1, 3, 0: (1/2 + 3 * 1/3) / 4
    assert mean_iou(counts, (1, 3, 0)) == pytest.approx(1.5 / 4)


def test_a_class_in_neither_is_left_out_and_nothing_at_all_is_right() -> None:
    assert mean_iou(np.array([[3, 1, 0], [0, 0, 0], [0, 0, 0]])) == pytest.approx((3 / 4 + 0) / 2)
    assert mean_iou(np.zeros((2, 2), np.int64)) == 1
    assert mean_iou(np.array([[0, 0], [0, 5]]), (1, 0)) == 1  # only a class without weight


def two_patches() -> np.ndarray:
    """One image of two patches of 4 pixels, two nets, two classes. Shape: (1, 2, 2, 2, 2).

    Patch 0: the small net has one pixel of class 1 of two, the large both. Patch 1: both are right (class 0 only).
    """
    right0 = np.array([[4, 0], [0, 0]])
    small, large = np.array([[2, 0], [1, 1]]), np.array([[2, 0], [0, 2]])
    return np.array([[[small, large], [right0, right0]]])


def test_gain_inside_the_patch() -> None:
    # patch 0, small: class 0 2/3, class 1 1/2: mean 7/12; large: 1. Patch 1: no gain.
    assert gains(two_patches(), "patch_iou")[0] == pytest.approx(np.array([[0, 5 / 12], [0, 0]]))


def test_gain_of_the_whole_image() -> None:
    # image, small everywhere: class 0 6/7, class 1 1/2: mean 19/28; with the large net on patch 0: 1. Two patches:
    # 2 (1 - 19/28) = 9/14.
    assert gains(two_patches(), "image_iou")[0] == pytest.approx(np.array([[0, 9 / 14], [0, 0]]))


def test_the_reward_is_the_papers() -> None:
    # (1 - .5) .4 - .5 * .94 = -.27; (1 - .2) .4 - .2 * .059 = .3082; the smallest net: 0.
    assert rewards(np.array([0, 0.4]), (0, 0.94), 0.5) == pytest.approx([0, -0.27])
    assert rewards(np.array([0, 0.4]), (0, 0.059), 0.2) == pytest.approx([0, 0.3082])


def test_routed_images_add_up_the_chosen_patches() -> None:
    counts = two_patches()
    assert routed(counts, np.array([[1, 0]]))[0].tolist() == [[6, 0], [0, 2]]
    assert routed(counts, np.array([[0, 1]]))[0].tolist() == [[6, 0], [1, 1]]
