"""The report: what it says, that it needs nothing from outside, that equal data give equal bytes."""

from __future__ import annotations

import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from rich.console import Console

from flows.reporting import montage, training_curves
from flows.reporting.data import (
    LOGIT_BIAS,
    MAIN,
    PPO_OFF,
    SOURCE_ONLY,
    UPPER_BOUND,
    Curve,
    EvaluationRow,
    MeanSd,
)
from flows.reporting.report import (
    METRICS,
    _cases_to_look_at,
    collect_metrics,
    metrics_text,
    read_metrics,
    render,
)
from flows.reporting.tables import best_text, cells, duration, quality_columns, result_table
from flows.reporting.verdict import dice_difference, honest_verdict, validity_difference
from tests.flows.reporting import report_fixture as made


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return render(made.report_data(), tmp_path_factory.mktemp("report")).read_text(encoding="utf-8")


class _Links(HTMLParser):
    """Every src and href, and whether the tags balance."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [
            value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")
        ]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def text_of(page: str) -> str:
    """Visible text, tags removed, blanks collapsed."""
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


# --- the file ---------------------------------------------------------------------------------


def test_self_contained_and_well_formed(page: str) -> None:
    links = _Links()
    links.feed(page)
    assert links.open == []
    assert len(links.links) > 30
    assert all(link.startswith(("data:image/", "#")) for link in links.links)
    assert {link[1:] for link in links.links if link.startswith("#")} <= set(links.ids)
    assert len(links.ids) == len(set(links.ids))
    assert not re.search(r"https?://|<script|@import|url\(", page)


def test_small_and_quick(tmp_path: Path) -> None:
    data = made.report_data()
    render(data, tmp_path)  # fonts and imports
    start = time.process_time()
    path = render(data, tmp_path)
    assert time.process_time() - start < 6  # measured 1.1 s; the limit allows for a busy machine
    assert path.stat().st_size < 4e6


def test_equal_data_give_equal_bytes(tmp_path: Path) -> None:
    render(made.report_data(), tmp_path / "a")
    render(made.report_data(), tmp_path / "b")
    for name in ("report.html", "metrics.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_every_section_and_number_is_there(page: str) -> None:
    text = text_of(page)
    for title in (
        "Verdict",
        "Results per iteration",
        "Over iterations",
        "Anatomical rules",
        "Cases to look at",
    ):
        assert title in text
    for title in (
        "The same target cases",
        "Calibration",
        "Training curves",
        "reward dataset",
        "Glossary",
        "Lineage",
    ):
        assert title in text
    # last loop row of the fixture: dice 0.765 + 4 * 0.0075 = 0.795, lv + 0.05, myo - 0.05, hd95 = 10 * 0.205 * 3
    assert "RL4Seg 4 0.845 ± 0.080 0.745 ± 0.080 0.795 ± 0.080 6.1 ± 2.1 10.2 ± 4.2 93.0 %" in text
    # its signals: reward .78 + .08, ECE .12 - .04 and .06 - .02, KL .08, entropy .2 - .08, 65.5 s
    assert "RL4Seg 4 0.860 0.080 0.040 0.080 0.120 1 min 06 s" in text
    assert "source-only 0 – – – – 0.210 48 s" in text
    assert "RL4Seg 1 300 50.0 % 25.0 %" in text
    assert "iteration 4 0.96" in text


def test_ids_and_texts_are_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>&\"'"
    rows = tuple(
        r.model_copy(update={"case_dice": {evil: 0.5, "b": 0.6}, "arm": evil if r.arm == PPO_OFF else r.arm})
        for r in made.helped_rows()
    )
    data = made.report_data(
        title=evil,
        run_name=evil,
        command=evil,
        config_yaml=evil,
        class_names=(evil, "myo"),
        rows=rows,
        montages=(made.montage_case(evil, 0, 32),),
        lineage=({evil: evil},),
        versions={evil: evil},
    )
    page = render(data, tmp_path).read_text(encoding="utf-8")
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)") > 10


def test_empty_run_and_unlabelled_run_render(tmp_path: Path) -> None:
    nothing: dict[str, Any] = {
        "rows": (),
        "curves": (),
        "montages": (),
        "reliability": (),
        "synthesis": (),
        "lineage": (),
    }
    page = render(made.report_data(**nothing), tmp_path).read_text(encoding="utf-8")
    assert "No policy was evaluated" in page
    unlabelled = tuple(
        made.row(arm, i, None, 0.6 + 0.1 * i, case_trust={"sure": 0.75, "doubtful": 0.25})
        for arm, i in ((SOURCE_ONLY, 0), (MAIN, 1))
    )
    montages = (made.montage_case("a", 0, 32, labelled=False),)
    data = made.report_data(rows=unlabelled, montages=montages, unit="px (spacing unknown)")
    text = text_of(render(data, tmp_path).read_text(encoding="utf-8"))
    assert "the target has no labels" in text
    assert "distances in px (spacing unknown)" in text
    assert "Dice lv" not in text
    assert (
        "No labels: the least trusted masks of the policy handed out. Case Trust doubtful 0.250 sure 0.750"
        in text
    )


# --- metrics.json ---------------------------------------------------------------------------------


def test_metrics_round_trip(tmp_path: Path) -> None:
    data = made.report_data()
    render(data, tmp_path)
    back = read_metrics(tmp_path / METRICS)
    assert back == collect_metrics(data)
    assert back.rows[-1].arm == UPPER_BOUND
    plain = json.loads((tmp_path / METRICS).read_text(encoding="utf-8"))
    assert plain["schema_version"] == 1
    assert plain["verdict"][0]["text"].startswith("The loop helped")
    (tmp_path / METRICS).write_text(metrics_text(back).replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(ValidationError):
        read_metrics(tmp_path / METRICS)


def test_metrics_without_curves_is_json() -> None:
    assert json.loads(metrics_text(collect_metrics(made.report_data(curves=()))))["curves"] == []


def test_nan_becomes_not_measured_and_is_refused_inside_a_mean() -> None:
    row = EvaluationRow(arm=MAIN, iteration=1, cases=1, kl=float("nan"), ece_after=float("inf"))
    assert (row.kl, row.ece_after) == (None, None)
    with pytest.raises(ValidationError):
        EvaluationRow(arm=MAIN, iteration=1, cases=1, dice_mean=MeanSd(float("nan"), 0.0))
    curve = Curve(arm=MAIN, iteration=1, stage="ppo", columns={"step": (1.0, 2.0), "x": (float("nan"), 3.0)})
    assert curve.columns["x"] == (None, 3.0)


# --- verdict ---------------------------------------------------------------------------------


def said(rows: tuple[EvaluationRow, ...]) -> list[tuple[str, str]]:
    return [(statement.tone, statement.text) for statement in honest_verdict(rows)]


def texts(rows: tuple[EvaluationRow, ...], tone: str) -> str:
    return "\n".join(text for found, text in said(rows) if found == tone)


def test_margins_by_hand() -> None:
    # unpaired: 2 * sqrt(.08^2 / 60 + .06^2 / 60) = 2 * sqrt(.01 / 60) = .025820
    a, b = (
        made.row(MAIN, 1, 0.80, 0.9, paired=False),
        made.row(SOURCE_ONLY, 0, 0.76, 0.6, sd=0.06, paired=False),
    )
    gain = dice_difference(a, b)
    assert gain is not None
    assert gain.value == pytest.approx(0.04)
    assert gain.margin == pytest.approx(0.025820, abs=1e-6)
    # 2 * sqrt((.9 * .1 + .6 * .4) / 60) = 2 * sqrt(.33 / 60) = .148324
    valid = validity_difference(a.model_copy(update={"case_valid": {}}), b)
    assert valid is not None
    assert valid.margin == pytest.approx(0.148324, abs=1e-6)
    # paired: gains .1, .3 -> mean .2, sd .141421, margin 2 * .141421 / sqrt(2) = .2 = the mean: no difference
    c = a.model_copy(update={"case_dice": {"x": 0.5, "y": 0.75, "z": 0.1}})
    d = b.model_copy(update={"case_dice": {"x": 0.4, "y": 0.45}})
    paired = dice_difference(c, d)
    assert paired is not None
    assert (paired.value, paired.margin) == (pytest.approx(0.2), pytest.approx(0.2))
    assert paired.detail == ", better on 2 of 2 cases"
    # paired validity: gains 1, 1, 0 -> mean 2/3, sd .57735, margin 2 * .57735 / sqrt(3) = 2/3
    e = a.model_copy(update={"case_valid": {"x": True, "y": True, "z": True}})
    f = b.model_copy(update={"case_valid": {"x": False, "y": False, "z": True}})
    valid = validity_difference(e, f)
    assert valid is not None
    assert (valid.value, valid.margin) == (pytest.approx(2 / 3), pytest.approx(2 / 3))


def test_helped() -> None:
    rows = made.helped_rows()
    tone, first = said(rows)[0]
    assert tone == "good"
    assert first.startswith(
        "The loop helped after 4 iterations, against source-only: mean Dice 0.765 → 0.795 (+0.030, beyond"
    )
    assert "validity 65.0 % → 93.0 %" in first
    good = texts(rows, "good")
    assert "PPO's own part is validity, not Dice." in good
    assert "the loop beats the logit bias" in good
    # (.795 - .765) / (.838 - .765) = .030 / .073 = 41 %
    assert "closes 41 % of the 0.073 Dice" in texts(rows, "neutral")
    assert texts(rows, "warning") == ""
    assert "one seed" in said(rows)[-1][1]


def test_not_helped_within_the_spread() -> None:
    rows = (made.row(SOURCE_ONLY, 0, 0.765, 0.65), made.row(MAIN, 1, 0.767, 0.65))
    tone, first = said(rows)[0]
    assert (tone, first[:21]) == ("neutral", "The loop did not help")
    assert first.count("within the spread of cases") == 2
    assert "PPO off was not run" in texts(rows, "neutral")


def test_hurt_and_mixed() -> None:
    source = made.row(SOURCE_ONLY, 0, 0.765, 0.65)
    assert said((source, made.row(MAIN, 1, 0.70, 0.65)))[0][1].startswith("The loop hurt after 1 iteration,")
    tone, first = said((source, made.row(MAIN, 2, 0.70, 0.95)))[0]
    assert (tone, first[:20]) == ("warning", "The picture is mixed")


def test_ppo_off_as_good_and_better() -> None:
    source = made.row(SOURCE_ONLY, 0, 0.765, 0.65)
    loop = made.row(MAIN, 2, 0.795, 0.90)
    as_good = (source, loop, made.row(PPO_OFF, 2, 0.795, 0.90))
    assert "PPO off is as good" in texts(as_good, "warning")
    better = (source, loop, made.row(PPO_OFF, 2, 0.82, 0.90))
    assert "PPO off is better in Dice: PPO did harm here. PPO off → RL4Seg: mean Dice 0.820 → 0.795" in texts(
        better, "warning"
    )
    # compared at the same iteration, not with a later one
    later = (source, loop, made.row(PPO_OFF, 2, 0.795, 0.90), made.row(PPO_OFF, 3, 0.90, 0.90))
    assert "PPO off is as good" in texts(later, "warning")


def test_logit_bias_as_good() -> None:
    rows = (
        made.row(SOURCE_ONLY, 0, 0.765, 0.65),
        made.row(LOGIT_BIAS, 0, 0.79, 0.80),
        made.row(MAIN, 1, 0.79, 0.80),
    )
    assert "A bias on the foreground logits" in texts(rows, "warning")


def test_no_labels_are_said_and_never_called_help() -> None:
    rows = (
        made.row(SOURCE_ONLY, 0, None, 0.65),
        made.row(MAIN, 1, None, 0.95),
        made.row(PPO_OFF, 1, None, 0.7),
    )
    tone, first = said(rows)[0]
    assert tone == "neutral"
    assert first.startswith("Validity rose after 1 iteration, against source-only: validity 65.0 % → 95.0 %")
    assert "No labels: only label-free signals" in first
    assert "helped" not in "\n".join(text for _, text in said(rows))
    assert "PPO's own part is validity. PPO off" in texts(rows, "good")


def test_cases_to_look_at_go_by_dice_or_without_labels_by_trust() -> None:
    trust = {"a": 0.9, "b": 0.2, "c": 0.2, "d": 0.5}
    blind = made.row(MAIN, 1, None, 0.7, case_trust=trust)
    found = _cases_to_look_at((made.row(SOURCE_ONLY, 0, None, 0.6), blind))
    assert [tuple(case) for case in found] == [
        ("b", 0.2, None, None), ("c", 0.2, None, None), ("d", 0.5, None, None), ("a", 0.9, None, None)
    ]  # fmt: skip
    source = made.row(SOURCE_ONLY, 0, 0.7, 0.6).model_copy(update={"case_dice": {"a": 0.5, "b": 0.75}})
    dice = {"a": 0.25, "b": 0.5, "c": 0.75}  # d has no label
    found = _cases_to_look_at((source, blind.model_copy(update={"case_dice": dice})))
    assert [tuple(case) for case in found] == [
        ("a", 0.9, 0.25, -0.25), ("b", 0.2, 0.5, -0.25), ("c", 0.2, 0.75, None)
    ]  # fmt: skip


def test_collapse_is_warned_about() -> None:
    source = made.row(SOURCE_ONLY, 0, 0.765, 0.80, class_area={"lv": 0.10, "myo": 0.08})
    good = made.row(MAIN, 1, 0.78, 0.85, mean_reward=0.70)
    bad = made.row(MAIN, 3, 0.60, 0.70, mean_reward=0.90, class_area={"lv": 0.11, "myo": 0.05})
    warnings = texts((source, good, bad), "warning")
    assert "The loop hurt" in warnings
    assert (
        "Mean reward rises (0.700 → 0.900) while validity falls (0.850 → 0.700) from iteration 1 to 3"
        in warnings
    )
    assert "while Dice falls (0.780 → 0.600)" in warnings
    assert "Dice of myo falls against source-only: 0.715 → 0.550." in warnings
    # .05 / .08 - 1 = -37.5 %; lv changed by 10 %, below the limit of 20 %
    assert "The mean area of myo shrinks by 38 %" in warnings
    assert "area of lv" not in warnings
    assert "Iteration 1 was better than the last one" in warnings


def test_nothing_to_compare() -> None:
    ((tone, text),) = said((made.row(SOURCE_ONLY, 0, 0.7, 0.6),))
    assert (tone, "no evaluated row for 'RL4Seg'" in text) == ("neutral", True)
    assert "no gap to close" in texts(
        (made.row(SOURCE_ONLY, 0, 0.8, 0.6), made.row(MAIN, 1, 0.8, 0.6), made.row(UPPER_BOUND, 0, 0.8, 0.6)),
        "warning",
    )


@given(
    dice=st.lists(st.none() | st.floats(0, 1), min_size=4, max_size=4),
    validity=st.lists(st.none() | st.floats(0, 1), min_size=4, max_size=4),
    cases=st.integers(0, 3),
)
def test_verdict_never_fails(dice: list[float | None], validity: list[float | None], cases: int) -> None:
    rows = [
        EvaluationRow(
            arm=arm,
            iteration=0 if arm == SOURCE_ONLY else 1,
            cases=cases,
            labelled=d is not None,
            dice_mean=None if d is None else MeanSd(d, 0.0),
            validity=v,
            mean_reward=v,
        )
        for arm, d, v in zip((SOURCE_ONLY, MAIN, PPO_OFF, UPPER_BOUND), dice, validity)
    ]
    assert honest_verdict(rows)


# --- tables, curves, montages ---------------------------------------------------------------------------------


def test_best_in_column_is_bold_ties_too_and_never_the_upper_bound() -> None:
    rows = (
        made.row(SOURCE_ONLY, 0, 0.7, 0.6),
        made.row(MAIN, 1, 0.8, 0.6),
        made.row(MAIN, 2, 0.8, 0.5),
        made.row(UPPER_BOUND, 0, 0.8, 0.6),  # as good as the best, and still not bold
    )
    columns = quality_columns(("lv",), "mm")
    marked = [[cell.best for cell in line] for line in cells(columns, rows)]
    # columns: Dice lv, Dice mean, HD95, HD, validity
    assert marked == [[False] * 4 + [True], [True] * 5, [True] * 4 + [False], [False] * 5]
    assert best_text(columns[0], rows[1:3]) is None  # equal values: nothing to mark


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.44, "0.4 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3599.4, "59 min 59 s"), (7800, "2 h 10 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_terminal_table() -> None:
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(result_table(made.helped_rows(), "px (spacing unknown)"))
    text = console.export_text()
    assert "HD95 (px)" in text
    lines = [re.sub(r"\s+", " ", line).strip() for line in text.splitlines()]
    assert "RL4Seg 4 0.845 ±0.080 0.745 ±0.080 0.795 ±0.080 6.1 ±2.1 93.0 % 0.860 0.040" in lines
    assert "source-only 0 0.815 ±0.080 0.715 ±0.080 0.765 ±0.080 7.0 ±2.1 65.0 % – –" in lines


def test_iterations_follow_each_other_on_the_step_axis() -> None:
    def curve(iteration: int, steps: list[float], loss: list[float | None]) -> Curve:
        return Curve.model_validate(
            {"arm": MAIN, "iteration": iteration, "stage": "ppo", "columns": {"step": steps, "loss": loss}}
        )

    parts = training_curves.segments(
        [curve(2, [1, 2], [5.0, 6.0]), curve(1, [10, 20], [1.0, None]), curve(3, [1], [2.0])], "loss"
    )
    assert [part.iteration for part in parts] == [1, 2, 3]
    assert [part.steps.tolist() for part in parts] == [[10, 20], [21, 22], [23]]


def test_running_mean_by_hand() -> None:
    # window 3: (1+2)/2, (1+2+6)/3, (2+6)/2
    assert training_curves.smoothed(np.array([1.0, 2.0, 6.0]), 3).tolist() == [1.5, 3.0, 4.0]
    assert training_curves.smoothed(np.array([1.0, 2.0]), 1).tolist() == [1.0, 2.0]


def test_constant_zero_curves_are_left_out() -> None:
    titles = [chart.title for chart in training_curves.training_charts(made.curves(20), "ppo")]
    assert "Entropy (nats)" in titles
    assert "Critic loss" not in titles


def test_outline_of_one_pixel_surrounds_its_centre() -> None:
    region = np.zeros((4, 5), bool)
    region[1, 2] = True  # row 1, column 2: centre at x = 2.5, y = 1.5 in SVG units
    path = montage.outline(region, "mask", "#000")
    numbers = [float(v) for v in re.findall(r"-?\d+\.?\d*", path.split('d="')[1])]
    x, y = numbers[::2], numbers[1::2]
    assert (min(x), max(x), min(y), max(y)) == (2.0, 3.0, 1.0, 2.0)
    assert montage.outline(np.zeros((4, 5), bool), "mask", "#000") == ""


def test_error_colours_clip_and_do_not_fail_on_nan() -> None:
    colours = montage.error_colours(np.array([[-1.0, 0.0, 1.0, 2.0, np.nan]], np.float32))
    assert (colours[0, 0] == colours[0, 1]).all()
    assert (colours[0, 2] == colours[0, 3]).all()
    assert (colours[0, 4] == colours[0, 0]).all()
    assert colours[0, 2].sum() > colours[0, 0].sum()


def test_large_error_maps_are_averaged() -> None:
    error = np.zeros((320, 322), np.float32)
    error[:3, :3] = 1.0  # 322 / 160 rounded up: blocks of 3; 320 rows give 106 blocks, 322 columns 107
    small = montage.averaged(error)
    assert small.shape == (106, 107)
    assert small[0, 0] == 1.0
    assert small.sum() == 1.0
    assert montage.averaged(error[:160, :7]).shape == (160, 7)
