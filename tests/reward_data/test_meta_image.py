from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from reward_data.errors import DataError
from reward_data.formats import read_image, read_labels
from reward_data.meta_image import read, write_like
from tests.reward_data.image_files import save_meta

itk = pytest.importorskip("SimpleITK", reason="MetaImage: the optional package SimpleITK is not installed")

UPRIGHT = np.arange(12, dtype=np.uint8).reshape(3, 4)  # 3 rows, 4 columns


@pytest.mark.parametrize("name", ["a.mhd", "a.mha"])
def test_2d_is_read_upright(tmp_path: Path, name: str) -> None:
    native = read(save_meta(tmp_path / name, UPRIGHT, (0.3, 0.2)))
    np.testing.assert_array_equal(native.values, UPRIGHT[None])
    assert (native.spacing_mm, native.spacing_known) == ((0.2, 0.3), True)


def test_depth_of_one_is_kept_natively_and_dropped_as_a_picture(tmp_path: Path) -> None:
    path = save_meta(tmp_path / "a.mhd", UPRIGHT[None], (0.3, 0.2, 1.5))
    native = read(path)
    assert (native.values.shape, native.spacing_mm) == ((1, 3, 4, 1), (0.2, 0.3, 1.5))
    picture = read_image(path)
    np.testing.assert_array_equal(picture.values[0], UPRIGHT)
    assert picture.spacing_mm == (0.2, 0.3)
    np.testing.assert_array_equal(read_labels(path), UPRIGHT)
    assert read_labels(path).dtype == np.uint8


def test_slices_are_the_third_axis_and_time_the_fourth(tmp_path: Path) -> None:
    volume = np.stack([UPRIGHT, UPRIGHT + 50])
    np.testing.assert_array_equal(
        read(save_meta(tmp_path / "a.mha", volume, (1, 1, 2))).values[0, ..., 1], UPRIGHT + 50
    )
    moving = read(save_meta(tmp_path / "b.mha", np.stack([volume, volume + 100]), (1, 1, 2, 5)))
    assert (moving.values.shape, moving.spacing_mm) == ((1, 3, 4, 2, 2), (1, 1, 2, 1))
    np.testing.assert_array_equal(moving.values[0, ..., 0, 1], UPRIGHT + 100)  # slice 0 at time 1


def test_colour(tmp_path: Path) -> None:
    colours = np.stack([UPRIGHT, UPRIGHT + 20, UPRIGHT + 40], axis=-1)
    native = read(save_meta(tmp_path / "a.mha", colours, (1, 1), colour=True))
    np.testing.assert_array_equal(native.values, np.moveaxis(colours, -1, 0))


def test_affine_is_that_of_itk_in_ras(tmp_path: Path) -> None:
    image = itk.GetImageFromArray(np.zeros((2, 3, 4), np.uint8))
    image.SetSpacing((0.3, 0.2, 2.0))
    image.SetOrigin((5.0, -7.0, 11.0))
    turned = np.array([[0.8, 0.0, 0.6], [0.6, 0.0, -0.8], [0.0, 1.0, 0.0]])
    image.SetDirection(turned.ravel())
    itk.WriteImage(image, str(tmp_path / "a.mha"))
    # index (x 3, y 2, z 1) is pixel (row 2, column 3, slice 1)
    lps = image.TransformIndexToPhysicalPoint((3, 2, 1))
    ras = read(tmp_path / "a.mha").affine @ [2, 3, 1, 1]
    np.testing.assert_allclose(ras, [-lps[0], -lps[1], lps[2], 1.0])


def test_a_mask_of_another_shape_is_refused(tmp_path: Path) -> None:
    like = save_meta(tmp_path / "a.mha", UPRIGHT, (1, 1))
    with pytest.raises(DataError, match="does not match"):
        write_like(tmp_path / "b.mha", UPRIGHT.T, like)


def test_what_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    like = save_meta(tmp_path / "a.mha", UPRIGHT, (1, 1))
    with pytest.raises(OSError, match=r"b\.mha"):
        write_like(tmp_path / "absent" / "b.mha", UPRIGHT, like)


def test_missing_and_truncated(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "absent.mhd")
    path = save_meta(tmp_path / "a.mhd", UPRIGHT, (1, 1))
    (tmp_path / "a.raw").write_bytes(b"12345")
    with pytest.raises(DataError, match=r"a\.mhd: cannot be read \(.*pixels are missing or too few\)"):
        read(path)
    (tmp_path / "a.raw").unlink()
    with pytest.raises(DataError, match=r"a\.mhd: cannot be read"):
        read(path)
    path.write_text("NDims = 2")
    with pytest.raises(DataError, match="header is damaged"):
        read(path)


def test_simpleitk_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_meta(tmp_path / "a.mhd", UPRIGHT, (1, 1))
    monkeypatch.setitem(sys.modules, "SimpleITK", None)  # what Python does for a package that is not there
    with pytest.raises(DataError, match=r"pip install 'rl4seg\[mhd\]'"):
        read(path)


@pytest.mark.realdata
def test_camus_patient(real_data: Path) -> None:
    folder = real_data / "camus_mhd_patient0001"
    image = read_image(folder / "patient0001_4CH_ED.mhd")
    labels = read_labels(folder / "patient0001_4CH_ED_gt.mhd")
    assert image.values.shape == (1, 778, 549)
    assert image.spacing_mm == (0.154, 0.308)
    assert labels.shape == (778, 549)
    # upright: the probe is at the top, so the atrium (3) lies below the cavity (1); the cavity is the darkest
    rows = [np.argwhere(labels == value)[:, 0].mean() for value in (1, 3)]
    assert rows[0] < rows[1]
    brightness = [image.values[0][labels == value].mean() for value in (1, 2)]
    assert brightness[0] < 0.7 * brightness[1]
