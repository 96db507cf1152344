"""The stop rule on the report: which row is handed out, what the verdict says, the table of signals."""

from __future__ import annotations

from typing import Any

from flows.reporting.data import MAIN, SOURCE_ONLY, EvaluationRow
from flows.reporting.report import render
from flows.reporting.signals import signal_table
from flows.reporting.tables import result_table
from flows.reporting.verdict import handed_out, honest_verdict
from rl4seg.stop_rule import Choice, Judgement, Signals
from tests.flows.reporting import report_fixture as made


def signals(iteration: int, **values: Any) -> Signals:
    usual: dict[str, Any] = {
        "cases": 40, "validity": 0.6, "mean_reward": None, "kl": 0.0, "entropy": 0.2,
        "area_drift": {"lv": -0.6931, "myo": 0.0}, "area_to_source": {"lv": 0.0953}, "agreement": 0.9,
    }  # fmt: skip
    return Signals(iteration=iteration, **(usual | values))


def stopped(number: int, *alarm: str) -> Judgement:
    history = (signals(0), signals(1), signals(2, mean_reward=0.8))
    return Judgement(history=history, alarm=alarm, choice=Choice(iteration=number, why="because"))


def rows(chosen: int | None) -> tuple[EvaluationRow, ...]:
    """Dice .7 of the policy given, then .8, .6; the chosen one is marked."""
    made_rows = [made.row(SOURCE_ONLY, 0, 0.7, 0.6), made.row(MAIN, 1, 0.8, 0.7), made.row(MAIN, 2, 0.6, 0.8)]
    return tuple(
        each.model_copy(update={"chosen": True}) if each.iteration == chosen else each for each in made_rows
    )


def texts(number: int | None, stop: Judgement | None) -> list[str]:
    return [statement.text for statement in honest_verdict(rows(number), stop)]


def test_the_verdict_speaks_of_the_iteration_handed_out() -> None:
    assert handed_out(rows(1)) is rows(1)[1] or handed_out(rows(1)) == rows(1)[1]
    first, second, *rest = texts(1, stopped(1))
    assert first == "Handed out: iteration 1 of 2; because. Chosen without labels."
    assert second.startswith(
        "The loop helped after 1 iteration, against source-only: mean Dice 0.700 → 0.800"
    )
    assert not [text for text in rest if "later iterations hurt" in text]
    # unchosen, the last one counts
    assert handed_out(rows(None)) == rows(None)[2]
    assert (
        texts(None, None)[0].startswith("The loop hurt after 2 iterations") or "mixed" in texts(None, None)[0]
    )


def test_a_better_iteration_than_the_one_handed_out_is_named() -> None:
    said = "\n".join(texts(2, stopped(2)))
    assert "Iteration 1 was better than the last one" in said
    better = [rows(None)[0], rows(None)[2].model_copy(update={"iteration": 1, "chosen": True}),
              rows(None)[1].model_copy(update={"iteration": 2})]  # fmt: skip
    said = "\n".join(each.text for each in honest_verdict(better, stopped(1)))
    assert "Iteration 2 was better than iteration 1, which is handed out" in said
    assert "it was stopped too early" in said


def test_an_alarm_comes_first_and_the_policy_given_makes_no_claims() -> None:
    statements = honest_verdict(rows(0), stopped(0, "validity 0.10 is low, since iteration 2"))
    assert [each.tone for each in statements[:2]] == ["warning", "warning"]
    assert statements[0].text.startswith(
        "Collapse alarm: the loop was stopped after iteration 2: validity 0.10"
    )
    assert statements[1].text.startswith("Handed out: the policy given, unchanged")
    assert (
        "What was not handed out: iteration 2 against source-only, mean Dice 0.700 → 0.600"
        in statements[2].text
    )
    assert len(statements) == 4


def test_the_table_of_signals_by_hand() -> None:
    table = signal_table(stopped(2))
    assert [row[0] for row in table.rows] == ["0", "1", "2 ●"]
    assert [row[2] for row in table.rows] == ["–", "–", "0.800"]
    # exp(-.6931) - 1 = -50 %, exp(.0953) - 1 = +10 %
    assert table.rows[1][-3:] == ("-50 %", "+0 %", "+10 %")
    assert len(table.heads) == len(table.rows[0])
    assert signal_table(stopped(0)).words == "The policy given is handed out, unchanged: because."


def test_report_and_terminal_mark_it(tmp_path: Any) -> None:
    data = made.report_data()
    marked = tuple(
        row.model_copy(update={"chosen": (row.arm, row.iteration) == (MAIN, 2)}) for row in data.rows
    )
    page = render(
        data.__class__(**{**vars(data), "rows": marked, "stop": stopped(2, "it <collapsed>")}), tmp_path
    )
    text = page.read_text()
    assert text.count('title="the policy that the run hands out"') == 2  # in both tables
    assert 'id="signals"' in text
    assert "it &lt;collapsed&gt;" in text
    plain = render(data, tmp_path / "plain").read_text()
    assert 'id="signals"' not in plain
    cells = [str(cell) for cell in result_table(rows(1)).columns[1].cells]
    assert cells == ["0", "● 1", "2"]
