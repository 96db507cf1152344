"""The trainings of PatchDrop on images with a planted label, their determinism, and what they leave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from reward_data.errors import ArtifactError
from reward_data.image_store import ImageStore, import_images
from reward_data.labelled_images import LabelledImagesConfig
from reward_data.planted_images import PlantedConfig, planted_images
from rl4seg.configs.patchdrop import (
    ClassifierTrainingConfig,
    KeepNetConfig,
    KeepTrainingConfig,
    ResNetConfig,
)
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.patchdrop import classification
from rl4seg.patchdrop.choosers import blind_keep
from rl4seg.patchdrop.classification import (
    BLIND,
    ImageBatch,
    TrainingImages,
    learned_loss,
    moved,
    train_classifier,
    train_policy,
    train_rival,
)
from rl4seg.patchdrop.evaluation import ArmEvaluator, chosen_keep, evaluate_arm, policy_keep
from rl4seg.patchdrop.grid import from_centre
from rl4seg.patchdrop.models import DropModel, load_drop_model, save_drop_model, spec_of
from rl4seg.runtime import Runtime, start
from rl4seg.training import descend

PLANTED = PlantedConfig(images=240, size=(16, 16), grid=(4, 4), test_fraction=0.25, seed=1)
HIGH = ResNetConfig(widths=(8, 16, 16), patch_stages=2)
POLICY = KeepNetConfig(head="grid", features=16)
STILL = {"flip": False, "checkpoint_seconds": 0}


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return start(RuntimeConfig(device="cpu", threads=1))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    folder = tmp_path_factory.mktemp("planted")
    import_images(LabelledImagesConfig(planted=PLANTED), folder)
    return ImageStore(folder)


@pytest.fixture(scope="module")
def high(store: ImageStore, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> DropModel:
    """A high-resolution classifier that reads the planted labels."""
    model, out = (
        DropModel(spec_of(store, (8, 8), (4, 4))).with_part("high", HIGH, 0),
        tmp_path_factory.mktemp("high"),
    )
    config = ClassifierTrainingConfig(steps=90, batch_size=32, learning_rate=1e-2, shift=0, flip=False)
    figures = train_classifier(model, "high", store, config, 0, runtime, out, out / "checkpoint")
    assert figures["accuracy"] > 0.95
    return model


@pytest.mark.learning
def test_the_planted_problem_is_solved(
    high: DropModel, store: ImageStore, runtime: Runtime, tmp_path: Path
) -> None:
    """The label stands in one patch of 16, which the low resolution shows: at most 2 kept, at least 95 % right."""
    model = high.clone().with_part("policy", POLICY, 0)
    config = KeepTrainingConfig.model_validate(
        {
            "steps": 200,
            "batch_size": 64,
            "learning_rate": 1e-2,
            "alpha_end": 0.95,
            **STILL,
            "checkpoint_seconds": 60,
        }
    )
    train_policy(model, False, store, config, 0, runtime, tmp_path, tmp_path / "checkpoint")
    found = evaluate_arm(ArmEvaluator(model, "policy", None, store, 0, runtime), -0.5, tmp_path)
    assert found["accuracy"] >= 0.95
    assert found["patches"] <= 2
    # it is the planted patch that is kept, and as many others tell next to nothing
    patches = planted_images(PLANTED)[2][: len(store.test)]
    keep = policy_keep(model, store, store.test, runtime).numpy()
    assert keep[np.arange(len(patches)), patches].mean() >= 0.95
    blind = evaluate_arm(ArmEvaluator(model, "random", None, store, 0, runtime), -0.5, tmp_path)
    assert blind["patches"] == found["patches"]
    assert blind["accuracy"] < 0.6


def trained(
    high: DropModel, store: ImageStore, runtime: Runtime, out: Path, steps: int, learns: bool
) -> DropModel:
    model = high.clone().with_part("policy", POLICY, 0)
    config = KeepTrainingConfig.model_validate({"steps": steps, "batch_size": 16, "samples": 2, **STILL})
    train_policy(model, learns, store, config, 5, runtime, out, out / "checkpoint")
    return model


@pytest.mark.parametrize("learns", [False, True])
def test_a_killed_training_ends_with_the_same_bits(
    high: DropModel, store: ImageStore, runtime: Runtime, tmp_path: Path, learns: bool
) -> None:
    whole = trained(high, store, runtime, tmp_path / "whole", 4, learns)
    # the checkpoint of a run of 3 steps holds 2 of them; a run of 4 goes on from there
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir(exist_ok=True)
    trained(high, store, runtime, tmp_path / "killed", 3, learns)
    resumed = trained(high, store, runtime, tmp_path / "killed", 4, learns)
    for name, part in whole.parts().items():
        for key, value in part.state_dict().items():
            assert torch.equal(value, resumed.parts()[name].state_dict()[key]), (name, key)


def test_only_who_learns_changes(
    high: DropModel, store: ImageStore, runtime: Runtime, tmp_path: Path
) -> None:
    for learns in (False, True):
        model = trained(high, store, runtime, tmp_path / str(learns), 2, learns)
        before, after = (m.parts()["high"].state_dict() for m in (high, model))
        assert all(torch.equal(before[k], after[k]) for k in before) is not learns


def test_the_second_stream_adds_frozen_logits(
    high: DropModel, store: ImageStore, runtime: Runtime, tmp_path: Path
) -> None:
    low = DropModel(high.spec.model_copy(update={"high": None})).with_part(
        "low", ResNetConfig(widths=(8, 8, 8)), 1
    )
    both = high.clone().joined(low.to(runtime), two_streams=True)
    images = runtime.tensor(store.images(store.test[:4]))
    seen = both.lowered(images)
    keep = torch.ones(4, 16, dtype=torch.bool)
    keep[:, 3:] = False
    assert both.low is not None
    assert high.high is not None
    with torch.no_grad():
        wanted = high.high(images, keep) + both.low(seen)
        torch.testing.assert_close(both.classify(images, seen, keep), wanted)
        torch.testing.assert_close(high.classify(images, seen, keep), high.high(images, keep))
    batch = ImageBatch(both, images, seen, torch.zeros(4, dtype=torch.long), runtime, True)
    loss = batch.loss(keep[:, None])
    assert loss is not None
    config = KeepTrainingConfig.model_validate({"steps": 1, "batch_size": 8, **STILL})
    model = both.with_part("policy", POLICY, 0)
    train_policy(model, True, store, config, 0, runtime, tmp_path, tmp_path / "checkpoint")
    assert model.low is not None
    for key, value in low.parts()["low"].state_dict().items():
        assert torch.equal(value, model.low.state_dict()[key])


def test_statistics_of_batch_normalisation_move_in_training_and_not_in_judging(
    store: ImageStore, runtime: Runtime
) -> None:
    config = HIGH.model_copy(update={"norm": "batch"})
    model = DropModel(spec_of(store, (8, 8), (4, 4))).with_part("high", config, 0).to(runtime)
    images = runtime.tensor(store.images(store.train[:8]))
    batch = ImageBatch(model, images, model.lowered(images), torch.zeros(8, dtype=torch.long), runtime, True)
    keep = torch.ones(8, 1, 16, dtype=torch.bool)
    assert model.high is not None
    before = {k: v.clone() for k, v in model.high.state_dict().items()}
    batch.quality(keep)
    assert all(torch.equal(v, before[k]) for k, v in model.high.state_dict().items())
    batch.loss(keep)
    assert not torch.equal(
        model.high.resnet.get_submodule("bn1").running_mean, before["resnet.bn1.running_mean"]
    )  # type: ignore[arg-type]
    assert not model.high.training


def test_blind_choosers_keep_as_many_patches(high: DropModel, store: ImageStore, runtime: Runtime) -> None:
    policy = high.clone().with_part(
        "policy", KeepNetConfig(head="dense", network=ResNetConfig(widths=(8, 8, 8))), 2
    )
    policy.to(runtime)
    own = chosen_keep("policy", policy, store, store.test, 0, runtime)
    numbers = own.sum(1)
    assert numbers.float().std() > 0
    for chooser in ("random", "centre", "frequent"):
        keep = chosen_keep(chooser, policy, store, store.test, 0, runtime)  # type: ignore[arg-type]
        assert (
            keep.sum(1).sort().values.equal(numbers.sort().values)
        )  # the same numbers, dealt to other images
        assert not keep.sum(1).equal(numbers)
    order = from_centre((4, 4))
    centre = chosen_keep("centre", policy, store, store.test, 0, runtime)
    assert bool(centre[:, order[0]].all()) is bool((numbers > 0).all())
    again = chosen_keep("random", policy, store, store.test, 0, runtime)
    assert again.equal(chosen_keep("random", policy, store, store.test, 0, runtime))
    assert not again.equal(chosen_keep("random", policy, store, store.test, 1, runtime))


def test_a_rival_sees_as_many_patches_and_no_policy(
    high: DropModel, store: ImageStore, runtime: Runtime, tmp_path: Path
) -> None:
    config = KeepTrainingConfig.model_validate({"steps": 3, "batch_size": 16, **STILL})
    counts, order = np.array([2, 4]), from_centre((4, 4))
    figures = train_rival(
        high.clone(), counts, "centre", order, store, config, 0, runtime, tmp_path, tmp_path / "checkpoint"
    )
    assert 2 <= figures["patches"] <= 4
    assert (tmp_path / "high.safetensors").is_file()
    assert not (tmp_path / "policy.safetensors").exists()


@pytest.mark.parametrize("samples", [1, 3])
def test_a_rival_learns_from_as_many_keep_maps_as_the_policy(
    high: DropModel,
    store: ImageStore,
    runtime: Runtime,
    tmp_path: Path,
    samples: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[torch.Tensor] = []

    def spied(batch: ImageBatch, keep: torch.Tensor) -> torch.Tensor:
        seen.append(keep)
        return learned_loss(batch, keep)

    monkeypatch.setattr(classification, "learned_loss", spied)
    config = KeepTrainingConfig.model_validate({"steps": 1, "batch_size": 16, "samples": samples, **STILL})
    train_rival(
        high.clone(),
        np.array([2, 4]),
        "random",
        from_centre((4, 4)),
        store,
        config,
        0,
        runtime,
        tmp_path,
        tmp_path / "c",
    )
    rival = [tuple(keep.shape) for keep in seen]
    seen.clear()
    model = high.clone().with_part("policy", POLICY, 0)
    train_policy(model, True, store, config, 0, runtime, tmp_path, tmp_path / "c2")
    assert rival == [tuple(keep.shape) for keep in seen] == [(16, 16)] * samples
    assert len({keep.numpy().tobytes() for keep in seen}) == samples


def test_one_keep_map_per_image_is_drawn_as_ever(
    high: DropModel, store: ImageStore, runtime: Runtime, tmp_path: Path
) -> None:
    """The step by hand: one draw of counts, one keep map, one cross-entropy, AdamW."""
    config = KeepTrainingConfig.model_validate({"steps": 1, "batch_size": 16, **STILL})
    counts, order = np.array([2, 4, 7]), from_centre((4, 4))
    rival, wanted = high.clone(), high.clone()
    train_rival(rival, counts, "random", order, store, config, 0, runtime, tmp_path, tmp_path / "c")
    assert wanted.high is not None
    images, labels, _ = TrainingImages(store, 16, False, 0.0, 0, runtime).read(0)
    rng = np.random.default_rng([0, BLIND, 0])
    keep = blind_keep("random", rng.choice(counts, 16), order, rng)
    optimiser = torch.optim.AdamW(wanted.high.parameters(), lr=config.classifier_rate, weight_decay=0.0)
    batch = ImageBatch(wanted, images, wanted.lowered(images), labels, runtime, True)
    descend(optimiser, learned_loss(batch, keep), list(wanted.high.parameters()), config.grad_norm)
    for key, value in wanted.parts()["high"].state_dict().items():
        assert torch.equal(value, rival.parts()["high"].state_dict()[key]), key


def test_models_come_back_and_broken_ones_are_named(
    high: DropModel, store: ImageStore, runtime: Runtime, tmp_path: Path
) -> None:
    model = high.clone().with_part("policy", POLICY, 0).to(runtime)
    save_drop_model(model, tmp_path / "model")
    loaded = load_drop_model(tmp_path / "model", runtime)
    images = runtime.tensor(store.images(store.test[:4]))
    for ours, theirs in zip(model.predict(images, runtime), loaded.predict(images, runtime)):
        torch.testing.assert_close(ours, theirs)
    (tmp_path / "model" / "policy.safetensors").write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match=r"policy\.safetensors: not a readable"):
        load_drop_model(tmp_path / "model", runtime)
    with pytest.raises(ArtifactError, match="no readable PatchDrop model"):
        load_drop_model(tmp_path, runtime)


def test_augmentation_moves_by_whole_pixels() -> None:
    image = torch.arange(16.0).reshape(1, 1, 4, 4).repeat(64, 1, 1, 1) + 1
    out = moved(image, False, 0.25, torch.Generator().manual_seed(0))
    assert {value for one in out for value in one.flatten().tolist()} == set(range(17))
    # a shift by one row leaves three rows and a row of zeros
    counts = {int((one == 0).sum()) for one in out}
    assert counts == {0, 4, 7}  # not moved; one row or column gone; both
    flipped = moved(image, True, 0.0, torch.Generator().manual_seed(0))
    assert {one[0, 0, 0].item() for one in flipped} == {1.0, 4.0}
