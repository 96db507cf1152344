"""Acceptance tables and fitted thresholds on rectangles whose areas are known."""

from __future__ import annotations

import numpy as np
import pytest

from reward_data.anatomy import is_valid, rules_from_yaml, rules_to_yaml
from reward_data.anatomy_fit import acceptance, check_folder, fit, fit_folder, resize_labels
from reward_data.errors import DataError

RULES = rules_from_yaml(
    "classes: [background, cell]\nrules:\n- {kind: one_piece, structure: cell}\n"
    "- {kind: area, structure: cell, low: 0.05, high: 0.2}\n- {kind: aspect, structure: cell, high: 3}\n",
    "cells",
)


def cell(columns: int) -> np.ndarray:
    mask = np.zeros((20, 20), np.uint8)
    mask[5:9, 2 : 2 + columns] = 1  # 4 x columns of 400 pixels: area = columns / 100
    return mask


def unit(masks: list[np.ndarray]) -> list[tuple[float, ...]]:
    return [(1.0,) * mask.ndim for mask in masks]


def test_table_counts_each_rule_and_all_together():
    masks = [cell(columns) for columns in (4, 6, 10, 16)]
    masks[1][15, 15] = 1  # a speck
    table = acceptance(masks, RULES, unit(masks))
    area = table.rows[1]
    # areas .04, .0625 (25 pixels), .10, .16: one is below .05. Of the aspects only 16 x 4 is above 3.
    assert (area.accepted, area.smallest, area.largest) == (0.75, 0.04, 0.16)
    assert area.median == pytest.approx((0.0625 + 0.10) / 2)
    assert [row.accepted for row in table.rows] == [0.75, 0.75, 0.75]
    assert table.accepted == 1
    assert table.share == 0.25
    assert [m.rule for m in table.rejected["0"]] == ["area(cell)"]


def test_fit_without_margin_is_the_range_of_the_masks():
    masks = [cell(columns) for columns in (5, 8, 12)]
    area, aspect = fit(masks, RULES, acceptance=1.0, margin=0.0).rules[1:]
    assert (area.low, area.high) == (0.05, 0.12)
    assert (aspect.low, aspect.high) == (None, 3.0)  # 12 x 4; the set has no lower limit, so none is made


def test_margin_widens_by_a_share_of_the_spread():
    masks = [cell(columns) for columns in (5, 8, 15)]
    area = fit(masks, RULES, acceptance=1.0, margin=0.2).rules[1]
    assert (area.low, area.high) == (pytest.approx(0.03), pytest.approx(0.17))  # spread .10


def test_fit_gives_up_the_outliers_and_keeps_the_promise():
    masks = [cell(5 + index % 4) for index in range(39)] + [cell(17)]
    fitted = fit(masks, RULES, acceptance=0.97, margin=0.0)
    assert fitted.rules[1].high == 0.08
    assert acceptance(masks, fitted, unit(masks)).share == 39 / 40
    assert is_valid(
        cell(17), fit(masks, RULES, acceptance=0.98, margin=0.0), (1.0, 1.0)
    )  # 40 x .02 is no whole mask


@pytest.mark.parametrize("asked", [0.9, 0.95, 0.995, 1.0])
def test_joint_acceptance_holds_on_random_masks(asked):
    rng = np.random.default_rng(2)
    cases = []
    for index in range(120):
        mask = np.zeros((20, 20), np.uint8)
        mask[2 : 3 + rng.integers(1, 15), 2 : 3 + rng.integers(1, 15)] = 1
        cases.append((f"case{index}", mask, (1.0, 1.5)))
    fitted = fit_folder(cases, RULES, acceptance=asked, margin=0.0)
    assert check_folder(cases, fitted).share >= asked
    assert rules_from_yaml(rules_to_yaml(fitted), "copy") == fitted


def test_labels_that_break_fixed_rules_are_reported():
    masks = [cell(6) for _ in range(10)]
    masks[0][15, 15] = 1
    with pytest.raises(DataError, match="1 of 10 masks break"):
        fit(masks, RULES, acceptance=0.95)
    assert fit(masks, RULES, acceptance=0.9).rules[0] == RULES.rules[0]


def test_no_or_double_cases_are_errors():
    with pytest.raises(DataError, match="no masks"):
        check_folder([], RULES)
    with pytest.raises(DataError, match="'a'"):
        check_folder([("a", cell(6), (1.0, 1.0))] * 2, RULES)


@pytest.mark.parametrize("nearest", [False, True])
def test_resize_labels_keeps_the_field_of_view(nearest):
    mask = np.kron(np.array([[0, 1], [2, 1]], np.uint8), np.ones((4, 4), np.uint8))
    small, spacing = resize_labels(mask, (1.0, 0.5), (2, 4), nearest)
    assert small.tolist() == [[0, 0, 1, 1], [2, 2, 1, 1]]
    assert spacing == (4.0, 1.0)
    assert resize_labels(mask, (1.0, 1.0), (8, 8), nearest)[0].tolist() == mask.tolist()
