"""What can be known to be wrong before the first image is read: paths, listings, labels where they are needed."""

from __future__ import annotations

from flows.config import AutoIterationConfig
from flows.stages import current_environment
from flows.store import digest_path
from flows.tasks import UserFile
from reward_data.errors import ConfigError, DataError
from reward_data.readers import CaseFiles, DatasetConfig, list_cases


def check(config: AutoIterationConfig) -> None:
    """Refuse a run that cannot work, with one message.

    Raises:
        ConfigError: rules or unions that do not fit the classes; an upper bound without target labels.
        DataError: a dataset that is missing, empty, or unlabelled where labels are needed.
    """
    config.rule_set()
    for union, members in config.evaluation.unions.items():
        for member in members:
            if member not in config.class_names:
                raise ConfigError(
                    f"evaluation.unions.{union}: no class {member!r}; the classes are {list(config.class_names)}"
                )
    if config.source is not None:
        source = _listing(config.source, "source")
        if source is not None and not any(f.label for f in source) and config.policy.checkpoint is None:
            raise DataError(
                f"{config.source.path}: the source has no labelled image; give labels (labelsTr, or a label column), "
                "or a trained policy by policy.checkpoint"
            )
    target = _listing(config.target, "target")
    if (
        config.controls.upper_bound
        and target is not None
        and not any(f.label for f in target if f.split != "test")
    ):
        raise ConfigError(
            "controls.upper_bound=true trains on target labels, but no target training image has one; "
            "set controls.upper_bound=false"
        )


def _listing(dataset: DatasetConfig, name: str) -> tuple[CaseFiles, ...] | None:
    """The checked listing; None for the phantom, which has every label."""
    if dataset.format == "phantom":
        return None
    if dataset.path is None:
        raise ConfigError(f"{name}.path is not set; give a folder or a CSV manifest: {name}.path=FOLDER")
    listed = list_cases(dataset)
    if all(files.split == "test" for files in listed):
        raise DataError(
            f"{dataset.path}: the {name} has only test images; training images are needed as well"
        )
    return listed


def dataset_inputs(dataset: DatasetConfig) -> tuple[DatasetConfig, UserFile | None]:
    """A dataset for `flows.tasks.import_dataset`: its config without the path, and the files with their digest."""
    if dataset.format == "phantom" or dataset.path is None:
        return dataset, None
    files = [file for case in list_cases(dataset) for file in (*case.images, case.label) if file is not None]
    digest = current_environment().store.digest_inputs(dataset.path, files)
    return dataset.model_copy(update={"path": None}), UserFile(path=dataset.path, digest=digest)


def user_checkpoint(path: str) -> UserFile:
    """The user's checkpoint with its digest."""
    return UserFile(path=path, digest=digest_path(path))
