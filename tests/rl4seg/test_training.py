from pathlib import Path

import pytest
import torch

from reward_data.errors import Rl4SegError
from reward_data.types import no_progress
from rl4seg.histories import read_history, write_history
from rl4seg.runtime import step_generator
from rl4seg.training import run_steps


class Killed(Exception):
    pass


def train(checkpoint: Path, die_at: int | None = None) -> tuple[torch.Tensor, list[dict[str, float]]]:
    torch.manual_seed(1)
    network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout(0.5), torch.nn.Linear(3, 1))
    optimiser = torch.optim.Adam(network.parameters(), 0.1)

    def step(index: int) -> dict[str, float]:
        if index == die_at:
            raise Killed
        inputs = torch.randn(4, 3, generator=step_generator(5, index))
        loss = network(inputs).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return {"loss": loss.item()}

    history = run_steps(step, 12, {"network": network, "optimiser": optimiser}, checkpoint, no_progress, 0)
    return torch.cat([p.detach().flatten() for p in network.parameters()]), history


def test_a_killed_run_ends_with_the_bits_of_an_undisturbed_one(tmp_path: Path) -> None:
    wanted, wanted_history = train(tmp_path / "a")
    with pytest.raises(Killed):
        train(tmp_path / "b", die_at=7)
    got, history = train(tmp_path / "b")
    assert torch.equal(got, wanted)
    assert history == wanted_history


def test_the_second_try_starts_at_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(tmp_path, die_at=7)
    with pytest.raises(Killed):
        train(tmp_path, die_at=7)
    done: list[int] = []
    run_steps(lambda i: done.append(i) or {"loss": 0.0}, 12, {}, tmp_path, no_progress, 1e9)  # type: ignore[func-returns-value]
    assert done == list(range(7, 12))


def test_divergence_is_said(tmp_path: Path) -> None:
    with pytest.raises(Rl4SegError, match=r"diverged at step 1 of 3: loss is nan"):
        run_steps(lambda _: {"loss": float("nan")}, 3, {}, tmp_path, no_progress)


def test_history_round_trip_with_means_and_gaps(tmp_path: Path) -> None:
    rows = [{"step": 1.0, "a": 1.0}, {"step": 2.0, "a": 3.0, "b": 5.0}]
    write_history(tmp_path / "h.csv", rows, every=2)
    assert read_history(tmp_path / "h.csv") == {"step": [2.0], "a": [2.0], "b": [5.0]}
    write_history(tmp_path / "g.csv", rows)
    assert str(read_history(tmp_path / "g.csv")["b"]) == "[nan, 5.0]"


def test_the_progress_says_which_epoch_it_is(tmp_path: Path) -> None:
    said: list[float] = []
    run_steps(
        lambda _: {"loss": 0.0}, 6, {}, tmp_path, lambda done, total, metrics: said.append(metrics["epoch"]),
        per_epoch=4,
    )  # fmt: skip
    assert said == [1, 1, 1, 1, 2, 2]
