"""A PatchDrop model on new images, applied as where it was evaluated: same size, scale, greedy policy, skipped patches.

image -> resized to the model's pixels -> [0, 1] -> lowered -> patches kept (p >= 1/2) -> class probabilities
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reward_data.errors import ArtifactError, DataError
from reward_data.image_store import unit
from reward_data.labelled_images import resized, shape_words
from reward_data.types import Bool, UInt8
from rl4seg.configs.patchdrop import MODEL_FOLDER
from rl4seg.patchdrop.models import PARTS, SPEC, DropModel, load_drop_model
from rl4seg.runtime import Runtime


class Answer(NamedTuple):
    """What a model says about an image: class value, its probability, and the patches (P) that it has looked at."""

    predicted: int
    probability: float
    keep: Bool


@dataclass(frozen=True)
class DropPredictor:
    """A model with a policy and a classifier, ready to answer."""

    model: DropModel
    runtime: Runtime

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names by value."""
        return self.model.spec.class_names

    def fitted(self, values: UInt8, where: str) -> UInt8:
        """An image in the model's size, resized as those that it has learned from. Shape: (C, H, W) -> (C, *S).

        Args:
            where: what a message begins with.

        Raises:
            DataError: another number of channels.
        """
        spec = self.model.spec
        if len(values) != len(spec.mean):
            wanted = {1: "grey", 3: "colour"}.get(len(spec.mean), f"{len(spec.mean)} channel")
            raise DataError(
                f"{where}: got an image of {shape_words(values.shape)}, but the model has learned from {wanted} "
                f"images; convert it to {wanted}"
            )
        return values if values.shape[1:] == spec.shape else resized(values, spec.shape)

    def answers(self, images: UInt8) -> list[Answer]:
        """One answer per image of a batch; an answer does not depend on the other images. Shape: (B, C, *S)."""
        probabilities, keep = self.model.predict(self.runtime.tensor(unit(images)), self.runtime)
        best, predicted = probabilities.float().max(1)
        return [Answer(*row) for row in zip(predicted.tolist(), best.tolist(), keep.cpu().numpy())]


def drop_model_folder(path: Path) -> Path | None:
    """Where the model of a run is, or ``path`` itself where it is one; None where there is none."""
    files = (SPEC, "policy.safetensors")  # both: the figures of a run's report have the name of the spec
    places = (path / MODEL_FOLDER, path)
    return next((place for place in places if all((place / file).is_file() for file in files)), None)


def model_files(folder: Path) -> dict[str, Path]:
    """Name -> file of all that makes a model's answers."""
    names = (SPEC, *(f"{part}.safetensors" for part in PARTS))
    return {name: folder / name for name in names if (folder / name).is_file()}


def open_predictor(folder: Path, runtime: Runtime) -> DropPredictor:
    """Read a model folder that a run of PatchDrop has handed out.

    Raises:
        ArtifactError: a file is missing or broken, or there is no policy or no classifier.
    """
    model = load_drop_model(folder, runtime)
    if model.policy is None or (model.high is None and model.low is None):
        raise ArtifactError(
            f"{folder}: has {', '.join(model.parts()) or 'no network'}, wanted a policy and a classifier; give the "
            "model/ folder of a finished run"
        )
    return DropPredictor(model, runtime)


def keep_bits(keep: Bool) -> str:
    """A keep map as text, row by row. Shape: (P)."""
    return "".join("1" if kept else "0" for kept in np.asarray(keep))
