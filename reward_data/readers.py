"""A dataset as a user has it -> cases: nnU-Net raw folder, CSV manifest, plain folders of images, or simulated ones.

The listing (which files, ids, groups, splits) is made and checked whole before the first image is opened.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from reward_data import splits
from reward_data.errors import DataError
from reward_data.formats import (
    ENDINGS,
    Picture,
    ending,
    format_of,
    picture_affine,
    read_image,
    read_labels,
    stem,
)
from reward_data.phantom import PhantomConfig, phantom_case, phantom_group
from reward_data.phantom_micrographs import MicrographConfig, micrograph, micrograph_group
from reward_data.scanner_shift import ScannerShift, shift_case
from reward_data.types import Case, Config, LabelMap, UInt8

SIMULATED = ("phantom", "micrographs")
MANIFEST_COLUMNS = ("id", "image", "label", "split", "group")


class DatasetConfig(Config):
    """Where the cases of one domain come from."""

    format: Literal["auto", "nnunet", "manifest", "folder", "phantom", "micrographs"] = Field(
        default="auto",
        description="auto: a .csv file is a manifest, a folder with dataset.json is nnU-Net raw, another folder holds "
        "images (or images/ and labels/, also below train/, val/, test/); no path but phantom or micrographs: these.",
    )
    path: str | None = Field(default=None, description="Folder or CSV file; simulated images have none.")
    domain: str = Field(default="source", description="Name of the domain, kept with every case.")
    labels: LabelMap = Field(
        default_factory=LabelMap, description="Classes, and native values merged into them."
    )
    spacing_mm: tuple[float, ...] | None = Field(
        default=None,
        description="Pixel size per axis (row, column[, depth]) in mm, instead of what the files say.",
    )
    spacing_known: bool = Field(
        default=True, description="False: the files' pixel sizes are placeholders, lengths are in pixels."
    )
    group_pattern: str | None = Field(
        default=None,
        description=r"Regular expression whose group 1 of the case id is the patient, e.g. ^(patient\d+); "
        "None: every case is a group of its own, unless a manifest says otherwise.",
    )
    max_cases: int | None = Field(
        default=None, ge=1, description="Use at most this many cases, spread evenly over the list; None: all."
    )
    validation_fraction: float = Field(
        default=0.2, ge=0, lt=1, description="Share of the groups without a split that become 'val'."
    )
    test_fraction: float = Field(
        default=0.0, ge=0, lt=1, description="Share of the groups without a split that become 'test'."
    )
    split_seed: int = Field(default=0, ge=0, description="Seed of the draw of the splits.")
    phantom: PhantomConfig | None = Field(
        default=None, description="What to simulate when format is phantom: ultrasound, lv and myo."
    )
    micrographs: MicrographConfig | None = Field(
        default=None,
        description="What to simulate when format is micrographs: an alloy, labels.names=[matrix, small, large].",
    )
    shift: ScannerShift | None = Field(
        default=None,
        description="Show every image as a worse scanner would (shadow_speckle, haze, or its ranges): a benchmark with "
        "a known shift of any dataset. Labels stay. None: as the files are.",
    )

    @model_validator(mode="after")
    def _is_whole(self) -> DatasetConfig:
        if self.group_pattern is not None:
            try:
                groups = re.compile(self.group_pattern).groups
            except re.error as error:
                raise ValueError(f"group_pattern is not a regular expression: {error}") from error
            if groups < 1:
                raise ValueError(f"group_pattern {self.group_pattern!r} needs brackets around the patient")
        if self.format in SIMULATED and self.path is not None:
            raise ValueError(
                f"path={self.path} is given, but format={self.format} reads no files; set format=auto to read them, or "
                "leave the path out"
            )
        if self.spacing_mm is not None and min(self.spacing_mm) <= 0:
            raise ValueError(f"spacing_mm {self.spacing_mm} must be positive")
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError(
                "validation_fraction + test_fraction must be below 1, nothing is left to train on"
            )
        return self


@dataclass(frozen=True)
class CaseFiles:
    """One line of a listing: which files make a case. ``images`` has one file per channel."""

    id: str
    group: str | None
    split: str | None
    images: tuple[Path, ...]
    label: Path | None


def count_cases(config: DatasetConfig) -> int:
    """How many cases ``read_cases`` will give; checks the listing, reads no image."""
    return _simulation(config).cases if is_simulated(config) else len(list_cases(config))


def read_cases(config: DatasetConfig) -> Iterator[Case]:
    """The cases of a dataset, read one at a time; the listing is checked before the first one is read.

    Raises: DataError for whatever is wrong with the folder, the listing or a file, naming it.
    """
    cases = (
        _simulate(config) if is_simulated(config) else map(partial(_read, config=config), list_cases(config))
    )
    shift = config.shift
    return cases if shift is None else (shift_case(case, shift) for case in cases)


def list_cases(config: DatasetConfig) -> tuple[CaseFiles, ...]:
    """The checked listing, sorted by split folder and id, every case with its group and split.

    Raises: DataError for a missing folder, no images, duplicate ids, a label without image, a group in two splits.
    """
    if config.path is None:
        raise DataError(
            "the dataset has no path; give a folder or a CSV file, or format=phantom or micrographs"
        )
    root = Path(config.path)
    if not root.exists():
        raise DataError(
            f"{root}: no such folder or file; wanted an nnU-Net folder, an image folder or a CSV manifest"
        )
    listed = _LISTERS[_format(root, config)](root)
    if not listed:
        raise DataError(f"{root}: no images found; wanted files ending in {', '.join(ENDINGS)}")
    splits.check_unique([files.id for files in listed], str(root))
    grouped = [replace(files, group=files.group or _group(files.id, config)) for files in listed]
    ids, groups = [files.id for files in grouped], [files.group or files.id for files in grouped]
    given = [files.split for files in grouped]
    splits.check_groups(ids, groups, given, str(root))
    assigned = splits.assign(
        groups, given, config.validation_fraction, config.test_fraction, config.split_seed
    )
    return _limit(tuple(replace(files, split=split) for files, split in zip(grouped, assigned)), config)


def is_simulated(config: DatasetConfig) -> bool:
    """Whether the cases are simulated, not read."""
    return config.format in SIMULATED or (
        config.format == "auto" and config.path is None and (config.phantom or config.micrographs) is not None
    )


class _Simulation(NamedTuple):
    """So many cases, by their number: whose each is, and what it looks like."""

    cases: int
    group: Callable[[int], str]
    case: Callable[[int], Case]


def _simulation(config: DatasetConfig) -> _Simulation:
    most = config.max_cases
    if config.format == "micrographs" or (config.format == "auto" and config.phantom is None):
        alloy = config.micrographs or MicrographConfig()
        count = min(alloy.cases, most or alloy.cases)
        return _Simulation(count, micrograph_group, partial(micrograph, alloy))
    phantom = config.phantom or PhantomConfig()
    if most is not None and most < phantom.cases:
        phantom = phantom.model_copy(update={"cases": most})
    return _Simulation(phantom.cases, partial(phantom_group, phantom), partial(phantom_case, phantom))


def _simulate(config: DatasetConfig) -> Iterator[Case]:
    """Simulated cases; groups that the simulation gives no split are drawn like any other's."""
    made = _simulation(config)
    fractions = (config.validation_fraction, config.test_fraction)
    groups = [made.group(index) for index in range(made.cases)]
    drawn = splits.assign(groups, [None] * made.cases, *fractions, config.split_seed)
    for index, split in enumerate(drawn):
        case = made.case(index)
        yield replace(case, split=case.split or split, domain=config.domain)


