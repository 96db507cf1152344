"""A segmentation policy on disk and in memory."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import Field, ValidationError

from reward_data.case_store import CaseStore
from reward_data.errors import ArtifactError, ConfigError
from reward_data.types import Config, Float32
from rl4seg.configs.network import NetworkConfig
from rl4seg.networks import SegmentationNetwork, build_network, norm_parameter_names
from rl4seg.runtime import Runtime, derive_seed
from rl4seg.weights import load_weights, save_weights

WEIGHTS = "weights.safetensors"
SPEC = "model.json"


class ModelSpec(Config):
    """What is needed to build a network before its weights are read."""

    network: NetworkConfig
    in_channels: int = Field(ge=1, description="Image channels C (the reward net: C + K).")
    class_names: tuple[str, ...] = Field(description="Names of the output channels.")
    shape: tuple[int, ...] = Field(description="Spatial shape S that it was trained at.")


@dataclass
class Model:
    """A network and its spec. Used by the policy and by the reward net alike."""

    spec: ModelSpec
    network: SegmentationNetwork

    @property
    def num_classes(self) -> int:
        """K, background included."""
        return len(self.spec.class_names)

    def clone(self) -> Model:
        """An independent copy."""
        return Model(self.spec, copy.deepcopy(self.network))


def spec_for(network: NetworkConfig, store: CaseStore) -> ModelSpec:
    """The spec of a policy for the images and classes of a case store."""
    return ModelSpec(
        network=network, in_channels=store.channels, class_names=store.class_names, shape=store.shape
    )


def new_model(spec: ModelSpec, *seed_path: int) -> Model:
    """A freshly initialised model; equal seeds, equal weights."""
    network = build_network(spec.network, spec.in_channels, len(spec.class_names), len(spec.shape), seed_path)
    return Model(spec, network)


def save_model(model: Model, folder: Path) -> None:
    """Write ``weights.safetensors`` and ``model.json``; equal models give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(model.network, folder / WEIGHTS)
    (folder / SPEC).write_text(model.spec.model_dump_json(indent=2) + "\n")


def load_model(folder: Path, runtime: Runtime) -> Model:
    """Read what `save_model` wrote.

    Raises:
        ArtifactError: a file is missing or unreadable, or the weights belong to another architecture.
    """
    try:
        spec = ModelSpec.model_validate_json((folder / SPEC).read_text())
    except (OSError, ValidationError, json.JSONDecodeError) as error:
        raise ArtifactError(
            f"{folder / SPEC}: no readable model description ({error}); give a policy folder"
        ) from error
    model = new_model(spec)
    load_weights(model.network, folder / WEIGHTS)
    model.network.to(runtime.device).eval()
    return model


def load_start(path: Path, spec: ModelSpec, runtime: Runtime) -> Model:
    """A starting policy: a policy folder of this project, or a bare state dict for ``spec.network``.

    Raises:
        ConfigError: the folder's policy does not fit the data (channels, classes or dimensions).
        ArtifactError: see `load_model` and `load_weights`.
    """
    if path.is_dir():
        model = load_model(path, runtime)
        for field in ("in_channels", "class_names"):
            if getattr(model.spec, field) != getattr(spec, field):
                raise ConfigError(
                    f"{path}: checkpoint has {field} {getattr(model.spec, field)}, "
                    f"the data has {getattr(spec, field)}; choose a checkpoint of the same task or change target.labels"
                )
        if len(model.spec.shape) != len(spec.shape):
            raise ConfigError(
                f"{path}: checkpoint is {len(model.spec.shape)}D, the data is {len(spec.shape)}D"
            )
        return Model(model.spec.model_copy(update={"shape": spec.shape}), model.network)
    model = new_model(spec)
    load_weights(model.network, path)
    model.network.to(runtime.device).eval()
    return model


class TorchSegmenter:
    """The data room's view of a policy (`reward_data.types.Segmenter`): numpy in, numpy out, eval mode."""

    def __init__(self, model: Model, runtime: Runtime, logit_bias: float = 0.0) -> None:
        self.model = model
        self.runtime = runtime
        self.logit_bias = logit_bias

    @property
    def num_classes(self) -> int:
        """K, background included."""
        return self.model.num_classes

    @torch.no_grad()
    def probabilities(self, images: Float32) -> Float32:
        """Class probabilities. Shape: (B, C, *S) in [0, 1] -> (B, K, *S)."""
        parts = [
            self._batch(images[i : i + self.runtime.batch_size])
            for i in range(0, len(images), self.runtime.batch_size)
        ]
        return np.concatenate(parts)

    def _batch(self, images: Float32) -> Float32:
        self.model.network.eval()
        with self.runtime.autocast():
            logits = self.model.network(self.runtime.tensor(images))
        logits[:, 1:] += self.logit_bias
        probabilities: Float32 = logits.softmax(1).cpu().numpy()
        return probabilities

    @torch.no_grad()
    def perturbed(self, sigma: float, seed: int) -> TorchSegmenter:
        """A copy with N(0, sigma) added to every weight that is not a normalisation layer's."""
        noisy = self.model.clone()
        keep = norm_parameter_names(noisy.network)
        generator = torch.Generator().manual_seed(derive_seed(seed))
        for name, weight in noisy.network.named_parameters():
            if name not in keep:
                weight.add_(sigma * torch.randn(weight.shape, generator=generator).to(weight))
        return TorchSegmenter(noisy, self.runtime, self.logit_bias)
