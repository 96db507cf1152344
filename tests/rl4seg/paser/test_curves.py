"""Curves of policy and rivals on tables that can be followed by hand, and the calibration of budgets."""

from __future__ import annotations

import numpy as np
import pytest

from reward_data.errors import ConfigError
from rl4seg.configs.paser import PaserEvaluationConfig, RoutingConfig
from rl4seg.paser import curves
from rl4seg.paser.budget import calibrate
from rl4seg.paser.evaluation import Routed, Routings, best_within, frontier, measured
from rl4seg.paser.figures import CASCADE, ORACLE, POLICY, RANDOM, Costs, Point, RouterSpec
from rl4seg.paser.table import RoutingTable

COSTS = Costs(parameters=(10, 90), patch_macs=(10, 1000), whole_macs=(40, 4000), policy_macs=5)
SHARES = (0.0, 0.9)


def table() -> RoutingTable:
    """One image of four patches of 4 pixels, two nets. The large net is right everywhere; the small one gets 0, 1, 2
    and 4 pixels of the patches wrong. The policy knows it; the uncertainty has the last two the wrong way round."""
    right = np.array([[2, 0], [0, 2]])
    wrong = [right, np.array([[1, 1], [0, 2]]), np.array([[1, 1], [1, 1]]), np.array([[0, 2], [2, 0]])]
    counts = np.array([[[small, right] for small in wrong]])
    logits = np.array([[[0.0, -2.0], [0.0, -0.5], [0.0, 0.5], [0.0, 2.0]]])
    entropies = np.zeros((1, 4, 2))
    whole = np.array(
        [[sum(wrong), 4 * right - np.array([[1, -1], [0, 0]])]]
    )  # the large one in one piece: one pixel wrong
    return RoutingTable(
        counts, whole, np.array([[0.1, 0.2, 0.9, 0.8]]), entropies, np.zeros((1, 0), np.float32), logits
    )


def test_the_policy_spends_by_its_threshold() -> None:
    taken = [curves.policy_actions(table(), SHARES, t)[0].tolist() for t in (1e6, 1.0, 0.0, -1.0, -1e6)]
    assert taken == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]]
    # patches change at log-odds / .9: -2.22, -.56, .56, 2.22; three thresholds lie between
    between = curves.thresholds(table(), SHARES)[1:-1]
    assert between.tolist() == pytest.approx([-1.389, 0.0, 1.389], abs=1e-3)


def test_a_point_has_its_price() -> None:
    actions = np.array([[0, 0, 0, 1]])
    point = curves.point(table(), actions, COSTS, 0.5, 7.0)
    # classes have 8 pixels each; wrong: 1 + 2 of the first three patches. Class 0: right 2 + 1 + 1 + 2 = 6, union
    # 8 + (6 + 1) - 6 = 9; class 1: right 2 + 2 + 1 + 2 = 7, union 8 + (7 + 2) - 7 = 10.
    assert point.iou == pytest.approx((6 / 9 + 7 / 10) / 2)
    assert point.bare_gflop == pytest.approx(2e-9 * 1040)
    assert point.gflop == pytest.approx(point.bare_gflop + 0.5)
    assert point.patches == (0.75, 0.25)


def test_the_cascade_takes_the_most_uncertain() -> None:
    assert curves.cascade_actions(table().uncertain, 0.25, 1).tolist() == [[0, 0, 1, 0]]
    assert curves.cascade_actions(table().uncertain, 0.0, 1).sum() == 0
    assert curves.cascade_actions(table().uncertain, 1.0, 1).sum() == 4


def test_a_cascade_through_all_pays_every_net_that_it_asks() -> None:
    base = table()
    counts = np.concatenate([base.counts, base.counts[:, :, 1:]], 2)
    entropies = np.array([[[0.1, 0, 0], [0.2, 0, 0], [0.9, 0.6, 0], [0.8, 0.1, 0]]])
    three = RoutingTable(counts, base.whole, base.uncertain, entropies, base.read, np.zeros((1, 4, 3)))
    actions, ran = curves.sequential_actions(three, 0.5)  # limit: median of .1 .2 .8 .9 = .5
    assert actions.tolist() == [[0, 0, 2, 1]]
    assert ran.sum((0, 1)).tolist() == [0, 2, 1]