def _format(root: Path, config: DatasetConfig) -> str:
    if config.format != "auto":
        return config.format
    if root.suffix.lower() == ".csv":
        return "manifest"
    return "nnunet" if (root / "dataset.json").exists() else "folder"


def _group(case_id: str, config: DatasetConfig) -> str:
    if config.group_pattern is None:
        return case_id
    found = re.search(config.group_pattern, case_id)
    if found is None or not found.group(1):
        raise DataError(
            f"group_pattern {config.group_pattern!r} finds no group in the case id {case_id!r}; correct the pattern"
        )
    return found.group(1)


def _limit(listed: tuple[CaseFiles, ...], config: DatasetConfig) -> tuple[CaseFiles, ...]:
    if config.max_cases is None or config.max_cases >= len(listed):
        return listed
    chosen = np.linspace(0, len(listed) - 1, config.max_cases).round().astype(int)
    return tuple(listed[i] for i in chosen)


def _files(folder: Path, file_ending: str | None = None) -> list[Path]:
    """Image files of a folder, sorted by name; hidden files are passed over. None: any supported format."""
    if not folder.is_dir():
        return []
    visible = sorted(path for path in folder.iterdir() if not (path.is_dir() or path.name.startswith(".")))
    return [path for path in visible if file_ending in (None, ending(path)) and format_of(path)]


