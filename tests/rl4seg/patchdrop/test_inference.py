"""A model on new images answers as where it was evaluated, image by image, from the kept patches alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from reward_data.errors import ArtifactError, DataError
from reward_data.image_store import ImageStore, import_images
from reward_data.labelled_images import LabelledImagesConfig
from reward_data.planted_images import PlantedConfig
from rl4seg.configs.patchdrop import KeepNetConfig, ResNetConfig
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.patchdrop.evaluation import ArmEvaluator
from rl4seg.patchdrop.inference import (
    DropPredictor,
    drop_model_folder,
    keep_bits,
    model_files,
    open_predictor,
)
from rl4seg.patchdrop.models import DropModel, DropSpec, save_drop_model, spec_of
from rl4seg.runtime import Runtime, start

SMALL = ResNetConfig(widths=(8, 8, 8), patch_stages=2)
RUNTIME = RuntimeConfig(device="cpu", threads=1, batch_size=8)


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return start(RUNTIME)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    folder = tmp_path_factory.mktemp("planted")
    planted = PlantedConfig(images=40, size=(16, 16), test_fraction=0.5)
    import_images(LabelledImagesConfig(planted=planted), folder)
    return ImageStore(folder)


def untrained(spec: DropSpec, two_streams: bool = True) -> DropModel:
    """Networks as they start; the policy keeps some patches of each image, which ones depends on the image."""
    policy = KeepNetConfig(head="grid", features=4)
    model = DropModel(spec).with_part("high", SMALL, 1).with_part("policy", policy, 1)
    with torch.no_grad():
        last = model.parts()["policy"].get_submodule("inner.last")
        assert isinstance(last, torch.nn.Conv2d)
        assert last.bias is not None
        last.weight *= 20
        last.bias.zero_()
    if not two_streams:
        return model
    low = DropModel(spec).with_part("low", SMALL.model_copy(update={"patch_stages": 0}), 1)
    return model.joined(low, two_streams=True)


@pytest.fixture(scope="module")
def predictor(store: ImageStore, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> DropPredictor:
    folder = tmp_path_factory.mktemp("model")
    save_drop_model(untrained(spec_of(store, (8, 8), (4, 4))), folder)
    return open_predictor(folder, runtime)


def test_answers_are_those_of_the_evaluation(
    predictor: DropPredictor, store: ImageStore, runtime: Runtime
) -> None:
    found = ArmEvaluator(predictor.model, "policy", None, store, 0, runtime).decisions(store.test)
    answers = [answer for place in store.test for answer in predictor.answers(store.pixels(place[None]))]
    assert [answer.predicted for answer in answers] == found.predicted.tolist()
    np.testing.assert_array_equal(np.stack([answer.keep for answer in answers]), found.keep)
    assert len({answer.keep.tobytes() for answer in answers}) > 5
    assert 0 < found.keep.mean() < 1


def test_an_answer_does_not_depend_on_the_batch(predictor: DropPredictor, store: ImageStore) -> None:
    pixels = store.pixels(store.test)
    alone = [predictor.answers(pixels[i : i + 1])[0] for i in range(len(pixels))]
    together = predictor.answers(pixels)
    np.testing.assert_allclose(
        [answer.probability for answer in together], [answer.probability for answer in alone], rtol=1e-5
    )
    assert [keep_bits(answer.keep) for answer in together] == [keep_bits(answer.keep) for answer in alone]


def test_pixels_of_dropped_patches_do_not_count(store: ImageStore, runtime: Runtime) -> None:
    """Each 2 x 2 cell of a dropped patch is turned by half: its mean, all that the policy sees, is the same."""
    predictor = DropPredictor(untrained(spec_of(store, (8, 8), (4, 4)), False).to(runtime), runtime)
    pixels = store.pixels(store.test[:4])
    turned = pixels.reshape(4, 1, 8, 2, 8, 2)[:, :, :, ::-1, :, ::-1].reshape(pixels.shape)
    before = predictor.answers(pixels)
    kept = np.stack([answer.keep.reshape(4, 4) for answer in before])[:, None]
    seen = kept.repeat(4, 2).repeat(4, 3)
    assert 0 < seen.mean() < 1
    dropped, looked_at = np.where(seen, pixels, turned), np.where(seen, turned, pixels)
    assert not np.array_equal(dropped, pixels)
    probabilities = [answer.probability for answer in before]
    same = [answer.probability for answer in predictor.answers(dropped)]
    np.testing.assert_allclose(same, probabilities, rtol=1e-5)
    other = [answer.probability for answer in predictor.answers(looked_at)]
    assert np.abs(np.subtract(other, probabilities)).max() > 1e-3


def test_an_image_of_another_size_is_resized_and_of_other_channels_refused(predictor: DropPredictor) -> None:
    flat = np.full((1, 40, 20), 90, np.uint8)
    np.testing.assert_array_equal(predictor.fitted(flat, "x"), np.full((1, 16, 16), 90))
    own = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    assert predictor.fitted(own, "x") is own
    with pytest.raises(DataError, match=r"a\.png: got .* 3 channels, but .* from grey images; convert it"):
        predictor.fitted(np.zeros((3, 16, 16), np.uint8), "a.png")


def test_where_the_model_is(predictor: DropPredictor, runtime: Runtime, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "patchdrop.json").write_text("{}")  # the report of a run has the name of a model's spec
    assert drop_model_folder(run) is None
    save_drop_model(predictor.model, run / "model")
    assert drop_model_folder(run) == drop_model_folder(run / "model") == run / "model"
    files = ["high.safetensors", "low.safetensors", "patchdrop.json", "policy.safetensors"]
    assert sorted(model_files(run / "model")) == files


def test_a_model_without_a_policy_or_with_a_broken_file_is_refused(
    predictor: DropPredictor, runtime: Runtime, tmp_path: Path
) -> None:
    spec = predictor.model.spec.model_copy(update={"policy": None})
    save_drop_model(DropModel(spec, predictor.model.high, predictor.model.low), tmp_path / "none")
    with pytest.raises(ArtifactError, match="has high, low, wanted a policy and a classifier"):
        open_predictor(tmp_path / "none", runtime)
    save_drop_model(predictor.model, tmp_path / "broken")
    (tmp_path / "broken/low.safetensors").write_bytes(b"x")
    with pytest.raises(ArtifactError, match=r"low.safetensors: not a readable checkpoint"):
        open_predictor(tmp_path / "broken", runtime)
