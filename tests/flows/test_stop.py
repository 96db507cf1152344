"""The stop rule in the loop: what it leaves behind, what an alarm stops, and that planning needs no signals."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from flows.auto_iteration import adaptation
from flows.config import AutoIterationConfig
from flows.config_loader import dump_config, load_config
from flows.models import find_policy
from flows.reporting.data import MAIN, SOURCE_ONLY
from flows.reporting.report import Metrics, read_metrics
from flows.restart import stage_names
from flows.run_folder import RunFolder
from flows.stages import StageEnvironment, current_environment, environment
from flows.store import ArtifactStore
from rl4seg.configs.runtime import RuntimeConfig
from tests.flows import tiny

QUICK = (
    "ppo.epochs=1", "reward_net.steps=5", "source_training.steps=20", "rivals.ppo_off=false", "rivals.logit_bias=false",
)  # fmt: skip
NEVER = (
    "stop.alarm.agreement=0",
    "stop.agreement=0",
    "stop.alarm.reward_drop=1",
    "stop.alarm.validity_drop=1",
)
ALWAYS = ("stop.alarm.kl=1e-9", "stop.kl=1e-9")  # no policy stays that close


class Place:
    """A store, and runs of the tiny config in it, without Prefect."""

    def __init__(self, folder: Path) -> None:
        self.config, self.folder = tiny.write_config(folder / "data"), folder
        self.store = ArtifactStore(folder / "store")

    def load(self, *overrides: str) -> AutoIterationConfig:
        return load_config(str(self.config), [*QUICK, "stop.enabled=true", *overrides], AutoIterationConfig)

    def run(self, name: str, *overrides: str) -> tuple[Path, Metrics, str]:
        """(run folder, metrics, what the console said)"""
        config, said = self.load(*overrides), io.StringIO()
        folder = RunFolder.create(self.folder / name, dump_config(config), {"seed": 0})
        here = StageEnvironment(
            self.store, folder, Console(file=said, width=400), RuntimeConfig(device="cpu", threads=1)
        )
        with environment(here) as active:
            active.publish(adaptation(config))
        return folder.path, read_metrics(folder.path / "metrics.json"), said.getvalue()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("stop"))


def key_of(folder: Path, label: str) -> str:
    rows = json.loads((folder / "lineage.json").read_text())["stages"]
    return next(row["key"] for row in rows if row["label"] == label)


def test_the_iteration_handed_out_is_marked_published_and_found(place: Place) -> None:
    folder, metrics, said = place.run("usual", *NEVER)
    assert metrics.stop is not None
    assert metrics.stop.alarm == ()
    assert [each.iteration for each in metrics.stop.history] == [0, 1, 2]
    assert metrics.stop.history[0].kl == 0
    assert metrics.stop.history[0].agreement == 1
    number = metrics.stop.choice.iteration
    (chosen,) = [row for row in metrics.rows if row.chosen]
    assert (chosen.arm, chosen.iteration) == (MAIN if number else SOURCE_ONLY, number)
    assert any("Handed out" in statement.text for statement in metrics.verdict)
    # the policy in the run folder is that iteration's, and so is what `rl4seg evaluate` takes
    label = f"iteration {number} · PPO" if number else "source training"
    weights = (place.store.root / key_of(folder, label) / "weights.safetensors").read_bytes()
    assert (folder / "policy" / "weights.safetensors").read_bytes() == weights
    assert json.loads((folder / "policy" / "handed_out.json").read_text())["iteration"] == number
    assert find_policy(folder, place.store, None)[0] == number
    assert find_policy(folder, place.store, 1)[0] == 1
    page = (folder / "report.html").read_text()
    assert 'id="signals"' in page
    assert "policy handed out" in said


def test_an_alarm_stops_the_loop_keeps_the_last_good_policy_and_says_why(place: Place) -> None:
    folder, metrics, said = place.run("alarm", *ALWAYS)
    assert [row.iteration for row in metrics.rows if row.arm == MAIN] == [1]
    assert metrics.stop is not None
    (reason,) = [each for each in metrics.stop.alarm if each.startswith("KL")]
    assert reason.endswith("since iteration 1")
    assert f"iteration 1: collapse alarm, the loop stops: {'; '.join(metrics.stop.alarm)}. Handed out" in said
    assert reason in metrics.verdict[0].text
    assert metrics.verdict[0].tone == "warning"
    assert [row.arm for row in metrics.rows if row.chosen] == [SOURCE_ONLY]
    assert find_policy(folder, place.store, None)[0] == 0
    source = place.store.root / key_of(folder, "source training")
    assert (folder / "policy" / "weights.safetensors").read_bytes() == (
        source / "weights.safetensors"
    ).read_bytes()
    assert "collapse" in (folder / "report.html").read_text().lower()


def test_without_the_stop_rule_the_last_iteration_is_handed_out(place: Place) -> None:
    folder, metrics, _ = place.run("off", "stop.enabled=false", *ALWAYS)
    assert metrics.stop is None
    assert [(row.arm, row.iteration) for row in metrics.rows if row.chosen] == [(MAIN, 2)]
    assert find_policy(folder, place.store, None)[0] == 2
    labels = [row["label"] for row in json.loads((folder / "lineage.json").read_text())["stages"]]
    assert not [label for label in labels if "judge" in label or "signals" in label]


@pytest.mark.flow
def test_in_a_real_run_judging_is_cached_and_reading_it_needs_no_torch(
    workshop: tiny.Workshop, undisturbed: tiny.Run
) -> None:
    on = ("stop.enabled=true", *NEVER)
    run = workshop.start("undisturbed", *on, name="judged").wait()
    assert undisturbed.digests()["iteration 2 · PPO"] == run.digests()["iteration 2 · PPO"]
    assert [label for label in run.built() if label != "package"] == [
        "policy given · signals", "iteration 1 · signals", "iteration 1 · judge", "iteration 2 · signals",
        "iteration 2 · judge", "report",
    ]  # fmt: skip
    assert (run.folder / "policy" / "handed_out.json").is_file()
    assert "policy handed out" in run.said
    # another bound judges again and measures nothing
    again = workshop.start("undisturbed", *on, "stop.kl=0.05", name="judged").wait()
    assert again.status()["iteration 2 · signals"] == "cached"
    assert again.status()["iteration 2 · judge"] == "built"
    third = workshop.start("undisturbed", *on, name="judged", PYTHONPROFILEIMPORTTIME="1").wait()
    assert set(third.status().values()) == {"cached"}
    imported = set(re.findall(r"^import time:.*\| +([\w.]+)$", third.said, flags=re.MULTILINE))
    assert "rl4seg.stop_rule" in imported
    assert "torch" not in imported


def test_planning_goes_on_as_if_there_was_no_alarm(place: Place) -> None:
    with environment(StageEnvironment(place.store)):
        names = stage_names(adaptation, place.load(*ALWAYS))
        assert current_environment().plan is None
    assert {"judge@1", "judge@2", "ppo@2", "policy-given/signals"} <= set(names)


def test_a_policy_left_by_an_earlier_run_of_the_name_is_not_taken(place: Place) -> None:
    folder, metrics, _ = place.run("again", *NEVER)
    stale = {"iteration": 1, "why": "", "key": "of-another-run", "digest": ""}
    (folder / "policy" / "handed_out.json").write_text(json.dumps(stale))
    assert find_policy(folder, place.store, None)[0] == 2  # the last
    assert metrics.stop is not None