def _labels_by_id(files: list[Path], ids: set[str]) -> dict[str, Path]:
    labels: dict[str, Path] = {}
    for path in files:
        if stem(path) not in ids:
            raise DataError(
                f"{path}: label file without an image; wanted an image of the same name: add it or remove the label"
            )
        other = labels.setdefault(stem(path), path)
        if other != path:
            raise DataError(
                f"{path}: a second label for the same case beside {other.name}; remove one of them"
            )
    return labels


def _list_nnunet(root: Path) -> list[CaseFiles]:
    channels, file_ending = _nnunet_layout(root / "dataset.json")
    listed = []
    for suffix, split in (("Tr", None), ("Ts", "test")):
        images: dict[str, dict[str, Path]] = {}
        for path in _files(root / f"images{suffix}", file_ending):
            named = re.fullmatch(r"(.+)_(\d{4})", stem(path))
            if named is None:
                raise DataError(
                    f"{path}: nnU-Net images are named <case>_<channel, 4 digits><ending>; rename the file"
                )
            images.setdefault(named[1], {})[named[2]] = path
        labels = _labels_by_id(_files(root / f"labels{suffix}", file_ending), set(images))
        for case_id, by_channel in images.items():
            if list(by_channel) != [f"{channel:04d}" for channel in range(channels)]:
                raise DataError(
                    f"{next(iter(by_channel.values()))}: case {case_id!r} has the channels {list(by_channel)}, but "
                    f"dataset.json names {channels}; add the missing files or correct channel_names"
                )
            listed.append(CaseFiles(case_id, None, split, tuple(by_channel.values()), labels.get(case_id)))
    return listed


