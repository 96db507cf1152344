from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from reward_data.errors import DataError
from reward_data.formats import ending, read_image, read_labels, stem, write_mask
from reward_data.types import Mask

OBLIQUE = np.array([[-0.5, 0.1, 0.0, 7.0], [0.1, 0.8, 0.0, -3.0], [0.0, 0.0, 2.0, 1.0], [0.0, 0.0, 0.0, 1.0]])


def save_nifti(path: Path, values: Any, affine: Any = OBLIQUE) -> Path:
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


def test_names() -> None:
    assert (ending(Path("a.b.nii.gz")), stem(Path("a.b.nii.gz"))) == (".nii.gz", "a.b")
    assert (ending(Path("A.PNG")), stem(Path("A.PNG"))) == (".png", "A")
    assert (ending(Path("a.txt")), stem(Path("a.txt"))) == (None, "a.txt")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_nifti_is_read_upright(tmp_path: Path, name: str) -> None:
    values = np.arange(12, dtype=np.uint8).reshape(4, 3)  # 4 along x, 3 along y
    picture = read_image(save_nifti(tmp_path / name, values))
    np.testing.assert_array_equal(picture.values[0], values.T)  # 3 rows, 4 columns
    # voxel sizes are the column norms: x sqrt(.25 + .01), y sqrt(.01 + .64); rows run along y
    np.testing.assert_allclose(picture.spacing_mm, (np.sqrt(0.65), np.sqrt(0.26)), rtol=1e-6)
    # pixel (row 2, column 1) is voxel (x 1, y 2)
    np.testing.assert_allclose(picture.affine @ [2, 1, 0, 1], OBLIQUE @ [1, 2, 0, 1], rtol=1e-6)


def test_depth_one_is_2d_and_true_3d_stays(tmp_path: Path) -> None:
    assert read_image(save_nifti(tmp_path / "a.nii", np.zeros((4, 3, 1), np.uint8))).values.shape == (1, 3, 4)
    picture = read_image(save_nifti(tmp_path / "b.nii", np.zeros((4, 3, 5), np.uint8)))
    assert picture.values.shape == (1, 3, 4, 5)
    np.testing.assert_allclose(picture.spacing_mm[2], 2.0)


def test_scale_factors_of_the_header_are_applied(tmp_path: Path) -> None:
    values = np.linspace(-1, 3, 12).reshape(4, 3)
    image = nib.Nifti1Image(values, np.eye(4))
    image.set_data_dtype(
        np.uint8
    )  # nibabel then stores 0..255 with a slope of 4 / 255 and an intercept of -1
    nib.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(read_image(tmp_path / "a.nii").values[0], values.T, atol=4 / 255)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.png", "a.jpg"])
@pytest.mark.parametrize("keep", [0, 20, 0.6])
def test_truncated_files_are_one_clear_error(tmp_path: Path, name: str, keep: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 30)).astype(np.uint8)
    path = tmp_path / name
    if "nii" in name:
        save_nifti(path, noise)
    else:
        Image.fromarray(noise).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(DataError, match=rf"{name}: cannot be read .*copy it again"):
        read_image(path)


def test_missing_file(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "a.png"):
        with pytest.raises(DataError, match="no such file"):
            read_image(tmp_path / name)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite_is_refused(tmp_path: Path, bad: float) -> None:
    values = np.zeros((4, 3), np.float32)
    values[1, 1] = bad
    with pytest.raises(DataError, match=r"a\.nii: 1 of 12 intensities are NaN or infinite"):
        read_image(save_nifti(tmp_path / "a.nii", values))


def test_four_dimensions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"wanted real numbers in 2-D"):
        read_image(save_nifti(tmp_path / "a.nii", np.zeros((4, 3, 2, 2), np.uint8)))


def test_pictures_grey_colour_and_16_bit(tmp_path: Path) -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    picture = read_image(tmp_path / "grey.png")
    np.testing.assert_array_equal(picture.values[0], grey)
    assert (picture.spacing_mm, picture.spacing_known) == ((1.0, 1.0), False)
    colour = np.stack([grey, grey + 20, grey + 40, np.full_like(grey, 9)], axis=-1)
    Image.fromarray(colour).save(tmp_path / "colour.png")  # with alpha
    np.testing.assert_array_equal(
        read_image(tmp_path / "colour.png").values, np.moveaxis(colour[..., :3], -1, 0)
    )
    Image.fromarray(grey.astype(np.uint16) * 1000).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png").values[0], grey * 1000.0)


def test_labels_palette_grey_and_colour(tmp_path: Path) -> None:
    labels = np.array([[0, 1], [2, 1]], np.uint8)
    palette = Image.fromarray(labels).convert("P")
    palette.putdata(labels.ravel().tolist())
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "palette.png"), labels)
    Image.fromarray(np.repeat(labels[..., None], 3, axis=-1)).save(tmp_path / "grey_as_rgb.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "grey_as_rgb.png"), labels)
    Image.fromarray(np.stack([labels, labels + 1, labels], axis=-1)).save(tmp_path / "colour.png")
    with pytest.raises(DataError, match="labels in colour"):
        read_labels(tmp_path / "colour.png")
    with pytest.raises(DataError, match="JPEG"):
        read_labels(tmp_path / "a.jpg")


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5)])
def test_nifti_mask_goes_back_exactly(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(0, 3, shape).astype(np.uint8)
    path = save_nifti(tmp_path / "in.nii.gz", values)
    picture = read_image(path)
    mask = Mask(read_labels(path), picture.spacing_mm, picture.affine)
    write_mask(tmp_path / "out.nii.gz", mask)
    before, after = nib.load(path), nib.load(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(np.asarray(after.dataobj), values)
    np.testing.assert_array_equal(after.affine, before.affine)
    assert after.header.get_zooms() == before.header.get_zooms()
    assert after.get_data_dtype() == np.uint8


def test_mask_like_its_image_keeps_depth_one(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.linspace(0, 1, 12).reshape(4, 3, 1), OBLIQUE)
    image.set_data_dtype(np.int16)  # stored with a slope, which the mask must not take over
    path = tmp_path / "in.nii"
    nib.save(image, path)
    picture = read_image(path)
    mask = Mask(np.full((3, 4), 2, np.uint8), picture.spacing_mm, picture.affine)
    write_mask(tmp_path / "out.nii.gz", mask, like=path)
    after = nib.load(tmp_path / "out.nii.gz")
    assert after.shape == (4, 3, 1)
    assert after.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(after.dataobj), 2)
    assert after.header.get_zooms() == nib.load(path).header.get_zooms()
    np.testing.assert_array_equal(after.affine, nib.load(path).affine)
    with pytest.raises(DataError, match="does not match"):
        write_mask(tmp_path / "out.nii.gz", Mask(np.zeros((4, 3), np.uint8), (1, 1), np.eye(4)), like=path)


def test_equal_masks_give_equal_bytes_under_any_name(tmp_path: Path) -> None:
    mask = Mask(np.eye(8, dtype=np.uint8), (1.0, 1.0), np.eye(4))
    for name in ("a.nii.gz", "b.nii.gz", "a.png", "b.png"):
        write_mask(tmp_path / name, mask)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), mask.labels)


def test_volume_does_not_fit_a_png(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"3-D mask.*use \.nii\.gz"):
        write_mask(tmp_path / "a.png", Mask(np.zeros((2, 2, 2), np.uint8), (1.0,) * 3, np.eye(4)))
    assert list(tmp_path.iterdir()) == []
