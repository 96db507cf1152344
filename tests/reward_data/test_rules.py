"""Each kind of rule against numbers counted by hand on small masks. L is LV (1), M is MYO (2)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from reward_data.mask_geometry import MaskGeometry
from reward_data.rules import (
    Area,
    Aspect,
    ContactPosition,
    ContactSegments,
    EndFill,
    FrontierRatio,
    MinWallThickness,
    NoGap,
    NoHole,
    OnePiece,
    Present,
    Solidity,
    ThicknessBeforeSplit,
    WidthRatio,
)

NAMES = ("background", "lv", "myo")


def value(rule, picture, spacing=(1.0, 1.0)) -> float:
    if isinstance(picture, str):
        picture = np.array([[".LM".index(letter) for letter in row] for row in picture.split()], np.uint8)
    return rule.value(MaskGeometry(picture, spacing, NAMES))


def rectangle(rows: int, columns: int, label: int = 1, pad: int = 2) -> np.ndarray:
    return np.pad(np.full((rows, columns), label, np.uint8), pad)


def test_present_and_area():
    picture = "LL.. LLM. ...."  # 4 L and 1 M of 12 pixels
    assert value(Present(structure="lv"), picture) == pytest.approx(4 / 12)
    assert value(Area(structure="lv"), picture) == pytest.approx(4 / 12)
    assert value(Area(structure="lv", relative_to=("lv", "myo")), picture) == pytest.approx(4 / 5)
    assert value(Area(structure="lv", relative_to="mm"), picture, (0.5, 3.0)) == pytest.approx(4 * 1.5)
    assert value(Area(structure="myo", relative_to="lv"), "M") == math.inf


def test_one_piece_joins_over_corners_and_counts_what_is_apart():
    assert value(OnePiece(structure="lv"), "L.. .L. ..L") == 0.0
    assert value(OnePiece(structure="lv"), "LLL.. LLL.. LLL.L") == pytest.approx(1 / 10)


def test_no_hole_leaks_over_faces_only():
    assert value(NoHole(structure="lv"), "LLL L.L LLL") == pytest.approx(1 / 8)
    assert value(NoHole(structure="lv"), "LLL LML LLL") == pytest.approx(1 / 8)  # filled by another class
    assert value(NoHole(structure=("lv", "myo")), "LLL LML LLL") == 0.0
    assert value(NoHole(structure="lv"), "LL. L.L LLL") == pytest.approx(1 / 7)  # a corner lets nothing out
    assert value(NoHole(structure="lv"), "L.L L.L LLL") == 0.0


def test_no_gap_counts_background_between_and_none_beside():
    picture = "LL.MM LL.MM LLMMM"  # 2 gap pixels; 6 L and 7 M
    assert value(NoGap(structure="lv", neighbour="myo"), picture) == pytest.approx(2 / 13)
    assert value(NoGap(structure="lv", neighbour="myo"), "LLMM LLMM ....") == 0.0
    wide = "LL....MM LL....MM"  # size sqrt(8) = 2.8: a reach of 1 does not span 4 pixels, a reach of 2 (6 px) does
    assert value(NoGap(structure="lv", neighbour="myo", reach=1.0), wide) == 0.0
    assert value(NoGap(structure="lv", neighbour="myo", reach=2.0), wide) == pytest.approx(8 / 8)


def test_frontier_ratio():
    picture = "LLLL LLLL MMMM"
    # L's 4 corner pixels have two open directions (sqrt 2 each), its 4 others one; 4 pixels face M.
    assert value(FrontierRatio(structure="lv", neighbour="myo"), picture) == pytest.approx(
        4 / (4 + 4 * math.sqrt(2))
    )
    in_mm = FrontierRatio(structure="lv", neighbour="myo", relative_to="mm")
    assert value(in_mm, picture, (5.0, 0.5)) == pytest.approx(4 * 0.5)
    assert value(
        FrontierRatio(structure="lv", neighbour="myo", relative_to="height"), picture
    ) == pytest.approx(4 / 2)


def test_frontier_length_of_a_slant_is_its_length():
    grid = np.arange(100)
    below = (grid[:, None] > grid[None, :]).astype(np.uint8) + 1  # L above the diagonal, M below
    length = value(FrontierRatio(structure="lv", neighbour="myo", relative_to="mm"), below)
    assert length == pytest.approx(100 * math.sqrt(2), rel=0.01)


def test_width_ratio_is_of_the_middle_rows():
    assert value(WidthRatio(structure="lv", other="myo", band=0.0), "LLLLL MLLLM LLLLL") == pytest.approx(
        3 / 2
    )
    assert value(WidthRatio(structure="lv", other="myo", band=1.0), "LLLLL MLLLM LLLLL") == pytest.approx(
        13 / 2
    )
    assert value(WidthRatio(structure="lv", other="myo"), "LLL") == math.inf


def test_aspect_of_a_rectangle_is_its_sides_in_mm():
    # variance of n pixel centres (n^2 - 1) / 12, plus 1 / 12 within a pixel: n^2 / 12
    assert value(Aspect(structure="lv"), rectangle(12, 4)) == pytest.approx(3.0)
    assert value(Aspect(structure="lv"), rectangle(12, 4), (0.5, 2.0)) == pytest.approx(8 / 6)


def test_solidity_counts_pixels_of_the_hull():
    assert value(Solidity(structure="lv"), "L.L L.L LLL") == pytest.approx(7 / 9)
    for convex in (rectangle(5, 9), rectangle(1, 7), rectangle(7, 1), rectangle(1, 1)):
        assert value(Solidity(structure="lv"), convex) == 1.0
    assert value(Solidity(structure="lv"), "L.. .L. ..L") == 1.0  # a line, the hull is flat
    disc = (np.hypot(*(np.mgrid[:41, :41] - 20)) <= 18).astype(np.uint8)
    assert value(Solidity(structure="lv"), disc) == 1.0


def test_contact_segments_and_position():
    one = "MMMMM MLLLM MLLLM MLLLM"
    two = "MMMMM MLLL. MLLLM MLLLM"
    assert value(ContactSegments(structure="lv"), one) == 1.0
    assert value(ContactSegments(structure="lv", ignore=0.0), "MMMMM .LLLM MLLLM MLLLM") == 2.0
    assert value(ContactSegments(structure="lv", ignore=0.5), "MMMMM .LLLM MLLLM MLLLM") == 1.0  # 1 < 0.5 x 3
    assert value(ContactSegments(structure="lv"), "MMM MLM MMM") == 0.0
    assert value(ContactPosition(structure="lv"), one) == 0.0
    assert value(ContactPosition(structure="lv"), two) == 1.0
    assert value(ContactPosition(structure="lv", end="low"), one) == 1.0
    assert math.isnan(value(ContactPosition(structure="lv"), "MMM MLM MMM"))


def test_end_fill_reads_the_last_rows_and_parts_of_rows():
    picture = "LLLL LLLL LL.. L..."
    assert value(EndFill(structure="lv"), picture) == pytest.approx(1 / 4)
    assert value(EndFill(structure="lv", end="low"), picture) == 1.0
    # 0.375 of 4 rows is 1.5 rows: (1/4 + half of 2/4) / 1.5
    assert value(EndFill(structure="lv", band=0.375), picture) == pytest.approx(0.5 / 1.5)


def test_wall_thickness_counts_whole_wall_pixels():
    mask = np.pad(np.pad(np.ones((11, 11), np.uint8), 3, constant_values=2), 4)
    rule = MinWallThickness(structure="myo", inner="lv", relative_to="mm")
    assert value(rule, mask) == pytest.approx(3.0)
    assert value(rule, mask, (0.5, 0.5)) == pytest.approx(1.5)
    assert value(MinWallThickness(structure="myo", inner="lv"), mask) == pytest.approx(3 / 17)
    mask[:, 4:6] = 0  # one pixel of wall is left on the left, 11 of 40 border pixels
    assert value(
        MinWallThickness(structure="myo", inner="lv", relative_to="mm", quantile=0.2), mask
    ) == pytest.approx(1.0)
    assert value(MinWallThickness(structure="myo", inner="lv", relative_to="thick", quantile=0.2), mask) == (
        pytest.approx(1 / 3)
    )


def test_wall_thickness_of_a_shell_in_3d():
    mask = np.pad(np.pad(np.ones((5, 5, 5), np.uint8), 2, constant_values=2), 1)
    rule = MinWallThickness(structure="myo", inner="lv", relative_to="mm")
    assert value(rule, mask, (1.0, 1.0, 1.0)) == pytest.approx(2.0)


def test_thickness_before_split_of_two_blocks_on_a_bridge():
    mask = np.zeros((9, 21), np.uint8)
    mask[:, :9] = mask[:, 12:] = mask[4, 9:12] = 1
    # Depth 5 in the blocks, 1 on the bridge; in 25 steps of 0.2 the fifth (1.0) splits, four are survived.
    assert value(ThicknessBeforeSplit(structure="lv"), mask) == pytest.approx(4 / 25)
    assert value(ThicknessBeforeSplit(structure="lv"), rectangle(9, 9)) == pytest.approx(24 / 25)


def test_a_missing_structure_is_not_applicable_except_for_present():
    empty = np.zeros((4, 4), np.uint8)
    for rule in (
        OnePiece(structure="lv"),
        Area(structure="lv", low=0.1),
        NoGap(structure="lv", neighbour="myo"),
    ):
        assert math.isnan(value(rule, empty))
        assert rule.accepts(math.nan)
    assert not Present(structure="lv").accepts(value(Present(structure="lv"), empty))


def test_limits_are_inclusive():
    rule = Area(structure="lv", low=0.25, high=0.5)
    assert [rule.accepts(share) for share in (0.24, 0.25, 0.5, 0.51)] == [False, True, True, False]
