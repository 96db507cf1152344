"""A model package: a policy with all that is needed to use it on files, in one folder that can be copied anywhere.

    model.json, weights.safetensors    the policy (`rl4seg.policies`)
    package.json                       `PackageSpec`: preprocessing, classes, anatomical rules, flag, origin
    reward/                            the calibrated reward net (`rl4seg.reward_net`), where there is one
    paser/                             the router (`rl4seg.paser.package`) that decides, where there is one
    windows/                           fine network and policy (`rl4seg.patchdrop.window_package`), where there are

`RUN/policy/` is such a folder. Everything that predicts, checks or exports starts from `load_package`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from reward_data.anatomy import RuleSet
from reward_data.errors import ArtifactError
from reward_data.preprocess import PreprocessConfig
from reward_data.types import Config, LabelMap
from rl4seg.paser.package import FOLDER as ROUTER
from rl4seg.paser.package import routed_model
from rl4seg.patchdrop.window_package import FOLDER as WINDOWS
from rl4seg.patchdrop.window_package import windowed_model
from rl4seg.policies import Model, load_model, save_model
from rl4seg.reward_net import RewardModel, load_reward_model, save_reward_model
from rl4seg.runtime import Runtime

PACKAGE, REWARD = "package.json", "reward"
POLICY, MODELS = "policy", "models"  # where a run, and an exported bundle, keep one


class TrustFlag(Config):
    """Below which trust a mask is flagged, and what that finds on the labelled images that it was chosen on."""

    threshold: float = Field(ge=0, le=1, description="A mask with less trust than this is flagged.")
    dice_below: float = Field(
        ge=0, le=1, description="What is to be found: masks with a mean Dice below this."
    )
    sensitivity: float = Field(gt=0, le=1, description="Share of them that the flag was asked to find.")
    confidence: float | None = Field(
        default=None, description="How sure of that it was asked to be; null: of those at hand that share."
    )
    images: int = Field(ge=1, description="Images and views of them that it was chosen on.")
    bad: int = Field(ge=0, description="How many of them are to be found.")
    found: float | None = Field(
        description="Share of the bad ones that the flag finds; null where there are none."
    )
    flagged: float = Field(ge=0, le=1, description="Share of all of them that the flag marks.")
    basis: str = Field(description="Which images these are, in words.")


class PackageSpec(Config):
    """What a model package says about itself, besides its network."""

    format: Literal[1] = 1
    name: str = Field(description="Name of the run that made it.")
    iteration: int = Field(ge=0, description="Iteration of the loop; 0 = the policy given, not adapted.")
    labels: LabelMap = Field(description="Classes; merges matter for labelled data only.")
    preprocess: PreprocessConfig = Field(description="From a native image to the network's grid.")
    rules: RuleSet = Field(description="Anatomical rules that masks are checked by.")
    spacing_known: bool = Field(
        default=True, description="False: pixel sizes of the training files were placeholders."
    )
    trust: TrustFlag | None = Field(default=None, description="The flag; null: none was chosen.")
    training: dict[str, Any] = Field(
        default_factory=dict, description="Summary of the data that it was trained on, and its figures there."
    )
    made_with: dict[str, str | None] = Field(default_factory=dict, description="Versions of the packages.")


@dataclass
class ModelPackage:
    """A policy, its reward net where it has one, and what is known about them."""

    spec: PackageSpec
    model: Model
    reward: RewardModel | None


def save_package(package: ModelPackage, folder: Path) -> None:
    """Write a package into a folder; equal packages give equal bytes."""
    save_model(package.model, folder)
    if package.reward is not None:
        save_reward_model(package.reward, folder / REWARD)
    write_spec(package.spec, folder)


def write_spec(spec: PackageSpec, folder: Path) -> None:
    """Write ``package.json`` alone, beside the weights of a policy."""
    (folder / PACKAGE).write_text(spec.model_dump_json(indent=1) + "\n", encoding="utf-8")


def package_folder(path: Path | str) -> Path:
    """The model package that is meant: the folder itself, ``policy/`` of a run, or ``models/`` of a bundle."""
    folder = Path(path)
    places = (folder, folder / POLICY, folder / MODELS)
    return next((place for place in places if (place / PACKAGE).is_file()), folder)


def read_spec(folder: Path) -> PackageSpec:
    """What a package says about itself; reads no weights.

    Raises:
        ArtifactError: the folder is no package, or one of a later version.
    """
    path = folder / PACKAGE
    if not path.is_file():
        raise ArtifactError(
            f"{folder}: no {PACKAGE} here, so nothing says how to prepare an image for this model; give the policy/ "
            "folder of a run that has ended, or the folder of the run"
        )
    try:
        return PackageSpec.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError, json.JSONDecodeError) as error:
        raise ArtifactError(
            f"{path}: not a model package of this version ({error}); make it again"
        ) from error


def load_package(folder: Path, runtime: Runtime) -> ModelPackage:
    """Read what `save_package` wrote, networks in eval mode on the runtime's device.

    Raises:
        ArtifactError: a file is missing or unreadable, or the parts do not fit each other.
    """
    spec = read_spec(folder)
    model = load_model(folder, runtime)
    if (folder / ROUTER).is_dir():
        model = routed_model(model, folder / ROUTER, runtime)
    elif (folder / WINDOWS).is_dir():
        model = windowed_model(model, folder / WINDOWS, runtime)
    if model.spec.class_names != spec.labels.names or model.spec.shape != spec.preprocess.shape:
        raise ArtifactError(
            f"{folder}: the weights are for {model.spec.class_names} at {model.spec.shape}, {PACKAGE} says "
            f"{spec.labels.names} at {spec.preprocess.shape}; copy the whole folder again"
        )
    reward = load_reward_model(folder / REWARD, runtime) if (folder / REWARD).is_dir() else None
    return ModelPackage(spec, model, reward)
