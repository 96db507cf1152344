"""Are there the labels that a pipeline trains and measures with? Looked up in the listing, before any work."""

from __future__ import annotations

from reward_data.errors import ConfigError, DataError
from reward_data.readers import DatasetConfig, is_simulated, list_cases


def check_labelled(
    dataset: DatasetConfig, groups: int = 1, remedy: str = "give labels beside the images"
) -> None:
    """Refuse a dataset without so many groups of labelled training images, or without a labelled held-out one.

    Args:
        dataset: what a config says; simulated images have labels.
        groups: how many groups (patients, specimens) it takes.
        remedy: why, and what to do.

    Raises:
        ConfigError: it has no path.
        DataError: the folder is missing or empty, or labels are.
    """
    if is_simulated(dataset):
        return
    if dataset.path is None:
        raise ConfigError("dataset.path is not set; give a folder or a CSV manifest: dataset.path=FOLDER")
    labelled = [files for files in list_cases(dataset) if files.label is not None]
    training = {files.group for files in labelled if files.split == "train"}
    if len(training) < groups:
        raise DataError(
            f"{dataset.path}: {len(training)} labelled training group(s), wanted {groups} or more: {remedy}"
        )
    if not any(files.split in ("val", "test") for files in labelled):
        raise DataError(
            f"{dataset.path}: no labelled validation or test image; set dataset.validation_fraction or "
            "dataset.test_fraction"
        )
