"""Exported volumes as other programs read them, and masks that come back on another grid or with other values."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from reward_data.errors import DataError
from reward_data.phantom import PhantomConfig
from reward_data.readers import DatasetConfig, read_cases
from reward_data.review_files import (
    Grid,
    file_names,
    label_description,
    native_images,
    read_grid,
    read_returned,
    sound_affine,
    write_volume,
)
from reward_data.scanner_shift import ScannerShift
from tests.reward_data.review_example import CLASSES, SPACING, affine, mask


@pytest.fixture
def exported(tmp_path: Path) -> tuple[Path, Grid]:
    path = tmp_path / "case.nii.gz"
    write_volume(path, mask(), SPACING, affine())
    return path, read_grid(path)


def test_only_the_images_asked_for_are_read(tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        write_volume(tmp_path / f"{name}.nii.gz", np.full((4, 5), number, np.uint8), SPACING, affine())
    (tmp_path / "broken.nii.gz").write_bytes(b"not an image")
    dataset = DatasetConfig(path=str(tmp_path))
    images = native_images(dataset, ["b"])
    assert list(images) == ["b"]
    assert images["b"].shape == (1, 4, 5)
    assert (images["b"] == 1).all()
    with pytest.raises(DataError, match=r"broken\.nii\.gz"):
        native_images(dataset, ["broken"])


@pytest.mark.parametrize("shift", [None, ScannerShift()])
def test_simulated_and_shifted_images_are_those_of_the_dataset(shift: ScannerShift | None) -> None:
    phantom = PhantomConfig(cases=3, shape=(32, 32))
    dataset = DatasetConfig(format="phantom", phantom=phantom, shift=shift)
    wanted = list(read_cases(dataset))[1]
    images = native_images(dataset, [wanted.id])
    assert list(images) == [wanted.id]
    assert np.array_equal(images[wanted.id], wanted.image)


def test_nibabel_and_simpleitk_read_one_geometry(tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    path = tmp_path / "case.nii.gz"
    write_volume(path, mask(), SPACING, affine())
    image, other = nib.load(path), sitk.ReadImage(str(path))
    # 10 rows, 12 columns -> (x, y, z) = (12, 10, 1); a pixel is 0.8 mm wide and 0.5 mm high.
    assert image.shape == other.GetSize() == (12, 10, 1)
    assert np.allclose(image.header.get_zooms(), (0.8, 0.5, 1))
    assert np.allclose(other.GetSpacing(), (0.8, 0.5, 1))
    assert int(image.header["qform_code"]) == int(image.header["sform_code"]) == 1
    assert np.allclose(image.get_qform(), image.get_sform(), atol=1e-5)
    for index in ((0, 0, 0), (11, 0, 0), (3, 7, 0)):
        lps = np.array(other.TransformIndexToPhysicalPoint(index))
        assert np.allclose(image.affine @ (*index, 1), (-lps[0], -lps[1], lps[2], 1), atol=1e-4)
    # Pixel (row 3, column 4) is voxel (4, 3, 0), at the same place in the room.
    assert np.allclose(image.affine @ (4, 3, 0, 1), affine() @ (3, 4, 0, 1))
    assert image.dataobj[4, 3, 0] == mask()[3, 4] == other.GetPixel(4, 3, 0) == 1


def test_volumes_keep_their_depth(tmp_path: Path) -> None:
    spacing = (0.5, 0.8, 3.0)
    volume = np.zeros((4, 5, 6), np.float32)
    volume[1, 2, 3] = 0.5
    write_volume(tmp_path / "v.nii.gz", volume, spacing, affine(spacing))
    image = nib.load(tmp_path / "v.nii.gz")
    assert image.shape == (5, 4, 6)
    assert np.allclose(image.header.get_zooms(), (0.8, 0.5, 3))
    assert image.dataobj[2, 1, 3] == 0.5
    assert image.get_data_dtype() == np.float32


def test_equal_values_give_equal_bytes(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        write_volume(tmp_path / name / "case.nii.gz", mask(), SPACING, affine())
    assert (tmp_path / "a/case.nii.gz").read_bytes() == (tmp_path / "b/case.nii.gz").read_bytes()


def test_a_sound_affine_is_kept_and_others_are_mended() -> None:
    kept = sound_affine(affine(), SPACING)
    assert (kept == affine()[:, [1, 0, 2, 3]]).all()
    # The pixel size that counts is 1 mm, whatever the header says: same directions, same origin.
    scaled = sound_affine(affine(), (1.0, 1.0))
    assert np.allclose(np.linalg.norm(scaled[:3, :3], axis=0), 1)
    assert (scaled[:3, 3] == affine()[:3, 3]).all()
    assert np.allclose(scaled[:3, 0], kept[:3, 0] / 0.8)
    # No depth at all: perpendicular to both, 1 mm.
    flat = affine()
    flat[:3, 2] = 0
    assert np.allclose(np.abs(sound_affine(flat, SPACING)[:3, 2]), (0, 0, 1))
    # Sheared: orthogonal afterwards, as ITK wants it.
    sheared = affine()
    sheared[:3, 0] += 0.3 * sheared[:3, 1]
    directions = sound_affine(sheared, SPACING)[:3, :3] / (0.8, 0.5, 1)
    assert np.allclose(directions.T @ directions, np.eye(3), atol=1e-9)


def test_returned_as_another_program_saves_it(exported: tuple[Path, Grid], tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    path, grid = exported
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)  # (z, y, x)
    array[0, 3, 4] = 2
    changed = sitk.GetImageFromArray(array.astype(np.int16))
    changed.CopyInformation(image)
    sitk.WriteImage(changed, str(tmp_path / "back.nii.gz"))
    wanted = mask()
    wanted[3, 4] = 2
    assert (read_returned(tmp_path / "back.nii.gz", grid, CLASSES) == wanted).all()


def save(path: Path, values: np.ndarray, placed: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(values, placed), path)
    return path


@pytest.mark.parametrize("flat", [True, False])
def test_returned_with_and_without_depth(exported: tuple[Path, Grid], tmp_path: Path, flat: bool) -> None:
    path, grid = exported
    image = nib.load(path)
    values = np.asarray(image.dataobj)
    back = save(tmp_path / "back.nii", values[..., 0] if flat else values, image.affine)
    assert (read_returned(back, grid, CLASSES) == mask()).all()


def test_refused(exported: tuple[Path, Grid], tmp_path: Path) -> None:
    path, grid = exported
    image = nib.load(path)
    values, placed = np.asarray(image.dataobj), image.affine
    moved, flipped, small = placed.copy(), placed.copy(), placed.copy()
    moved[0, 3] += 0.01  # mm, more than 1 % of the 0.5 mm pixel
    flipped[:3, 0] *= -1
    small[:3, 0] *= 0.9
    nan = values.astype(np.float32)
    nan[0, 0] = np.nan
    wrong = {
        "shape": (values[:-1], placed, r"shape \(10, 11\), wanted \(10, 12\)"),
        "spacing": (values, small, "pixel size"),
        "moved": (values, moved, "another geometry, a corner lies 0.0"),
        "flipped": (values, flipped, "another geometry"),
        "label": (
            values + np.uint8(1),
            placed,
            r"labels \[3\], wanted only 0 = background, 1 = disc, 2 = ring",
        ),
        "negative": (values.astype(np.int16) - 1, placed, r"labels \[-1\]"),
        "fraction": (values * np.float32(0.5), placed, "no integers, such as 0.5"),
        "nan": (nan, placed, "NaN"),
    }
    for name, (array, where, said) in wrong.items():
        back = save(tmp_path / f"{name}.nii.gz", array, where)
        with pytest.raises(DataError, match=said) as caught:
            read_returned(back, grid, CLASSES)
        assert str(back) in str(caught.value)
    (tmp_path / "broken.nii.gz").write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match="cannot be read"):
        read_returned(tmp_path / "broken.nii.gz", grid, CLASSES)
    with pytest.raises(DataError, match="wanted NIfTI"):
        read_returned(tmp_path / "picture.png", grid, CLASSES)


def test_rounding_of_a_header_is_no_other_geometry(exported: tuple[Path, Grid], tmp_path: Path) -> None:
    path, grid = exported
    image = nib.load(path)
    rounded = image.affine.astype(np.float32).astype(np.float64) + 1e-5
    assert (read_returned(save(tmp_path / "r.nii", image.dataobj, rounded), grid, CLASSES) == mask()).all()


def test_file_names_are_unique_and_plain() -> None:
    assert file_names(["a/b", "a_b", ".x", "ü"]) == ["a_b", "a_b-2", "x", "_"]


def test_label_description_has_a_line_per_class() -> None:
    lines = [line for line in label_description(CLASSES).splitlines() if not line.startswith("#")]
    assert [line.split()[0] for line in lines] == ["0", "1", "2"]
    assert lines[2].endswith('"ring"')
    assert lines[2].split()[1:4] == ["86", "180", "233"]
