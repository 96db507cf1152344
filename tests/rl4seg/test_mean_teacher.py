import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from reward_data.case_store import CaseStore
from reward_data.errors import DataError
from reward_data.types import no_progress
from rl4seg.augment import apply_to_masks, draw
from rl4seg.configs.augment import AugmentConfig
from rl4seg.configs.network import NetworkConfig
from rl4seg.configs.rivals import ContinuedConfig, MeanTeacherConfig
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.continued import LabelledCases
from rl4seg.histories import read_history
from rl4seg.mean_teacher import consistency_loss, consistency_weight, move, train_mean_teacher, update_teacher
from rl4seg.policies import load_model, new_model, spec_for
from rl4seg.runtime import start

RUNTIME = start(RuntimeConfig(device="cpu", threads=1))
TRAINING = ContinuedConfig(
    batch_size=8, replay=4, learning_rate=0.01, grad_norm=1.0, augment=AugmentConfig(), checkpoint_seconds=0
)


class Killed(Exception):
    pass


def one_weight(value: float) -> nn.Linear:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, value)
    return layer


def test_the_teacher_is_the_moving_average() -> None:
    teacher, student = one_weight(1.0), one_weight(3.0)
    update_teacher(teacher, student, 0.75)
    assert teacher.weight.item() == pytest.approx(0.75 * 1 + 0.25 * 3)  # 1.5
    update_teacher(teacher, student, 0.75)
    assert teacher.weight.item() == pytest.approx(0.75 * 1.5 + 0.25 * 3)  # 1.875
    assert student.weight.item() == 3.0
    update_teacher(teacher, student, 0.0)
    assert teacher.weight.item() == 3.0


def test_the_weight_rises_to_its_largest_and_stays() -> None:
    config = MeanTeacherConfig(consistency=2.0, ramp=0.5)
    assert consistency_weight(config, 0, 100) == pytest.approx(2 * math.exp(-5))
    assert consistency_weight(config, 25, 100) == pytest.approx(2 * math.exp(-5 / 4))  # t = 1/2
    assert [consistency_weight(config, step, 100) for step in (50, 99)] == [2.0, 2.0]
    assert consistency_weight(MeanTeacherConfig(consistency=2.0, ramp=0), 0, 100) == 2.0


def test_consistency_by_hand() -> None:
    # Two pixels, two classes; the student says (1/2, 1/2) at both. The teacher says (.9, .1) and (.6, .4):
    # squared distances 2 x .4^2 = .32 and 2 x .1^2 = .02.
    logits = torch.zeros(1, 2, 1, 2)
    wanted = torch.tensor([[[[0.9, 0.6]], [[0.1, 0.4]]]])
    assert consistency_loss(logits, wanted, 0.0).item() == pytest.approx((0.32 + 0.02) / 2)
    assert consistency_loss(logits, wanted, 0.8).item() == pytest.approx(0.32)
    assert consistency_loss(logits, wanted, 0.95).item() == 0  # nobody is sure
    outside = torch.zeros(1, 2, 1, 2)  # probabilities from outside the image
    assert consistency_loss(logits, outside, 0.0).item() == 0


@pytest.mark.parametrize("shape", [(12, 12), (8, 8, 8)])
def test_probabilities_move_like_masks(shape: tuple[int, ...]) -> None:
    masks = torch.randint(0, 3, (4, *shape), generator=torch.Generator().manual_seed(0))
    images = torch.zeros(4, 1, *shape)
    record = draw(AugmentConfig(shift=0.5), images, torch.Generator().manual_seed(1))
    one_hot = nn.functional.one_hot(masks, 3).movedim(-1, 1).float()
    soft, hard = move(record, one_hot), apply_to_masks(record, masks)
    sure = soft.amax(1) > 0.75  # there the nearest pixel has to be the one that it is made of
    assert sure.float().mean() > 0.02
    assert (soft.argmax(1) == hard)[sure].all()
    assert float(soft.sum(1).min()) == 0  # something lies outside


def trained(
    discs: Path, out: Path, source: bool = True, steps: int = 8, progress=no_progress
) -> dict[str, float]:  # type: ignore[no-untyped-def]
    out.mkdir(parents=True, exist_ok=True)
    with CaseStore(discs) as store:
        policy = new_model(spec_for(NetworkConfig(features=(4, 4, 8, 8, 8, 4)), store), 5)
        labelled = LabelledCases(store, TRAINING.replay) if source else None
        return train_mean_teacher(
            policy, store, store.indices("train"), labelled, MeanTeacherConfig(ema=0.5, confidence=0.4), TRAINING,
            steps, 3, RUNTIME, out, out / "checkpoint", progress,
        )  # fmt: skip


@pytest.mark.parametrize("source", [True, False])
def test_a_killed_training_ends_with_the_same_bytes(discs: Path, tmp_path: Path, source: bool) -> None:
    def die(done: int, total: int, metrics: object = None) -> None:
        if done == 3:
            raise Killed

    trained(discs, tmp_path / "a", source)
    with pytest.raises(Killed):
        trained(discs, tmp_path / "b", source, progress=die)
    assert not (tmp_path / "b/weights.safetensors").exists()
    trained(discs, tmp_path / "b", source)
    for name in ("weights.safetensors", "history.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_teacher_is_what_is_left(discs: Path, tmp_path: Path) -> None:
    """One step with ema .5: the teacher is half way from the start to the student, whose step Adam makes lr long."""
    assert trained(discs, tmp_path, steps=1)["steps"] == 1
    with CaseStore(discs) as store:
        start_of = dict(
            new_model(
                spec_for(NetworkConfig(features=(4, 4, 8, 8, 8, 4)), store), 5
            ).network.named_parameters()
        )
    after = dict(load_model(tmp_path, RUNTIME).network.named_parameters())
    largest = max(float((after[name] - value).detach().abs().max()) for name, value in start_of.items())
    assert largest == pytest.approx(0.5 * TRAINING.learning_rate, rel=0.01)


@pytest.mark.learning
def test_source_labels_teach_the_teacher(discs: Path, tmp_path: Path) -> None:
    trained(discs, tmp_path, steps=80)
    with CaseStore(discs) as store:
        chosen = store.indices("test", labelled=True)
        with torch.no_grad():
            logits = load_model(tmp_path, RUNTIME).network(RUNTIME.tensor(store.images(chosen)))
        assert (logits.argmax(1).numpy() == store.labels(chosen)).mean() > 0.9
    history = read_history(tmp_path / "history.csv")
    assert history["sure"][-1] > history["sure"][0]


def test_no_target_image(discs: Path, tmp_path: Path) -> None:
    with CaseStore(discs) as store, pytest.raises(DataError, match="no training image"):
        train_mean_teacher(
            new_model(spec_for(NetworkConfig(), store), 5), store, np.zeros(0, np.int64), None, MeanTeacherConfig(),
            TRAINING, 1, 3, RUNTIME, tmp_path, tmp_path,
        )  # fmt: skip
