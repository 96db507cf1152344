"""A segmentation policy on disk and in memory."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from reward_data.case_store import CaseStore
from reward_data.errors import ArtifactError, ConfigError
from reward_data.types import Config, Float32
from rl4seg.configs.network import NetworkConfig
from rl4seg.networks import SegmentationNetwork, build_network, norm_parameter_names
from rl4seg.runtime import Runtime, derive_seed

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
    state = {name: value.detach().cpu().contiguous() for name, value in model.network.state_dict().items()}
    save_file(state, folder / WEIGHTS)
    (folder / WEIGHTS).chmod(0o644)  # safetensors keeps its files to their owner; a package is to be shared
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
    load_weights(model, folder / WEIGHTS)
    model.network.to(runtime.device).eval()
    return model


def load_weights(model: Model, path: Path) -> None:
    """Load a state dict (safetensors, or a torch file of plain tensors) into ``model``.

    Raises:
        ArtifactError: the file is missing or unreadable, or names and shapes are not those of the network.
    """
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, SafetensorError, ValueError, EOFError, KeyError) as error:
        raise ArtifactError(
            f"{path}: not a readable checkpoint ({error}); give .safetensors or a torch state dict"
        ) from error
    except (
        Exception
    ) as error:  # torch raises its own pickle.UnpicklingError for anything that is not plain tensors
        raise ArtifactError(
            f"{path}: refused, it holds more than plain tensors; save model.state_dict()"
        ) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    wanted = {name: tuple(value.shape) for name, value in model.network.state_dict().items()}
    got = {name: tuple(getattr(value, "shape", ())) for name, value in state.items()}
    if wanted != got:
        raise ArtifactError(
            f"{path}: weights of another architecture. {_difference(wanted, got)}. Set policy.network.* to match."
        )
    model.network.load_state_dict(state)


def _difference(wanted: dict[str, tuple[int, ...]], got: dict[str, tuple[int, ...]]) -> str:
    missing = sorted(wanted.keys() - got.keys())
    extra = sorted(got.keys() - wanted.keys())
    shapes = [
        f"{n} is {got[n]}, wanted {wanted[n]}"
        for n in sorted(wanted.keys() & got.keys())
        if wanted[n] != got[n]
    ]
    parts = [
        f"{len(missing)} missing (e.g. {missing[0]})" if missing else "",
        f"{len(extra)} unknown (e.g. {extra[0]})" if extra else "",
    ]
    parts.append(f"{len(shapes)} of other shape (e.g. {shapes[0]})" if shapes else "")
    return "; ".join(part for part in parts if part)


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
    load_weights(model, path)
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
