"""Runs that are killed, that run twice at once, and whose artifacts are damaged: real processes, real signals."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest

from flows.run_folder import read_status
from tests.flows import tiny

pytestmark = [
    pytest.mark.flow,
    pytest.mark.skipif(sys.platform != "linux", reason="asks /proc and inotify what processes and files do"),
]
SYNTHESIS, REWARD_NET, PPO = "iteration 1 · synthesize", "iteration 1 · reward net", "iteration 1 · PPO"
FINAL = "iteration 2 · PPO"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def steps_in(checkpoint: Path) -> int:
    """Steps that a training has behind it."""
    import torch

    return len(torch.load(checkpoint / "state.pt", weights_only=True)["history"])


def parts_in(checkpoint: Path) -> set[str]:
    """Finished parts of a synthesis."""
    return {path.name for path in checkpoint.glob("part-*.h5")}


def before(run: tiny.Run, label: str) -> list[str]:
    """Statuses of the stages up to ``label``."""
    labels = list(run.status())
    return [run.status()[name] for name in labels[: labels.index(label)]]


def test_a_run_killed_in_each_long_stage_ends_with_the_bits_of_an_undisturbed_one(
    workshop: tiny.Workshop, undisturbed: tiny.Run
) -> None:
    # 1. kill -9 in synthesis: some parts are there, some are not
    run = workshop.start("killed", embedded=True)
    parts = run.kill_in(SYNTHESIS)
    finished = parts_in(parts)
    assert 5 <= len(finished) < tiny.TRAINING_IMAGES
    assert {row.label: row.status for row in read_status(run.folder)}[SYNTHESIS] == "stopped"
    arrived = tiny.Arrivals(parts)

    # 2. the same command makes the other parts and no more, and is killed in the training of the reward net
    run = workshop.start("killed", embedded=True)
    state = run.kill_in(REWARD_NET)
    assert set(before(run, SYNTHESIS)) == {"cached"}
    assert run.status()[SYNTHESIS] == "built"
    made = [name for name in arrived.names() if tiny.is_checkpoint(name)]
    assert len(made) == len(set(made)) == tiny.TRAINING_IMAGES - len(finished)
    assert finished.isdisjoint(made)
    done = steps_in(state)
    assert 5 <= done < tiny.REWARD_STEPS
    arrived = tiny.Arrivals(state)

    # 3. the same command does the steps that are left (each but the last is saved), and is killed in PPO
    run = workshop.start("killed", embedded=True)
    state = run.kill_in(PPO)
    assert set(before(run, REWARD_NET)) == {"cached"}
    assert arrived.names().count("state.pt") == tiny.REWARD_STEPS - done - 1
    done = steps_in(state)
    assert 5 <= done < tiny.PPO_ROUNDS
    arrived = tiny.Arrivals(state)

    # 4. the same command goes on to the end, and nobody can tell the difference
    run = workshop.start("killed").wait()
    assert set(before(run, PPO)) == {"cached"}
    assert arrived.names().count("state.pt") == tiny.PPO_ROUNDS - done - 1
    weights = [one.artifact(FINAL) / "weights.safetensors" for one in (run, undisturbed)]
    assert sha256(weights[0]) == sha256(weights[1])
    assert run.digests() == undisturbed.digests()
    for left in ("_checkpoints", "_building"):
        assert not list((run.store / left).iterdir())


def test_two_runs_at_once_build_each_stage_once_and_give_the_digests_of_a_third(
    workshop: tiny.Workshop, undisturbed: tiny.Run
) -> None:
    one, two = (workshop.start("pair", "iterations=1", name=name) for name in ("one", "two"))
    one.wait()
    two.wait()
    rows = [row for run in (one, two) for row in run.rows()]
    built = Counter(row["key"] for row in rows if row["status"] == "built")
    assert built == dict.fromkeys({row["key"] for row in rows}, 1)
    assert one.digests() == two.digests()
    assert len(one.digests()) == 16
    shared = one.digests()
    shared.pop("package")  # of another iteration
    assert shared.items() <= undisturbed.digests().items()


def test_only_lost_truncated_and_altered_artifacts_are_built_again(
    workshop: tiny.Workshop, undisturbed: tiny.Run
) -> None:
    deleted, truncated, altered = "source training", REWARD_NET, FINAL
    shutil.rmtree(undisturbed.artifact(deleted))
    weights = undisturbed.artifact(truncated) / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    weights = undisturbed.artifact(altered) / "weights.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    run = workshop.start("undisturbed").wait()
    assert run.built() == [deleted, truncated, altered]
    assert run.digests() == undisturbed.digests()
    assert weights.read_bytes() == content
