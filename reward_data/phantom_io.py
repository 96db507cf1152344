"""The phantom as files: two nnU-Net raw folders, byte for byte the same for the same configuration."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np

from reward_data.atomic import atomic_file
from reward_data.phantom import PhantomConfig, phantom_case
from reward_data.types import Case, LabelMap, UInt8

SOURCE_FOLDER, TARGET_FOLDER = "Dataset001_PhantomSource", "Dataset002_PhantomTarget"


def write_phantom(out: Path, source: PhantomConfig, target: PhantomConfig) -> None:
    """Write ``Dataset001_PhantomSource`` and ``Dataset002_PhantomTarget`` into ``out``.

    Source: images and labels to train on. Target: training images without labels. Cases whose split is "test" get
    images and labels in imagesTs, labelsTs in either. Raises: DataError when the disk refuses.
    """
    _write_dataset(out / SOURCE_FOLDER, source, label_training=True)
    _write_dataset(out / TARGET_FOLDER, target, label_training=False)


def _write_dataset(folder: Path, config: PhantomConfig, label_training: bool) -> None:
    training = 0
    for index in range(config.cases):
        case = phantom_case(config, index)
        suffix = "Ts" if case.split == "test" else "Tr"
        training += suffix == "Tr"
        _write_nifti(folder / f"images{suffix}" / f"{case.id}_0000.nii.gz", case.image[0], case)
        if case.label is not None and (label_training or suffix == "Ts"):
            _write_nifti(folder / f"labels{suffix}" / f"{case.id}.nii.gz", case.label, case)
    content = {
        "name": folder.name.split("_", 1)[1],
        "channel_names": {"0": "ultrasound"},
        "labels": {name: value for value, name in enumerate(LabelMap().names)},
        "numTraining": training,
        "file_ending": ".nii.gz",
    }
    with atomic_file(folder / "dataset.json") as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _write_nifti(path: Path, upright: np.ndarray, case: Case) -> None:
    """Write (row, column) values as (x, y) in uint8; no time and no file name in the gzip header."""
    values: UInt8 = upright.astype(np.uint8).T
    image = nib.Nifti1Image(values, case.affine[:, [1, 0, 2, 3]])
    image.header.set_xyzt_units("mm")
    with atomic_file(path) as temporary:
        temporary.write_bytes(gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))
