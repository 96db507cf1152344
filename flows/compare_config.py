"""The run config of a comparison: the config of a run, with several seeds and every rival on."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from flows import preflight
from flows.config import AutoIterationConfig
from flows.config_base import different_seeds, listed
from reward_data.readers import DatasetConfig, is_simulated, list_cases
from rl4seg.configs.rivals import RivalsConfig

RIVALS = RivalsConfig().all(upper_bound=True)
SWITCHES = {name: value for name, value in RIVALS.model_dump().items() if isinstance(value, bool)}


class SeedsConfig(AutoIterationConfig):
    """A run that is done once per seed."""

    seeds: tuple[int, ...] = Field(
        default=(0, 1, 2),
        min_length=1,
        description="The seeds, each a whole run; on the command line seeds=0,1,2.",
    )

    _from_text = field_validator("seeds", mode="before")(listed)
    _are_different = field_validator("seeds")(different_seeds)

    @model_validator(mode="after")
    def _has_no_seed_beside_them(self) -> Self:
        if self.seed != 0:
            raise ValueError(
                f"seed={self.seed}, but {self.pipeline} runs the seeds of seeds={','.join(map(str, self.seeds))}; "
                f"give seeds={self.seed},... and leave seed out"
            )
        return self

    def seeds_used(self) -> dict[str, int]:
        """Part of the run -> its seed."""
        return {f"seed-{seed}": seed for seed in self.seeds}

    def part(self, folder: str, seed: int, **changes: Any) -> AutoIterationConfig:
        """The config of one part: a plain run inside this one's folder, with the same store.

        Args:
            folder: name of its folder.
            seed: its seed.
            **changes: further fields.
        """
        own = {name: getattr(self, name) for name in AutoIterationConfig.model_fields}
        place = {
            "pipeline": AutoIterationConfig.model_fields["pipeline"].default,
            "name": folder,
            "output": str(self.run_folder),
            "store": self.store or str(self.store_folder),
        }
        return AutoIterationConfig.model_validate({**own, **place, "seed": seed, **changes})


class CompareConfig(SeedsConfig):
    """RL4Seg against its rivals at equal gradient steps, over several seeds: which is better, and is it chance?"""

    pipeline: str = Field(default="compare", description="Which pipeline the config is for.")
    rivals: RivalsConfig = Field(
        default=RIVALS,
        description="What the loop is compared with: everything that is not switched off; the upper bound only where "
        "the target has labels.",
    )

    @field_validator("rivals", mode="before")
    @classmethod
    def _all_on(cls, rivals: Any) -> Any:
        """A rival that is not mentioned runs."""
        return SWITCHES | rivals if isinstance(rivals, dict) else rivals

    def parts(self) -> list[AutoIterationConfig]:
        """One run per seed, in the order of the seeds."""
        rivals = self.rivals
        if rivals.upper_bound and not has_target_labels(self.target):
            rivals = rivals.model_copy(update={"upper_bound": False})
        return [self.part(f"seed-{seed}", seed, rivals=rivals) for seed in self.seeds]


def has_target_labels(target: DatasetConfig) -> bool:
    """Whether some training image of the target has a label: without one there is no upper bound."""
    if is_simulated(target):
        return True
    if target.path is None:
        return False
    return any(files.label is not None for files in list_cases(target) if files.split == "train")


def check(config: CompareConfig) -> None:
    """Refuse a comparison that cannot work, with one message.

    Raises:
        Rl4SegError: as `flows.preflight.check` of its runs.
    """
    preflight.check(config.parts()[0])
