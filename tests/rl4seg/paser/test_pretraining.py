"""Pretraining: the distillation losses by hand, crops, and a training that learns and resumes with the same bits."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from reward_data.case_store import CaseStore, import_cases
from reward_data.phantom_micrographs import CLASSES, MicrographConfig
from reward_data.preprocess import PreprocessConfig
from reward_data.readers import DatasetConfig, read_cases
from reward_data.types import LabelMap
from rl4seg.configs.network import NetworkConfig
from rl4seg.configs.paser import DistillationConfig, MemberConfig, PretrainingConfig, SharesConfig
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.paser.data import calibrated_on, held_out_labelled, stage_cases, views
from rl4seg.paser.pretraining import _rows, distillation_loss, pretrain, random_crops
from rl4seg.policies import WEIGHTS
from rl4seg.runtime import start


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> CaseStore:
    path = tmp_path_factory.mktemp("micrographs") / "cases.h5"
    dataset = DatasetConfig(
        micrographs=MicrographConfig(cases=16, shape=(32, 32)), validation_fraction=0.15, test_fraction=0.25
    )
    import_cases(read_cases(dataset), 16, PreprocessConfig(shape=(32, 32)), LabelMap(names=CLASSES), path)
    return CaseStore(path)


def test_distillation_by_kl_is_hinton_s() -> None:
    student = torch.tensor([0.0, 0.0]).reshape(1, 2, 1)
    teacher = torch.tensor([math.log(9.0), 0.0]).reshape(1, 2, 1)
    # T = 2: the teacher's softened odds are 3 : 1; KL = .75 log(.75 / .5) + .25 log(.25 / .5); times T^2 = 4
    wanted = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    loss = distillation_loss(student, teacher, DistillationConfig(kind="kl", temperature=2))
    assert loss.item() == pytest.approx(wanted)


def test_distillation_by_mse_compares_logits() -> None:
    student, teacher = torch.tensor([1.0, 2.0]).reshape(1, 2, 1), torch.tensor([0.0, 4.0]).reshape(1, 2, 1)
    assert distillation_loss(student, teacher, DistillationConfig(kind="mse")).item() == pytest.approx(2.5)


def test_crops_keep_image_and_truth_together() -> None:
    truth = torch.arange(30).reshape(1, 5, 6).repeat(4, 1, 1)
    images, labels = random_crops(truth[:, None].float(), truth, (2, 3), torch.Generator().manual_seed(0))
    assert images.shape == (4, 1, 2, 3)
    assert torch.equal(images[:, 0].long(), labels)
    assert len({int(label[0, 0]) for label in labels}) > 1


def test_a_batch_larger_than_the_images_shows_each_as_often_as_any_other() -> None:
    rows = np.concatenate([_rows(3, 8, step, 0) for step in range(3)])
    assert len(rows) == 24
    assert set(np.bincount(rows)) <= {7, 8, 9}


def test_no_group_is_in_two_stages_and_none_is_lost(store: CaseStore) -> None:
    cases = stage_cases(store, SharesConfig(), 0)
    groups = [{store.groups[i] for i in part} for part in cases]
    assert all(groups)
    assert not groups[0] & groups[1]
    assert not (groups[0] | groups[1]) & groups[2]
    assert sorted(np.concatenate(cases).tolist()) == store.indices("train").tolist()
    assert [part.tolist() for part in stage_cases(store, SharesConfig(), 0)] == [
        part.tolist() for part in cases
    ]
    together = stage_cases(store, SharesConfig(together=True), 0)
    assert together.policy.tolist() == store.indices("train").tolist()
    assert set(held_out_labelled(store)) == set(store.indices("test"))
    assert calibrated_on(store, cases)[0].tolist() == store.indices("val").tolist()


def test_the_first_view_is_the_image_itself(store: CaseStore) -> None:
    runtime = start(RuntimeConfig(device="cpu", threads=1))
    seen = views(store, np.array([0, 3]), PretrainingConfig().augment, 2, 0, runtime)
    assert len(seen) == 4
    assert torch.equal(seen[1][0], runtime.tensor(store.images([3])))
    assert not torch.equal(seen[3][0], seen[1][0])


def test_a_killed_pretraining_ends_with_the_same_bits_and_learns(store: CaseStore, tmp_path: Path) -> None:
    network = NetworkConfig(name="unet", features=(4, 8), fold=1, norm="batch", dropout=0.2)
    member = MemberConfig(name="net", network=network, steps=30, learning_rate=0.02)
    config = PretrainingConfig(batch_size=4, checkpoint_seconds=0)
    runtime = start(RuntimeConfig(device="cpu", threads=1))

    def trained(name: str, kill_at: int | None) -> dict[str, float]:
        def progress(done: int, total: int, metrics: object = None) -> None:
            if done == kill_at:
                raise KeyboardInterrupt

        (tmp_path / name).mkdir(exist_ok=True)
        return pretrain(
            store, store.indices("train"), member, config, (1.0, 3.0, 1.0), (16, 16), None, 0, runtime,
            tmp_path / name, tmp_path / f"{name}-checkpoint", progress,
        )  # fmt: skip

    figures = trained("whole", None)
    assert figures["loss"] < 1.7  # about log 3 + a Dice loss near .8 before anything is learned
    with pytest.raises(KeyboardInterrupt):
        trained("killed", 12)
    trained("killed", None)
    assert (tmp_path / "whole" / WEIGHTS).read_bytes() == (tmp_path / "killed" / WEIGHTS).read_bytes()