def test_bands_give_the_surest_to_the_smallest() -> None:
    order = np.array([[0.1, 0.9], [0.8, 0.2]])
    assert curves.band_actions(order, (0.5, 0.25, 0.25)).tolist() == [[0, 2], [1, 0]]
    assert curves.band_actions(order, (0.0, 0.0, 1.0)).tolist() == [[2, 2], [2, 2]]
    ways = curves.band_shares(3, 10)  # three steps: 10 ways
    assert sorted((3 * ways).round().astype(int).tolist()) == sorted(
        [[a, b, 3 - a - b] for a in range(4) for b in range(4 - a)]
    )
    assert len(curves.band_shares(2, 300)) == 300
    assert len(curves.band_shares(6, 5)) == 6  # at least everything to one


def test_a_frontier_has_no_point_that_a_cheaper_one_beats() -> None:
    def routed(gflop: float, iou: float) -> Routed:
        point = Point(setting=0, iou=iou, gflop=gflop, bare_gflop=gflop, patches=(1.0,))
        return Routed(np.zeros((1, 1), np.int64), np.zeros((1, 1, 1), np.bool_), point)

    found = frontier([routed(3, 0.7), routed(1, 0.5), routed(2, 0.8), routed(1, 0.4), routed(4, 0.9)])
    assert [(r.point.gflop, r.point.iou) for r in found] == [(1, 0.5), (2, 0.8), (4, 0.9)]


def test_chance_keeps_the_numbers_and_the_oracle_knows_the_truth() -> None:
    actions = np.array([[0, 0, 1, 1]])
    drawn = [curves.random_actions(actions, np.random.default_rng(seed)) for seed in range(10)]
    assert all(a.sum() == 2 for a in drawn)
    assert len({tuple(a[0]) for a in drawn}) > 1
    gain = curves.table_gains(table())
    assert curves.oracle_actions(gain, SHARES, 0.0).tolist() == [
        [0, 1, 1, 1]
    ]  # nothing to gain in the first patch
    assert curves.oracle_actions(gain, SHARES, 1.0).tolist() == [[0, 0, 0, 0]]


def test_a_budget_is_kept_and_spent() -> None:
    overhead = 2e-9 * 45
    curve = calibrate(table(), COSTS, SHARES, overhead, "test images")
    # 40 of the small net + 45 of overhead + 1000 per patch, of 4000
    assert curve.shares == pytest.approx([0.02125, 0.27125, 0.52125, 0.77125, 1.02125])
    for budget, patches in ((0.02125, 0), (0.27, 0), (0.28, 1), (0.6, 2), (0.99, 3)):
        chosen = curves.policy_actions(table(), SHARES, curve.threshold(budget))
        assert chosen.sum() == patches
    with pytest.raises(ConfigError, match=r"cost 0\.021 of the largest net already"):
        curve.threshold(0.02)


def test_methods_are_compared_at_equal_cost() -> None:
    routing = RoutingConfig(grid=(2, 2), passes=0)
    spec = RouterSpec(names=("small", "large"), routing=routing, shares=SHARES, costs=COSTS)
    spec = spec.model_copy(
        update={"curve": calibrate(table(), COSTS, SHARES, COSTS.overhead_gflop(0), "these")}
    )
    config = PaserEvaluationConfig(budget=0.3, points=5, random_draws=200)
    work = Routings(table(), spec, config, 0)
    figures, actions = measured(work, "test")
    assert actions[POLICY].tolist() == [[0, 0, 0, 1]]
    assert actions[CASCADE].tolist() == [[0, 0, 1, 0]]  # misled: the third patch
    assert actions[ORACLE].tolist() == [[0, 0, 0, 1]]
    assert figures.rows[POLICY].iou > figures.rows[CASCADE].iou
    # chance: the mean of one patch of four
    each = [curves.score(table(), np.eye(4, dtype=np.int64)[i][None]) for i in range(4)]
    assert figures.rows[RANDOM].iou == pytest.approx(np.mean(each), abs=0.02)
    assert figures.rows["large on every patch"].iou == 1
    assert figures.rows["large on every patch"].gflop == pytest.approx(2e-9 * 4040)
    # in one piece, one pixel of class 0 wrong: 7/8 and 8/9
    assert figures.rows["large"].iou == pytest.approx((7 / 8 + 8 / 9) / 2)
    assert figures.rows["large"].gflop == pytest.approx(2e-9 * 4000)
    assert min(value for _, value in figures.over_cascade) >= 0
    cheap = best_within(work.cascades()[f"{CASCADE} to large"], 0.0)
    assert cheap.actions.sum() == 0
