"""What the two networks of the segmentation twin learn from: low-resolution images, and windows at full resolution."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from reward_data.case_store import CaseStore, import_cases
from reward_data.errors import DataError
from reward_data.preprocess import PreprocessConfig
from reward_data.types import Case, Float32, Int64, LabelMap, Progress, UInt8, no_progress
from rl4seg.configs.patchdrop import DropWindowsConfig
from rl4seg.patchdrop.grid import lowered, patch_count, patch_shape
from rl4seg.patchdrop.windows import cut_windows


def shared_out(store: CaseStore, policy_share: float) -> tuple[Int64, Int64]:
    """(cases that the networks learn from, cases that the policy learns from); all of a group on one side.

    Raises:
        DataError: fewer than two groups of labelled training images.
    """
    places = store.indices("train", labelled=True)
    groups = list(dict.fromkeys(store.groups[int(i)] for i in places))
    if len(groups) < 2:
        raise DataError(
            f"{len(groups)} group(s) of labelled training images, wanted two at least: one for the networks, one for "
            "the policy; add images, or correct dataset.group_pattern"
        )
    count = min(len(groups) - 1, max(1, round(policy_share * len(groups))))
    own = set(groups[len(groups) - count :])
    theirs = np.array([store.groups[int(i)] in own for i in places])
    return places[~theirs], places[theirs]


def write_coarse_cases(
    store: CaseStore, config: DropWindowsConfig, out: Path, progress: Progress = no_progress
) -> None:
    """Low-resolution images with the class that most of a pixel's own pixels have."""
    chosen, _ = shared_out(store, config.policy_share)

    def cases() -> Iterator[Case]:
        for index in chosen:
            image, label = _read(store, int(index))
            one_hot = functional.one_hot(label, store.num_classes).movedim(-1, 0)[None].float()
            low = lowered(image[None], config.coarse_shape)[0]
            majority = lowered(one_hot, config.coarse_shape)[0].argmax(0)
            yield _case(store, int(index), "", low, majority)

    _import(cases(), len(chosen), config.coarse_shape, store, out, progress)


def write_fine_cases(
    store: CaseStore, config: DropWindowsConfig, out: Path, progress: Progress = no_progress
) -> None:
    """Every cell of the images with the margin around it, at full resolution."""
    chosen, _ = shared_out(store, config.policy_share)
    cell, cells = patch_shape(store.shape, config.grid), list(range(patch_count(config.grid)))
    window = tuple(size + 2 * config.margin for size in cell)

    def cases() -> Iterator[Case]:
        for index in chosen:
            image, label = _read(store, int(index))
            both = torch.cat([image, label[None].float()])
            for number, part in enumerate(cut_windows(both, config.grid, config.margin, cells)):
                yield _case(store, int(index), f" {number:04d}", part[:-1], part[-1].long())

    _import(cases(), len(chosen) * len(cells), window, store, out, progress)


def _read(store: CaseStore, index: int) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(store.images([index])[0]), torch.from_numpy(store.labels([index])[0]).long()


def _case(store: CaseStore, index: int, suffix: str, image: Tensor, label: Tensor) -> Case:
    values: Float32 = image.numpy()
    classes: UInt8 = label.numpy().astype(np.uint8)
    dims = len(store.shape)
    return Case(
        id=store.ids[index] + suffix, group=store.groups[index], domain=store.domains[index], split="train",
        image=values, label=classes, spacing_mm=(1.0,) * dims, affine=np.eye(4), spacing_known=False,
    )  # fmt: skip


def _import(
    cases: Iterator[Case],
    total: int,
    shape: tuple[int, ...],
    store: CaseStore,
    out: Path,
    progress: Progress,
) -> None:
    grid = PreprocessConfig(shape=shape, aspect="stretch", intensity="none_clip01")
    import_cases(cases, total, grid, LabelMap(names=store.class_names), out / "cases.h5", progress)
