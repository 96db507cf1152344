from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from reward_data.errors import DataError
from reward_data.phantom import PhantomConfig
from reward_data.readers import DatasetConfig, count_cases, list_cases, read_cases
from reward_data.types import LabelMap
from tests.reward_data.image_files import save_dicom, save_meta

SHAPE = (6, 5)  # along x, along y


def nifti(path: Path, value: float = 1, shape: tuple[int, ...] = SHAPE, spacing: float = 0.5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.full(shape, value, np.float32)
    nib.save(nib.Nifti1Image(values, np.diag([spacing, 2 * spacing, 1, 1])), path)


def png(path: Path, value: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((5, 6), value, np.uint8)).save(path)


def nnunet(root: Path, train: int = 4, test: int = 2, channels: int = 1, **content: Any) -> Path:
    """Patients p0, p1, ... with ED and ES each; the first `train` in imagesTr, then `test` in imagesTs."""
    for patient in range(train + test):
        suffix = "Tr" if patient < train else "Ts"
        for time in ("ED", "ES"):
            for channel in range(channels):
                nifti(
                    root / f"images{suffix}" / f"p{patient}_{time}_{channel:04d}.nii.gz",
                    patient + 10 * channel,
                )
            nifti(root / f"labels{suffix}" / f"p{patient}_{time}.nii.gz", patient % 3)
    names = {str(channel): "x" for channel in range(channels)}
    (root / "dataset.json").write_text(
        json.dumps({"channel_names": names, "labels": {"background": 0}, "file_ending": ".nii.gz"} | content)
    )
    return root


def config(path: Path, **options: Any) -> DatasetConfig:
    return DatasetConfig(path=str(path), **options)


def refused(path: Path, match: str, **options: Any) -> None:
    """The whole dataset is refused with this message."""
    with pytest.raises(DataError, match=match):
        list(read_cases(config(path, **options)))


def test_nnunet(tmp_path: Path) -> None:
    dataset = config(nnunet(tmp_path), group_pattern=r"^(p\d)", validation_fraction=0.25, domain="a4c")
    cases = list(read_cases(dataset))
    assert count_cases(dataset) == len(cases) == 12
    assert [case.id for case in cases[:3]] == ["p0_ED", "p0_ES", "p1_ED"]
    assert {case.group for case in cases if case.split == "test"} == {"p4", "p5"}
    # .25 of the 4 patients in imagesTr: one patient, two images
    assert [case.split for case in cases].count("val") == 2
    first = cases[0]
    assert first.label is not None
    assert (first.image.shape, first.label.shape) == ((1, 5, 6), (5, 6))
    assert (first.spacing_mm, first.spacing_known, first.domain) == ((1.0, 0.5), True, "a4c")


def test_nnunet_channels_are_stacked_in_order(tmp_path: Path) -> None:
    case = list(read_cases(config(nnunet(tmp_path, channels=2))))[2]
    assert case.image[:, 0, 0].tolist() == [1, 11]
    (tmp_path / "imagesTr" / "p1_ED_0000.nii.gz").unlink()
    refused(tmp_path, r"'p1_ED' has the channels \['0001'\].*names 2")


def test_nnunet_channels_on_two_grids(tmp_path: Path) -> None:
    nifti(nnunet(tmp_path, channels=2) / "imagesTr" / "p1_ED_0001.nii.gz", shape=(6, 6))
    refused(tmp_path, r"p1_ED_0001.*shape \(6, 6\), but channel .*p1_ED_0000.* has \(5, 6\)")


def test_labels_are_optional_and_other_files_are_passed_over(tmp_path: Path) -> None:
    nnunet(tmp_path)
    (tmp_path / "labelsTr" / "p0_ED.nii.gz").unlink()
    (tmp_path / "imagesTr" / "notes.txt").write_text("x")
    (tmp_path / "imagesTr" / "._p0_ED_0000.nii.gz").write_text("x")
    cases = list(read_cases(config(tmp_path)))
    assert [case.id for case in cases if case.label is None] == ["p0_ED"]


def test_broken_dataset_json(tmp_path: Path) -> None:
    (nnunet(tmp_path) / "dataset.json").write_text("{")
    refused(tmp_path, r"dataset\.json: cannot be read as nnU-Net's")
    nnunet(tmp_path, file_ending=".nrrd")
    refused(tmp_path, r"file_ending '\.nrrd', wanted one of \.nii\.gz")


def test_badly_named_nnunet_image(tmp_path: Path) -> None:
    nifti(nnunet(tmp_path) / "imagesTr" / "p9_ED.nii.gz")
    refused(tmp_path, r"p9_ED\.nii\.gz: nnU-Net images are named <case>_<channel, 4 digits>")


def test_folder_of_pictures_has_no_spacing_unless_told(tmp_path: Path) -> None:
    png(tmp_path / "images" / "a.png", 7)
    png(tmp_path / "images" / "b.png", 8)
    png(tmp_path / "labels" / "a.png", 2)
    first, second = read_cases(config(tmp_path))
    assert first.label is not None
    assert (first.image.max(), first.label.max(), second.label) == (7, 2, None)
    assert (first.spacing_mm, first.spacing_known) == ((1.0, 1.0), False)
    told = next(read_cases(config(tmp_path, spacing_mm=(0.3, 0.2))))
    assert (told.spacing_mm, told.spacing_known) == ((0.3, 0.2), True)
    # one step along the rows is .3 mm of world y, one along the columns .2 mm of world x
    np.testing.assert_allclose(told.affine @ [1, 1, 0, 1], [0.2, 0.3, 0, 1])


def test_plain_folder_and_split_folders(tmp_path: Path) -> None:
    nifti(tmp_path / "plain" / "a.nii")
    png(tmp_path / "plain" / "b.png")
    assert [case.id for case in read_cases(config(tmp_path / "plain"))] == ["a", "b"]
    for split, name in (("train", "a"), ("val", "b"), ("test", "c")):
        png(tmp_path / "split" / split / "images" / f"{name}.png")
    cases = read_cases(config(tmp_path / "split"))
    assert [(case.id, case.split) for case in cases] == [("a", "train"), ("b", "val"), ("c", "test")]


def write_manifest(folder: Path, *lines: str, header: str = "id,image,label,split,group") -> Path:
    for name in ("a", "b", "c"):
        png(folder / "data" / f"{name}.png")
    path = folder / "cases.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def test_manifest(tmp_path: Path) -> None:
    path = write_manifest(
        tmp_path, "one,data/a.png,data/a.png,train,g1", "two,data/b.png,,test,g2", "p3_x,data/c.png,,,"
    )
    cases = list(read_cases(config(path, group_pattern="^([a-z0-9]+)", validation_fraction=0.5)))
    assert [(case.id, case.group, case.split) for case in cases] == [
        ("one", "g1", "train"),
        ("two", "g2", "test"),
        ("p3_x", "p3", "val"),  # the one open group; "one" trains already
    ]
    assert [case.label is not None for case in cases] == [True, False, False]


def test_manifest_with_the_two_needed_columns(tmp_path: Path) -> None:
    path = write_manifest(tmp_path, "one,data/a.png", header="id,image")
    assert [(case.id, case.group, case.split) for case in read_cases(config(path))] == [
        ("one", "one", "train")
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("one,data/missing.png,,,", r"line 2: no such file .*missing\.png"),
        ("one,data/a.png,data/missing.png,,", r"line 2: no such file .*missing\.png"),
        ("one,data/a.png,,dev,", r"line 2: split 'dev', wanted one of train, val, test"),
        (",data/a.png,,,", r"line 2: id '' and image 'data/a.png' must both be given"),
        ("one,,data/a.png,,", r"line 2: id 'one' and image '' must both be given"),
        ("b,data/a.png,,,\nb,data/b.png,,,", "duplicate id 'b'"),
        ("a,data/a.png,,train,g\nb,data/b.png,,test,g", "group 'g' is in two splits"),
    ],
)
def test_bad_manifest_lines(tmp_path: Path, line: str, message: str) -> None:
    refused(write_manifest(tmp_path, line), message)


