"""A PatchDrop model in memory and on disk: policy, high- and low-resolution classifier, whichever of them there are."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn

from reward_data.errors import ArtifactError
from reward_data.image_store import ImageStore
from reward_data.types import Config
from rl4seg.configs.patchdrop import KeepNetConfig, ResNetConfig
from rl4seg.patchdrop.bernoulli import greedy_keep
from rl4seg.patchdrop.grid import lowered, patch_count
from rl4seg.patchdrop.networks import DropClassifier, KeepNetwork
from rl4seg.runtime import Runtime
from rl4seg.weights import load_weights, save_weights

SPEC = "patchdrop.json"
FITS = "Set networks.*, grid and low_size to match"
PARTS = ("high", "low", "policy")
INIT = {"high": 81, "low": 82, "policy": 83}  # branches of the seed tree


class DropSpec(Config):
    """What is needed to build the networks before their weights are read."""

    class_names: tuple[str, ...] = Field(description="Class names in the order of the logits.")
    shape: tuple[int, ...] = Field(description="Pixels of the high-resolution image.")
    low_shape: tuple[int, ...] = Field(description="Pixels of the low-resolution image.")
    grid: tuple[int, ...] = Field(description="Patches per axis.")
    mean: tuple[float, ...] = Field(description="Mean of each channel, images in [0, 1].")
    sd: tuple[float, ...] = Field(description="Standard deviation of each channel.")
    high: ResNetConfig | None = Field(default=None, description="Classifier of high-resolution patches.")
    low: ResNetConfig | None = Field(default=None, description="Classifier of the low-resolution image.")
    policy: KeepNetConfig | None = Field(default=None, description="The policy.")
    two_streams: bool = Field(
        default=False, description="Whether the low classifier's logits are added (Ft-2)."
    )

    @property
    def patches(self) -> int:
        """P."""
        return patch_count(self.grid)

    @property
    def colours(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """(mean, sd) of the channels."""
        return self.mean, self.sd


def spec_of(store: ImageStore, low_shape: tuple[int, ...], grid: tuple[int, ...]) -> DropSpec:
    """The spec of models for these images, with no network yet."""
    mean, sd = store.colour_statistics()
    return DropSpec(
        class_names=store.class_names, shape=store.shape, low_shape=low_shape, grid=grid, mean=mean, sd=sd
    )


@dataclass
class DropModel:
    """The networks that there are; see `classify` and `decide`."""

    spec: DropSpec
    high: DropClassifier | None = None
    low: DropClassifier | None = None
    policy: KeepNetwork | None = None

    def parts(self) -> dict[str, nn.Module]:
        """The networks that there are, by name."""
        return {name: getattr(self, name) for name in PARTS if getattr(self, name) is not None}

    def with_part(self, name: str, config: ResNetConfig | KeepNetConfig, *seed_path: int) -> DropModel:
        """The same model with a freshly initialised network; equal seeds, equal weights."""
        spec = self.spec.model_copy(update={name: config})
        parts: dict[str, Any] = {name: _built(spec, name, *seed_path)}
        return replace(self, spec=spec, **parts)

    def joined(self, other: DropModel, two_streams: bool = False) -> DropModel:
        """This model's networks and those that only the other one has."""
        added: dict[str, Any] = {
            name: part for name, part in other.parts().items() if name not in self.parts()
        }
        configs = {name: getattr(other.spec, name) for name in added}
        spec = self.spec.model_copy(update={**configs, "two_streams": two_streams})
        return replace(self, spec=spec, **added)

    def clone(self) -> DropModel:
        """An independent copy."""
        parts: dict[str, Any] = {name: copy.deepcopy(part) for name, part in self.parts().items()}
        return replace(self, **parts)

    def to(self, runtime: Runtime) -> DropModel:
        """The same networks on the runtime's device, in eval mode."""
        for part in self.parts().values():
            part.to(runtime.device).eval()
        return self

    def lowered(self, images: Tensor) -> Tensor:
        """What the policy and the low-resolution classifier see. Shape: (B, C, *S) -> (B, C, *s)."""
        return lowered(images, self.spec.low_shape)

    def decide(self, low: Tensor) -> Tensor:
        """The patches that the policy keeps. Shape: (B, C, *s) -> (B, P) bool."""
        assert self.policy is not None, "the model has no policy"
        return greedy_keep(self.policy(low))

    def classify(self, images: Tensor, low: Tensor, keep: Tensor | None) -> Tensor:
        """Class logits from the kept patches (None: all) and, with two streams, the low-resolution image.

        A model without a high-resolution classifier answers by the low-resolution one. Shape: -> (B, K).
        """
        if self.high is None:
            assert self.low is not None, "the model has no classifier"
            return _logits(self.low, low)
        return self._with_low(_logits(self.high, images, keep), low)

    def classify_maps(self, images: Tensor, low: Tensor, keep: Tensor) -> Tensor:
        """As `classify`, for several keep maps of the same images. Shape: keep (B, M, P) -> (B, M, K)."""
        assert self.high is not None, "the model has no high-resolution classifier"
        return self._with_low(self.high.of_maps(images, keep), low)

    def _with_low(self, logits: Tensor, low: Tensor) -> Tensor:
        """Logits (B, [M,] K) with those of the low-resolution classifier where there are two streams."""
        if not self.spec.two_streams or self.low is None:
            return logits
        return logits + _logits(self.low, low).reshape(len(low), *[1] * (logits.ndim - 2), -1)

    @torch.no_grad()
    def predict(self, images: Tensor, runtime: Runtime) -> tuple[Tensor, Tensor]:
        """(class probabilities (B, K), kept patches (B, P)) of images (B, C, *S) in [0, 1]."""
        with runtime.autocast():
            low = self.lowered(images)
            keep = self.decide(low)
            return self.classify(images, low, keep).softmax(1), keep


def _logits(network: nn.Module, images: Tensor, keep: Tensor | None = None) -> Tensor:
    logits: Tensor = network(images, keep)
    return logits


def _built(spec: DropSpec, name: str, *seed_path: int) -> nn.Module:
    path = (*seed_path, INIT[name])
    config = getattr(spec, name)
    if isinstance(config, KeepNetConfig):
        return KeepNetwork(config, spec.grid, spec.colours, *path)
    return DropClassifier(config, spec.grid, spec.colours, len(spec.class_names), *path)


def save_drop_model(model: DropModel, folder: Path) -> None:
    """Write ``patchdrop.json`` and one safetensors file per network; equal models give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in model.parts().items():
        file = folder / f"{name}.safetensors"
        save_weights(part, file)
    (folder / SPEC).write_text(model.spec.model_dump_json(indent=2) + "\n", encoding="utf-8")


def load_drop_model(folder: Path, runtime: Runtime) -> DropModel:
    """Read what `save_drop_model` wrote.

    Raises:
        ArtifactError: a file is missing or unreadable, or the weights belong to another architecture.
    """
    try:
        spec = DropSpec.model_validate_json((folder / SPEC).read_text("utf-8"))
    except (OSError, ValidationError, json.JSONDecodeError) as error:
        raise ArtifactError(
            f"{folder / SPEC}: no readable PatchDrop model ({error}); give a folder that a run has written"
        ) from error
    model = DropModel(spec)
    for name in PARTS:
        if getattr(spec, name) is not None:
            part = _built(spec, name, 0)
            load_weights(part, folder / f"{name}.safetensors", FITS)
            setattr(model, name, part)
    return model.to(runtime)