def _nnunet_layout(path: Path) -> tuple[int, str | None]:
    """Number of channels ("modality" in the older form) and file ending that dataset.json names."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        channels = len(content.get("channel_names") or content.get("modality") or {"0": "image"})
        file_ending = content.get("file_ending")
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path}: cannot be read as nnU-Net's dataset.json ({error}); repair it or use format=folder"
        ) from error
    if file_ending is not None and file_ending not in ENDINGS:
        raise DataError(
            f"{path}: file_ending {file_ending!r}, wanted one of {', '.join(ENDINGS)}; convert the files"
        )
    return channels, file_ending


def _list_folder(root: Path) -> list[CaseFiles]:
    if not root.is_dir():
        raise DataError(f"{root}: is a file, wanted a folder of images; a manifest's name ends in .csv")
    listed = []
    for split in (None, *splits.SPLITS):
        folder = root / split if split else root
        images = _files(folder / "images") or _files(folder)
        labels = _labels_by_id(_files(folder / "labels"), {stem(path) for path in images})
        listed += [CaseFiles(stem(path), None, split, (path,), labels.get(stem(path))) for path in images]
    return listed


def _list_manifest(path: Path) -> list[CaseFiles]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            columns = tuple(rows.fieldnames or ())
            lines = [(rows.line_num, {key: (row[key] or "").strip() for key in columns}) for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a CSV file ({error}); save it as UTF-8 text") from error
    unknown = [name for name in columns if name not in MANIFEST_COLUMNS]
    if unknown or not {"id", "image"} <= set(columns):
        raise DataError(
            f"{path}: columns {list(columns)}, wanted {list(MANIFEST_COLUMNS)}, at least id and image; "
            "mend the first line"
        )
    return [_manifest_row(path, number, row) for number, row in lines]


def _manifest_row(path: Path, number: int, row: dict[str, str]) -> CaseFiles:
    where = f"{path} line {number}"
    if not row["id"] or not row["image"]:
        raise DataError(f"{where}: id {row['id']!r} and image {row['image']!r} must both be given")
    split = row.get("split") or None
    if split not in (None, *splits.SPLITS):
        raise DataError(f"{where}: split {split!r}, wanted one of {', '.join(splits.SPLITS)} or nothing")
    image = path.parent / row["image"]
    label = path.parent / row["label"] if row.get("label") else None
    for file in (image, label):
        if file is not None and not file.is_file():
            raise DataError(f"{where}: no such file {file}; paths are relative to the CSV file: correct it")
    return CaseFiles(row["id"], row.get("group") or None, split, (image,), label)


_LISTERS: dict[str, Callable[[Path], list[CaseFiles]]] = {
    "nnunet": _list_nnunet,
    "folder": _list_folder,
    "manifest": _list_manifest,
}


def _read(files: CaseFiles, config: DatasetConfig) -> Case:
    picture = _on_known_grid(_read_channels(files), files.images[0], config)
    return Case(
        id=files.id,
        group=files.group or files.id,
        domain=config.domain,
        split=files.split,
        image=picture.values,
        label=None if files.label is None else _read_label(files.label, picture, config),
        spacing_mm=picture.spacing_mm,
        affine=picture.affine,
        spacing_known=picture.spacing_known,
    )


def _read_channels(files: CaseFiles) -> Picture:
    """All channel files of a case as one picture, on the grid of the first."""
    pictures = [read_image(path) for path in files.images]
    for path, picture in zip(files.images, pictures):
        if picture.values.shape[1:] != pictures[0].values.shape[1:]:
            raise DataError(
                f"{path}: shape {picture.values.shape[1:]}, but channel {files.images[0]} of the same case has "
                f"{pictures[0].values.shape[1:]}; resample the channels to one grid"
            )
    return replace(pictures[0], values=np.concatenate([picture.values for picture in pictures]))


def _on_known_grid(picture: Picture, path: Path, config: DatasetConfig) -> Picture:
    """The picture with the spacing that counts: the configured one, else the file's."""
    axes = picture.values.ndim - 1
    if config.spacing_mm is not None:
        if len(config.spacing_mm) != axes:
            raise DataError(
                f"{path}: has {axes} spatial axes, but spacing_mm={config.spacing_mm}; give {axes} entries"
            )
        affine = picture.affine if picture.spacing_known else picture_affine(config.spacing_mm)
        return replace(picture, spacing_mm=config.spacing_mm, affine=affine, spacing_known=True)
    if all(np.isfinite(size) and size > 0 for size in picture.spacing_mm):
        return replace(picture, spacing_known=picture.spacing_known and config.spacing_known)
    if not config.spacing_known:
        return replace(picture, spacing_mm=(1.0,) * axes, spacing_known=False)
    raise DataError(
        f"{path}: pixel size {picture.spacing_mm} mm in the header, wanted positive numbers; give the dataset's "
        "spacing_mm, or spacing_known=false"
    )


def _read_label(path: Path, picture: Picture, config: DatasetConfig) -> UInt8:
    native = read_labels(path)
    if native.shape != picture.values.shape[1:]:
        raise DataError(
            f"{path}: label of shape {native.shape}, but its image has {picture.values.shape[1:]}; wanted the same "
            "pixels: export the label on the grid of the image"
        )
    return config.labels.apply(native, str(path))