def test_bad_manifest_columns(tmp_path: Path) -> None:
    refused(
        write_manifest(tmp_path, "a,b,c", header="id,image,labels"),
        r"columns \['id', 'image', 'labels'\], wanted",
    )
    refused(write_manifest(tmp_path, header=""), r"columns \[\], wanted")


def test_missing_and_empty(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "nowhere: no such folder or file")
    refused(tmp_path, "no images found")
    refused(write_manifest(tmp_path), r"cases\.csv: no images found")
    with pytest.raises(DataError, match="no path"):
        read_cases(DatasetConfig())


def test_listing_is_checked_before_any_image_is_read(tmp_path: Path) -> None:
    nnunet(tmp_path)
    (tmp_path / "imagesTr" / "p0_ED_0000.nii.gz").write_bytes(b"broken")
    nifti(tmp_path / "labelsTr" / "p9_ED.nii.gz")
    with pytest.raises(DataError, match=r"p9_ED\.nii\.gz: label file without an image"):
        read_cases(config(tmp_path))  # not even iterated


def test_label_without_image_and_two_labels(tmp_path: Path) -> None:
    png(tmp_path / "images" / "a.png")
    png(tmp_path / "labels" / "b.png")
    refused(tmp_path, r"labels/b\.png: label file without an image")
    (tmp_path / "labels" / "b.png").unlink()
    png(tmp_path / "labels" / "a.png")
    nifti(tmp_path / "labels" / "a.nii")
    refused(tmp_path, r"a second label for the same case beside a\.nii")


