from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch

from reward_data.errors import ArtifactError, ConfigError
from rl4seg.configs.network import NetworkConfig
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.networks import norm_parameter_names
from rl4seg.policies import ModelSpec, TorchSegmenter, load_model, load_start, new_model, save_model
from rl4seg.runtime import start

NETWORK = NetworkConfig(features=(4, 4, 8, 8, 8, 4))
SPEC = ModelSpec(network=NETWORK, in_channels=1, class_names=("background", "lv", "myo"), shape=(32, 32))
RUNTIME = start(RuntimeConfig(device="cpu", threads=1))
IMAGES = np.random.default_rng(0).random((3, 1, 32, 32)).astype(np.float32)


def test_a_saved_policy_predicts_the_same_and_saves_the_same_bytes(tmp_path: Path) -> None:
    model = new_model(SPEC, 1)
    for folder in ("a", "b"):
        save_model(model, tmp_path / folder)
    assert (tmp_path / "a/weights.safetensors").read_bytes() == (
        tmp_path / "b/weights.safetensors"
    ).read_bytes()
    again = load_model(tmp_path / "a", RUNTIME)
    wanted = TorchSegmenter(model, RUNTIME).probabilities(IMAGES)
    assert np.array_equal(TorchSegmenter(again, RUNTIME).probabilities(IMAGES), wanted)
    assert wanted.sum(1) == pytest.approx(np.ones((3, 32, 32)), abs=1e-5)


def test_checkpoint_of_another_architecture(tmp_path: Path) -> None:
    torch.save(new_model(SPEC, 1).network.state_dict(), tmp_path / "p.pt")
    other = SPEC.model_copy(update={"network": NETWORK.model_copy(update={"features": (4, 4, 8, 8, 16, 4)})})
    with pytest.raises(ArtifactError, match=r"another architecture.*of other shape.*Set policy.network"):
        load_start(tmp_path / "p.pt", other, RUNTIME)
    assert load_start(tmp_path / "p.pt", SPEC, RUNTIME).num_classes == 3


def test_checkpoint_of_another_task(tmp_path: Path) -> None:
    save_model(new_model(SPEC, 1), tmp_path / "p")
    with pytest.raises(ConfigError, match=r"class_names.*background.*the data has"):
        load_start(
            tmp_path / "p", SPEC.model_copy(update={"class_names": ("background", "nucleus", "x")}), RUNTIME
        )


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04broken"])
def test_unreadable_checkpoints(tmp_path: Path, content: bytes) -> None:
    for name in ("p.pt", "p.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ArtifactError, match=name):
            load_start(tmp_path / name, SPEC, RUNTIME)


def test_code_in_a_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": PurePosixPath("x")}, tmp_path / "p.pt")
    with pytest.raises(ArtifactError, match="more than plain tensors"):
        load_start(tmp_path / "p.pt", SPEC, RUNTIME)


def test_perturbed_changes_a_copy_only_and_spares_normalisation() -> None:
    model = new_model(SPEC, 1)
    segmenter = TorchSegmenter(model, RUNTIME)
    before = segmenter.probabilities(IMAGES)
    noisy = segmenter.perturbed(0.05, seed=3)
    assert not np.allclose(noisy.probabilities(IMAGES), before)
    assert np.array_equal(segmenter.probabilities(IMAGES), before)
    assert np.array_equal(segmenter.perturbed(0.05, 3).probabilities(IMAGES), noisy.probabilities(IMAGES))
    weights, changed = dict(model.network.named_parameters()), dict(noisy.model.network.named_parameters())
    for name in norm_parameter_names(model.network):
        assert torch.equal(weights[name], changed[name])


def test_logit_bias_adds_foreground() -> None:
    model = new_model(SPEC, 1)
    plain = TorchSegmenter(model, RUNTIME).probabilities(IMAGES)
    biased = TorchSegmenter(model, RUNTIME, logit_bias=1.0).probabilities(IMAGES)
    # softmax with +1 on the classes 1, 2: the odds of class 1 against background grow by e
    assert biased[:, 1] / biased[:, 0] == pytest.approx(np.e * plain[:, 1] / plain[:, 0], rel=1e-3)
