"""`from=`: names of stages, the plan that knows them all, and which stages run anew."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from flows.restart import restarted_from, stage_name, stage_names
from flows.run_folder import RunFolder
from flows.stages import Restart, StageContext, StageEnvironment, current_environment, environment, stage
from flows.store import ArtifactStore, Policy
from reward_data.errors import ConfigError
from tests.flows import tiny


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("iteration 2 · PPO", "ppo@2"),
        ("iteration 12 · reward net", "reward-net@12"),
        ("PPO off · iteration 1 · evaluate", "ppo-off/evaluate@1"),
        ("source-only · evaluate", "source-only/evaluate"),
        ("upper bound · training on target labels", "upper-bound/training-on-target-labels"),
        ("import target", "import-target"),
        ("report", "report"),
    ],
)
def test_a_stage_is_known_by_its_label_in_short(label: str, name: str) -> None:
    assert stage_name(label) == name


@stage(Policy, title="make")
def make(ctx: StageContext, number: int, before: Policy | None) -> None:
    (ctx.out / "weights").write_text(f"{number}")


def chain(length: int) -> Policy:
    """a@1 -> a@2 -> ... and beside it b, which depends on a@1 alone."""
    policy = make.named("a@0")(0, None)
    first = policy
    for i in range(1, length):
        policy = make.named(f"iteration {i} · a")(i, policy)
    make.named("b")(99, first)
    return policy


@pytest.fixture
def here(tmp_path: Path) -> StageEnvironment:
    return StageEnvironment(ArtifactStore(tmp_path / "store"))


def statuses(here: StageEnvironment, tmp_path: Path, restart_from: str | None) -> dict[str, str]:
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir(exist_ok=True)
    with environment(StageEnvironment(here.store, folder)), restarted_from(restart_from, chain, 4):
        chain(4)
    return {stage_name(row.label): row.status for row in folder.rows}


def test_the_plan_names_every_stage_and_runs_none(here: StageEnvironment) -> None:
    with environment(here):
        assert stage_names(chain, 4) == ["a-0", "a@1", "a@2", "a@3", "b"]
    assert [path.name for path in here.store.root.iterdir() if not path.name.startswith("_")] == []


def test_the_chosen_stage_and_what_is_made_from_it_run_anew(here: StageEnvironment, tmp_path: Path) -> None:
    first = statuses(here, tmp_path, None)
    assert set(first.values()) == {"built"}
    assert set(statuses(here, tmp_path, None).values()) == {"cached"}
    time.sleep(0.01)
    assert statuses(here, tmp_path, "a@2") == {
        "a-0": "cached", "a@1": "cached", "a@2": "built", "a@3": "built", "b": "cached",
    }  # fmt: skip


def test_what_has_been_built_since_the_run_began_is_not_built_again(here: StageEnvironment) -> None:
    with environment(here):
        chain(4)
    began = time.time() + 0.01
    time.sleep(0.02)
    manifests = set[float]()
    for _ in range(2):  # the run, and its retry
        with environment(StageEnvironment(here.store, restart=Restart(lambda label: label == "b", began))):
            chain(4)
        times = [path.stat().st_mtime for path in here.store.root.glob("*/manifest.json")]
        manifests |= {when for when in times if when >= began}
    assert len(manifests) == 1


def test_an_older_artifact_stays_until_the_new_one_stands(here: StageEnvironment) -> None:
    store = here.store

    def build(text: str) -> Policy:
        return store.build("k" * 64, Policy, (), lambda out, _: (out / "w").write_text(text) and None)

    old = build("old")
    since = time.time() + 1

    def fail(out: Path, checkpoint: Path) -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        store.build("k" * 64, Policy, (), fail, since=since)
    assert store.lookup("k" * 64, Policy) == old
    assert store.lookup("k" * 64, Policy, since) is None
    new = store.build(
        "k" * 64, Policy, (), lambda out, _: (out / "w").write_text("new") and None, since=since
    )
    assert new.digest != old.digest
    os.utime(store.root / ("k" * 64) / "manifest.json", (since + 1, since + 1))
    assert store.lookup("k" * 64, Policy, since) == new


def test_an_unknown_stage_is_refused_with_the_closest_one(here: StageEnvironment) -> None:
    with (
        environment(here),
        pytest.raises(ConfigError, match=r"from=a@7: no such stage; did you mean from=a@\d\?"),
        restarted_from("a@7", chain, 4),
    ):
        pytest.fail("nothing may run")


def test_nothing_changes_outside_a_restart(here: StageEnvironment) -> None:
    with environment(here), restarted_from(None, chain, 4):
        assert current_environment().restart is None


@pytest.mark.flow
def test_a_run_from_ppo_at_2(workshop: tiny.Workshop, undisturbed: tiny.Run) -> None:
    again = workshop.start("undisturbed", "from=ppo@2", name="again").wait()
    built = set(again.built())
    assert built == {"iteration 2 · PPO", "iteration 2 · evaluate", "package", "report"}
    assert again.digests() == undisturbed.digests()
