"""What can be known to be wrong before anything is imported: paths, listings, labels where they are needed."""

from __future__ import annotations

from pathlib import Path

from flows.config import AutoIterationConfig
from flows.stages import current_environment
from flows.store import digest_path
from flows.tasks import UserFile
from reward_data.errors import ConfigError, DataError
from reward_data.readers import CaseFiles, DatasetConfig, is_simulated, list_cases, read_cases


def check(config: AutoIterationConfig) -> None:
    """Refuse a run that cannot work, with one message.

    Raises:
        ConfigError: a checkpoint that does not exist; rules, unions or class weights that do not fit the classes; an
            upper bound without target labels.
        DataError: a dataset that is missing, empty, without labels or training images where they are needed, or with
            other channels than the other one.
    """
    _check_classes(config)
    checkpoint = config.policy.checkpoint
    if checkpoint is not None and not Path(checkpoint).exists():
        raise ConfigError(
            f"policy.checkpoint={checkpoint}: no such file or folder; give a policy folder or a state dict, or "
            "policy.checkpoint=null to train on the source"
        )
    if config.source is not None and not _labelled(_training(config.source, "source")):
        raise DataError(
            f"{config.source.path}: the source has no labelled training image; give labels (labelsTr, or a label "
            "column), or source=null with a trained policy by policy.checkpoint"
        )
    if not _labelled(_training(config.target, "target")) and config.rivals.upper_bound:
        raise ConfigError(
            "rivals.upper_bound=true trains on target labels, but no target training image has one; "
            "set rivals.upper_bound=false"
        )
    _check_channels(config)


def _check_channels(config: AutoIterationConfig) -> None:
    """One network reads both domains. Looks at the first image of each; the import compares the others with it."""
    if config.source is None or (is_simulated(config.source) and is_simulated(config.target)):
        return
    source, target = (len(next(read_cases(domain)).image) for domain in (config.source, config.target))
    if source != target:
        raise DataError(
            f"{config.target.path}: the target's images have {target} channels, the source's {source}; make both "
            "grey or both in colour, with the same channel_names"
        )


def _check_classes(config: AutoIterationConfig) -> None:
    """Whatever names or counts classes has to fit the label map."""
    config.rule_set()
    for union, members in config.evaluation.unions.items():
        for member in members:
            if member not in config.class_names:
                raise ConfigError(
                    f"evaluation.unions.{union}: no class {member!r}, the classes are {list(config.class_names)}; "
                    "correct the name or remove the union"
                )
    weights = config.source_training.class_weights
    if weights is not None and len(weights) != len(config.class_names):
        raise ConfigError(
            f"source_training.class_weights has {len(weights)} values, the label map has {len(config.class_names)} "
            "classes; give one weight per class, background first"
        )


def _training(dataset: DatasetConfig, name: str) -> tuple[CaseFiles, ...] | None:
    """The training images of a dataset's checked listing; None for the phantom, which has every label."""
    if is_simulated(dataset):
        return None
    if dataset.path is None:
        raise ConfigError(f"{name}.path is not set; give a folder or a CSV manifest: {name}.path=FOLDER")
    listed = list_cases(dataset)
    training = tuple(files for files in listed if files.split == "train")
    if not training:
        raise DataError(
            f"{dataset.path}: all {len(listed)} images of the {name} are in the validation or test split; training "
            "images are needed as well: add some (imagesTr, or split=train in the manifest)"
        )
    return training


def _labelled(training: tuple[CaseFiles, ...] | None) -> bool:
    return training is None or any(files.label is not None for files in training)


def dataset_inputs(dataset: DatasetConfig) -> tuple[DatasetConfig, UserFile | None]:
    """A dataset for `flows.tasks.import_dataset`: its config without the path, and the files with their digest."""
    if is_simulated(dataset) or dataset.path is None:
        return dataset, None
    files = [file for case in list_cases(dataset) for file in (*case.images, case.label) if file is not None]
    digest = current_environment().store.digest_inputs(dataset.path, files)
    return dataset.model_copy(update={"path": None}), UserFile(path=dataset.path, digest=digest)


def user_checkpoint(path: str) -> UserFile:
    """The user's checkpoint with its digest."""
    return UserFile(path=path, digest=digest_path(path))