def test_duplicate_ids(tmp_path: Path) -> None:
    png(tmp_path / "images" / "a.png")
    nifti(tmp_path / "images" / "a.nii")
    refused(tmp_path, "duplicate id 'a'")


def test_patient_in_train_and_test(tmp_path: Path) -> None:
    nnunet(tmp_path)
    nifti(tmp_path / "imagesTs" / "p0_EX_0000.nii.gz")
    assert count_cases(config(tmp_path)) == 13  # without a pattern every image is a group
    refused(
        tmp_path,
        r"group 'p0' is in two splits: case 'p0_ED' in train/val.*'p0_EX' in test",
        group_pattern="^(p.)",
    )


def test_truncated_nan_and_misfitting_files_are_named(tmp_path: Path) -> None:
    image, label = tmp_path / "imagesTr" / "p1_ED_0000.nii.gz", tmp_path / "labelsTr" / "p1_ED.nii.gz"
    nnunet(tmp_path)
    content = image.read_bytes()
    image.write_bytes(content[: len(content) // 2])
    refused(tmp_path, r"p1_ED_0000\.nii\.gz: cannot be read")
    nifti(image, np.nan)
    refused(tmp_path, r"p1_ED_0000\.nii\.gz: 30 of 30 intensities are NaN")
    nifti(image, shape=(6, 7))
    refused(tmp_path, r"p1_ED\.nii\.gz: label of shape \(5, 6\), but its image has \(7, 6\)")
    nifti(image)
    nifti(label, 3)
    refused(tmp_path, r"p1_ED\.nii\.gz: label values \[3\.0\] are not in the label map")
    cases = list(read_cases(config(tmp_path, labels=LabelMap(merge={3: 0}))))
    assert [case.label.max() for case in cases if case.id == "p1_ED" and case.label is not None] == [0]
    nifti(label, 0.5)
    refused(tmp_path, r"label values \[0\.5\]")


def test_unknown_and_overridden_spacing_of_nifti(tmp_path: Path) -> None:
    nifti(tmp_path / "a.nii")
    assert not next(read_cases(config(tmp_path, spacing_known=False))).spacing_known
    told = next(read_cases(config(tmp_path, spacing_mm=(2.0, 3.0))))
    assert (told.spacing_mm, told.spacing_known) == ((2.0, 3.0), True)
    refused(tmp_path, r"has 2 spatial axes, but spacing_mm=\(1\.0, 1\.0, 1\.0\)", spacing_mm=(1.0, 1.0, 1.0))


def test_not_a_number_as_spacing_is_refused(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.ones(SHAPE, np.uint8), None)
    image.header["pixdim"][1] = np.nan
    nib.save(image, tmp_path / "a.nii")
    refused(tmp_path, r"a\.nii: pixel size \(1\.0, nan\) mm")
    assert next(read_cases(config(tmp_path, spacing_known=False))).spacing_mm == (1.0, 1.0)


def test_max_cases_is_spread_and_keeps_the_splits(tmp_path: Path) -> None:
    nnunet(tmp_path)
    everything = {files.id: files.split for files in list_cases(config(tmp_path))}
    some = list_cases(config(tmp_path, max_cases=3))
    # 12 cases: indices 0, 5.5 -> 6 (to even), 11
    assert [files.id for files in some] == ["p0_ED", "p3_ED", "p5_ES"]
    assert all(everything[files.id] == files.split for files in some)
    assert count_cases(config(tmp_path, max_cases=3)) == 3
    assert count_cases(config(tmp_path, max_cases=99)) == 12


def test_volumes(tmp_path: Path) -> None:
    nifti(tmp_path / "a.nii", shape=(6, 5, 4))
    case = next(read_cases(config(tmp_path)))
    assert (case.image.shape, case.spacing_mm) == ((1, 5, 6, 4), (1.0, 0.5, 1.0))


def test_phantom_is_read_like_any_dataset() -> None:
    dataset = DatasetConfig(phantom=PhantomConfig(cases=6), validation_fraction=0.34)
    cases = list(read_cases(dataset))
    assert count_cases(dataset) == len({case.id for case in cases}) == 6
    assert {"train", "val"} <= {case.split for case in cases}
    assert all(case.label is not None and case.label.shape == case.image.shape[1:] for case in cases)
    again = next(read_cases(dataset))
    np.testing.assert_array_equal(again.image, cases[0].image)
    assert count_cases(dataset.model_copy(update={"max_cases": 2})) == 2


def test_config_refuses_what_cannot_work(tmp_path: Path) -> None:
    for options in (
        {"group_pattern": "("},
        {"group_pattern": "p"},
        {"spacing_mm": (0.0, 1.0)},
        {"validation_fraction": 0.6, "test_fraction": 0.4},
        {"max_cases": 0},
    ):
        with pytest.raises(ValidationError):
            config(tmp_path, **options)
    png(tmp_path / "q1.png")
    refused(tmp_path, r"finds no group in the case id 'q1'", group_pattern=r"^(p\d)")


def test_folders_of_meta_images_and_dicom(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    save_meta(tmp_path / "images" / "a.mhd", values[None], (0.3, 0.2, 1.5))
    save_meta(tmp_path / "labels" / "a.mhd", values[None] % 3, (0.3, 0.2, 1.5))
    save_dicom(tmp_path / "images" / "b.dcm", values, PixelSpacing=[0.2, 0.3])
    save_dicom(tmp_path / "images" / "IM_0003", values)
    named = {case.id: case for case in read_cases(config(tmp_path))}
    assert list(named) == ["IM_0003", "a", "b"]
    assert all((case.image == values).all() for case in named.values())
    assert [named[name].spacing_mm for name in ("a", "b")] == [(0.2, 0.3)] * 2
    assert not named["IM_0003"].spacing_known
    assert named["a"].label is not None
    np.testing.assert_array_equal(named["a"].label, values % 3)


@pytest.mark.realdata
def test_superalloy_pictures(real_data: Path) -> None:
    labels = LabelMap(names=("matrix", "small", "large"))
    cases = list(read_cases(config(real_data / "superalloy", labels=labels)))
    assert [case.split for case in cases] == ["train"] * 10 + ["val"] * 4
    assert {case.image.shape for case in cases} == {(1, 512, 512)}
    # the README gives 48 % matrix, 2 % small and 49 % large precipitates
    shares = np.bincount(np.concatenate([case.label.ravel() for case in cases if case.label is not None]))
    np.testing.assert_allclose(shares / shares.sum(), [0.48, 0.02, 0.49], atol=0.015)
