"""What a run leaves in its folder for its user: the report at the top, a model package in ``policy/``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from flows.run_folder import versions
from flows.stages import current_environment
from flows.store import ArtifactRef, PackageRef
from reward_data.anatomy import RuleSet
from reward_data.preprocess import PreprocessConfig
from reward_data.types import Config, LabelMap

if TYPE_CHECKING:
    from rl4seg.package import PackageSpec

POLICY_FOLDER, PACKAGE = "policy", "package.json"


class ModelBasis(Config):
    """What the package of a model that learned from labels says about itself that comes from the run's config."""

    labels: LabelMap = Field(description="Classes.")
    preprocess: PreprocessConfig = Field(description="From a native image to the networks' grid.")
    rules: RuleSet | None = Field(default=None, description="Anatomical rules; null: none.")

    def package_spec(self, cases: Path, **training: object) -> PackageSpec:
        """The package's description, with a summary of the case store that it was trained on."""
        from reward_data.case_store import CaseStore
        from rl4seg.package import PackageSpec

        with CaseStore(cases) as store:
            splits = {
                split: store.splits.count(split)
                for split in ("train", "val", "test")
                if split in store.splits
            }
            return PackageSpec(
                name="",  # the run folder's copy has it: equal runs of other names share this artifact
                iteration=0,
                labels=self.labels,
                preprocess=self.preprocess,
                rules=self.rules or RuleSet(name="none", classes=self.labels.names, rules=()),
                spacing_known=store.spacing_known,
                training={"images": len(store), "splits": splits, **training},
            )


def publish_report(report: ArtifactRef) -> None:
    """Copy the report into the run folder, if there is one."""
    here = current_environment()
    if here.plan is None and here.run_folder is not None:
        here.run_folder.publish(here.store.path(report))


def publish_package(package: PackageRef, name: str) -> None:
    """Copy a model package into ``policy/`` of the run folder, if there is one.

    The run's name and the versions of the packages that it was made with are written here: the artifact is the same for
    equal runs of every name and on every machine.
    """
    here = current_environment()
    if here.plan is not None or here.run_folder is None:
        return
    artifact, target = here.store.path(package), here.run_folder.path / POLICY_FOLDER
    for file in target.glob("*/**/*"):
        if file.is_file() and not (artifact / file.relative_to(target)).exists():
            file.unlink()  # of an earlier run of the name
    for part in target.glob("*/"):
        if not (artifact / part.name).is_dir():
            shutil.rmtree(part, ignore_errors=True)
    here.run_folder.publish(artifact, POLICY_FOLDER)
    spec = json.loads((artifact / PACKAGE).read_text(encoding="utf-8"))
    spec |= {"name": name, "made_with": versions()}
    here.run_folder.write(f"{POLICY_FOLDER}/{PACKAGE}", json.dumps(spec, indent=1) + "\n")
