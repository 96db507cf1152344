"""The run config of an ablation: a study of variants of one run, each a set of changed values."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field, field_validator, model_validator

from flows import preflight
from flows.compare_config import SeedsConfig
from flows.config import AutoIterationConfig
from flows.config_loader import changed, load_config
from flows.presets import preset_path
from reward_data.errors import ConfigError
from reward_data.readers import DatasetConfig, is_simulated, list_cases
from reward_data.types import Config
from rl4seg.configs.rivals import RivalsConfig

NO_RIVALS = {
    name: False for name, field in RivalsConfig.model_fields.items() if isinstance(field.default, bool)
}
STUDIES = "ablation"


class Study(Config):
    """A question about the recipe, and the variants of a run that answer it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Its name.")
    question: str = Field(min_length=1, description="What it asks.")
    variants: dict[str, dict[str, Any]] = Field(
        min_length=2,
        description="Label -> dotted key -> value, e.g. no anchor: {ppo.anchor_weight: 0}; the first is the base that "
        "the others are compared with, and may be empty.",
    )

    @field_validator("variants", mode="before")
    @classmethod
    def _labels_are_text(cls, variants: Any) -> Any:
        """A label such as 16, which YAML reads as a number, is meant as text."""
        return (
            {str(label): changes for label, changes in variants.items()}
            if isinstance(variants, dict)
            else variants
        )

    @model_validator(mode="after")
    def _has_different_folders(self) -> Study:
        folders = [folder_name(label) for label in self.variants]
        if "" in folders or len(set(folders)) < len(folders):
            raise ValueError(
                f"variants need different names with letters or digits in them: {list(self.variants)}"
            )
        return self

    @property
    def base(self) -> str:
        """The variant that the others are compared with."""
        return next(iter(self.variants))


class Part(NamedTuple):
    """One variant under one seed."""

    seed: int
    variant: str
    config: AutoIterationConfig


class AblateConfig(SeedsConfig):
    """What matters in the recipe? Variants of the loop, scored on held-back selection images, never on test images."""

    pipeline: str = Field(default="ablate", description="Which pipeline the config is for.")
    seeds: tuple[int, ...] = Field(
        default=(0, 1),
        min_length=1,
        description="The seeds, each with every variant; seeds=0,1 on the command line.",
    )
    study: Study = Field(
        description="The study: a shipped name (e.g. critic), the path of a YAML file, or the study itself."
    )

    @field_validator("study", mode="before")
    @classmethod
    def _from_file(cls, study: Any) -> Any:
        if not isinstance(study, str):
            return study
        try:
            return load_study(study)
        except ConfigError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="after")
    def _has_variants_that_can_run(self) -> AblateConfig:
        self.parts()
        return self

    def parts(self) -> list[Part]:
        """Every variant under every seed, the seeds outside.

        Raises:
            ConfigError: a variant changes what does not exist or sets what is not allowed; it is named.
        """
        return [
            Part(seed, label, self._variant(seed, label))
            for seed, label in product(self.seeds, self.study.variants)
        ]

    def _variant(self, seed: int, label: str) -> AutoIterationConfig:
        rivals = self.rivals.model_copy(update=NO_RIVALS)
        base = self.part(
            folder_name(label), seed, output=str(self.run_folder / f"seed-{seed}"), rivals=rivals
        )
        fixed = sorted(key for key in self.study.variants[label] if key.partition(".")[0] in FIXED)
        if fixed:
            raise ValueError(
                f"study {self.study.name}, variant {label!r}: {', '.join(fixed)} is the same for all variants; give it "
                "beside the config"
            )
        try:
            return changed(base, self.study.variants[label], AutoIterationConfig)
        except ConfigError as error:
            raise ValueError(f"study {self.study.name}, variant {label!r}: {error}") from error


FIXED = frozenset(
    {"pipeline", "name", "output", "store", "seed", "runtime", "target", "evaluation", "rivals"}
)
"""What a variant must not change: variants would not be comparable, or not where they are looked for."""


def folder_name(label: str) -> str:
    """The folder of a variant: "no critic" -> "no-critic"."""
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")


def load_study(path_or_name: str) -> Study:
    """A study by path or shipped name.

    Raises:
        ConfigError: there is none, or something is wrong with it.
    """
    if Path(path_or_name).is_file():
        return load_config(path_or_name, [], Study)
    return load_config(str(preset_path(f"{STUDIES}/{path_or_name.removeprefix(f'{STUDIES}/')}")), [], Study)


def _holds_images_back(target: DatasetConfig) -> bool:
    if is_simulated(target) or target.path is None:
        return target.validation_fraction > 0
    return any(files.split == "val" for files in list_cases(target))


def check(config: AblateConfig) -> None:
    """Refuse a study that cannot work, with one message.

    Raises:
        ConfigError: the target has no image that could be held back for the choice.
        Rl4SegError: as `flows.preflight.check` of one of its runs.
    """
    if not _holds_images_back(config.target):
        raise ConfigError(
            "the target holds no image back for choosing between variants; give target.validation_fraction=0.2, or a "
            "val split in the manifest"
        )
    for part in config.parts()[: len(config.study.variants)]:
        preflight.check(part.config)
