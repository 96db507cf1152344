from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from reward_data.errors import DataError
from reward_data.nifti import read, write, write_like
from tests.reward_data.image_files import save_nifti


def test_all_axes_are_kept(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.int16).reshape(4, 3, 1, 2)
    native = read(save_nifti(tmp_path / "a.nii", values, np.diag([0.3, 0.2, 1.5, 1])))
    assert native.values.shape == (1, 3, 4, 1, 2)
    assert native.values.dtype == np.int16
    np.testing.assert_allclose(native.spacing_mm, (0.2, 0.3, 1.5, 1.0), rtol=1e-6)
    assert native.values[0, 2, 1, 0, 1] == values[1, 2, 0, 1]  # row 2, column 1


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1000), ("mm", 1), ("micron", 1e-3), ("unknown", 1)])
def test_lengths_are_given_in_mm(tmp_path: Path, unit: str, factor: float) -> None:
    affine = np.diag([0.3, 0.2, 1.5, 1.0])
    affine[:3, 3] = (5, 6, 7)
    image = nib.Nifti1Image(np.zeros((4, 3, 2), np.uint8), affine)
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "a.nii")
    native = read(tmp_path / "a.nii")
    np.testing.assert_allclose(native.spacing_mm, factor * np.array([0.2, 0.3, 1.5]), rtol=1e-6)
    np.testing.assert_allclose(
        native.affine @ [2, 1, 0, 1], [5.3 * factor, 6.4 * factor, 7 * factor, 1], rtol=1e-6
    )


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    for values in (
        np.zeros((4, 3), np.complex64),
        np.zeros((2, 2, 2, 2, 2), np.uint8),
        np.zeros(4, np.uint8),
    ):
        with pytest.raises(DataError, match="wanted real numbers"):
            read(save_nifti(tmp_path / "a.nii", values, np.eye(4)))


def test_sequences_are_written_with_their_sizes(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.uint8).reshape(3, 4, 2)
    affine = np.array([[0, 0.3, 0, 1], [0.2, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1.0]])
    write(tmp_path / "a.nii.gz", values, (0.2, 0.3, 1.0), affine)
    native = read(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(native.values[0], values)
    np.testing.assert_allclose(native.affine, affine, rtol=1e-6)
    np.testing.assert_allclose(native.spacing_mm, (0.2, 0.3, 1.0), rtol=1e-6)


def test_a_broken_affine_of_the_image_is_kept_as_it_is(tmp_path: Path) -> None:
    header = nib.Nifti1Header()
    header.set_sform(np.eye(4), 1)
    header["srow_y"] = np.nan
    nib.save(nib.Nifti1Image(np.zeros((4, 3), np.uint8), None, header), tmp_path / "a.nii")
    write_like(tmp_path / "b.nii", np.ones((3, 4), np.uint8), tmp_path / "a.nii")
    before, after = (nib.load(tmp_path / name).header for name in ("a.nii", "b.nii"))
    assert np.isnan(before["srow_y"]).all()
    for field in ("srow_x", "srow_y", "srow_z", "sform_code", "qform_code", "pixdim"):
        np.testing.assert_array_equal(after[field], before[field])


def test_nifti_2_stays_nifti_2(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(np.zeros((4, 3), np.uint8), np.eye(4)), tmp_path / "a.nii")
    write_like(tmp_path / "b.nii", np.ones((3, 4), np.uint8), tmp_path / "a.nii")
    assert isinstance(nib.load(tmp_path / "b.nii"), nib.Nifti2Image)
