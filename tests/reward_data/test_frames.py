from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from reward_data.errors import DataError
from reward_data.formats import read_image, read_labels
from reward_data.frames import Frames, mask_ending, read_frames, write_frames_map, write_frames_mask
from reward_data.preprocess import PreprocessConfig, preprocess, restore
from tests.reward_data.image_files import LPS_TO_RAS, save_dicom, save_meta, save_nifti

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4)
EYE = np.eye(4)


def classes_of(values: Any) -> Any:
    """The identity-like policy: the class of a pixel is its own value, folded to three."""
    return (values % 3).astype(np.uint8)


def predicted(frames: Frames) -> Any:
    """Masks of all frames as a network at native size would give them: there and back on the network grid."""
    config = PreprocessConfig(
        shape=frames.values.shape[2:], aspect="stretch", intensity="divide_255", dtype="float16"
    )
    masks = []
    for index in range(len(frames)):
        image, _, geometry = preprocess(frames.case(index, "a"), config)
        masks.append(restore(classes_of(np.rint(255 * image[0])), geometry).labels)
    return np.stack(masks)


@st.composite
def placements(draw: st.DrawFn) -> tuple[Any, Any, Any]:
    """Pixel sizes from .1 to 5 mm, directions (oblique, some axes flipped), origin. Shape: (3), (3, 3), (3)."""
    sizes = np.array(draw(st.tuples(*[st.floats(0.1, 5.0)] * 3)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    directions = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    if draw(st.booleans()):  # along the axes, in any order
        directions = np.eye(3)[rng.permutation(3)]
    flips = np.array(draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3)))
    return sizes, directions * flips, rng.uniform(-100, 100, 3)


def shapes(smallest: int, largest: int) -> st.SearchStrategy[tuple[int, ...]]:
    """(x, y[, z[, t]]); axes behind the second may have length 1."""
    plane, rest = st.integers(2, 9), st.integers(1, 4)
    return st.integers(smallest, largest).flatmap(lambda axes: st.tuples(plane, plane, *[rest] * (axes - 2)))


def pixels(shape: tuple[int, ...], seed: int) -> Any:
    """Random pixels of the whole range, so that the intensities say where each came from."""
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


@settings(max_examples=80)
@given(
    shapes(2, 4),
    placements(),
    st.sampled_from([(0, 0), (1, 0), (0, 2), (1, 1), (4, 2)]),
    st.integers(0, 99),
    st.sampled_from([".nii", ".nii.gz"]),
)
def test_nifti_round_trip(
    shape: tuple[int, ...], placed: tuple[Any, Any, Any], codes: tuple[int, int], seed: int, suffix: str
) -> None:
    sizes, directions, origin = placed
    affine = nib.affines.from_matvec(directions * sizes, origin)
    values = pixels(shape, seed)
    assume(values.min() < values.max())
    image = nib.Nifti1Image(values, affine)
    image.set_qform(affine, codes[0])
    image.set_sform(affine, codes[1])
    image.header.set_xyzt_units("mm", "sec")
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder, "a" + suffix), Path(folder, "b" + suffix)
        nib.save(image, path)
        frames = read_frames(path, spatial_dims=2, channels=1)
        assert len(frames) == np.prod(shape[2:], dtype=int)
        write_frames_mask(out, predicted(frames), frames, path)
        before, after = nib.load(path), nib.load(out)
        np.testing.assert_array_equal(np.asarray(after.dataobj), classes_of(values))
        np.testing.assert_array_equal(after.affine, before.affine)
        for field in ("dim", "pixdim", "qform_code", "sform_code", "xyzt_units", "quatern_b", "srow_x"):
            np.testing.assert_array_equal(after.header[field], before.header[field], err_msg=field)


@settings(max_examples=50)
@given(shapes(2, 4), placements(), st.integers(0, 99), st.sampled_from([".mhd", ".mha"]))
def test_meta_image_round_trip(
    shape: tuple[int, ...], placed: tuple[Any, Any, Any], seed: int, suffix: str
) -> None:
    itk = pytest.importorskip("SimpleITK")
    sizes, directions, origin = placed
    axes = len(shape)
    turned = np.eye(axes)
    if axes == 3:
        turned = directions
    elif axes == 4:
        turned[:3, :3] = directions
    values = pixels(shape, seed)
    assume(values.min() < values.max())
    image = itk.GetImageFromArray(values.T, isVector=False)
    image.SetSpacing([*sizes, 1.0][:axes])
    image.SetOrigin([*origin, 0.0][:axes])
    image.SetDirection(turned.ravel())
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder, "a" + suffix), Path(folder, "b.mha")
        itk.WriteImage(image, str(path))
        frames = read_frames(path, spatial_dims=2, channels=1)
        write_frames_mask(out, predicted(frames), frames, path)
        before, after = itk.ReadImage(str(path)), itk.ReadImage(str(out))
        np.testing.assert_array_equal(itk.GetArrayFromImage(after).T, classes_of(values))
        for read in ("GetSpacing", "GetOrigin", "GetDirection", "GetSize"):
            assert getattr(after, read)() == getattr(before, read)(), read


@settings(max_examples=30)
@given(st.integers(1, 3), placements(), st.integers(0, 99))
def test_dicom_round_trip_to_nifti(count: int, placed: tuple[Any, Any, Any], seed: int) -> None:
    sizes, directions, origin = (np.round(values, 4) for values in placed)  # decimal strings of 16 characters
    values = pixels((count, 5, 7), seed)
    tags = {
        "PixelSpacing": [sizes[1], sizes[0]],
        "ImagePositionPatient": list(origin),
        "ImageOrientationPatient": [*directions[:, 0], *directions[:, 1]],
        "SpacingBetweenSlices": sizes[2],
    }
    with tempfile.TemporaryDirectory() as folder:
        path = save_dicom(Path(folder, "IM1"), values if count > 1 else values[0], **tags)
        frames = read_frames(path, spatial_dims=2, channels=1)
        out = Path(folder, "a" + mask_ending(path))
        write_frames_mask(out, predicted(frames), frames, path)
        after = nib.load(out)
        stored = np.asarray(after.dataobj)
    # array axes (x = column, y = row[, frame]) against (frame, row, column)
    np.testing.assert_array_equal(stored.reshape(7, 5, -1), classes_of(values.T))
    # PS3.3 C.7.6.2.1.1: position + column index * row direction * column spacing + row index * ...
    lps = origin + 4 * directions[:, 0] * sizes[0] + 2 * directions[:, 1] * sizes[1]
    np.testing.assert_allclose(after.affine @ [4, 2, 0, 1], LPS_TO_RAS @ [*lps, 1], atol=1e-3)
    np.testing.assert_allclose(after.header.get_zooms()[:2], sizes[:2], rtol=1e-3)


def test_one_scene_by_four_programs_is_one_image(tmp_path: Path) -> None:
    """The same rows and columns from nibabel, SimpleITK, pydicom and Pillow; the first three at the same place."""
    turned = np.array([[0.8, 0.0], [0.0, 1.0], [0.6, 0.0]])  # directions of x and y in LPS
    lps = np.eye(4)
    lps[:3, :2] = turned * [0.3, 0.2]
    lps[:3, 2] = np.cross(*turned.T)
    lps[:3, 3] = (5, 6, 7)
    itk = pytest.importorskip("SimpleITK")
    image = itk.GetImageFromArray(GREY[None])
    image.SetSpacing((0.3, 0.2, 1.0))
    image.SetOrigin((5, 6, 7))
    image.SetDirection(np.column_stack([turned, lps[:3, 2]]).ravel())
    itk.WriteImage(image, str(tmp_path / "b.mha"))
    paths = [
        save_nifti(tmp_path / "a.nii.gz", GREY.T, LPS_TO_RAS @ lps),
        tmp_path / "b.mha",
        save_dicom(
            tmp_path / "c.dcm",
            GREY,
            PixelSpacing=[0.2, 0.3],
            ImagePositionPatient=[5, 6, 7],
            ImageOrientationPatient=[*turned[:, 0], *turned[:, 1]],
        ),
        tmp_path / "d.png",
    ]
    Image.fromarray(GREY).save(paths[3])
    frames = [read_frames(path, 2, 1) for path in paths]
    for path, found in zip(paths, frames):
        np.testing.assert_array_equal(found.values[0, 0], GREY, err_msg=path.name)
    for path, found in zip(paths[:3], frames):
        np.testing.assert_allclose(found.spacing_mm, (0.2, 0.3), rtol=1e-6, err_msg=path.name)
        np.testing.assert_allclose(found.affine, frames[0].affine, atol=1e-6, err_msg=path.name)


def test_simpleitk_finds_the_mask_of_a_dicom_where_the_image_is(tmp_path: Path) -> None:
    itk = pytest.importorskip("SimpleITK")
    path = save_dicom(
        tmp_path / "a.dcm",
        GREY,
        PixelSpacing=[0.2, 0.3],
        ImagePositionPatient=[5, 6, 7],
        ImageOrientationPatient=[0.8, 0, 0.6, 0, 1, 0],
    )
    frames = read_frames(path, 2, 1)
    write_frames_mask(tmp_path / "m.nii.gz", classes_of(frames.values[:, 0]), frames, path)
    image, header = itk.ReadImage(str(path)), nib.load(tmp_path / "m.nii.gz")
    for x, y in ((0, 0), (3, 0), (0, 2), (3, 2)):
        lps = [*image.TransformIndexToPhysicalPoint((x, y, 0)), 1]
        np.testing.assert_allclose(LPS_TO_RAS @ lps, header.affine @ [x, y, 0, 1], atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 3, 5), (4, 3, 1, 5), (4, 3, 5, 1)])
def test_sequences_and_slices_are_frames_of_a_2d_model(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = pixels(shape, 0)
    frames = read_frames(save_nifti(tmp_path / "a.nii", values, EYE), 2, 1)
    assert (frames.values.shape, frames.spacing_mm) == ((5, 1, 3, 4), (1.0, 1.0))
    np.testing.assert_array_equal(frames.values[3, 0], values.reshape(4, 3, 5)[..., 3].T)


def test_a_volume_is_one_input_of_a_3d_model_and_a_moving_one_several(tmp_path: Path) -> None:
    values = pixels((4, 3, 5, 2), 0)
    volume = save_nifti(tmp_path / "a.nii", values[..., 0], np.diag([0.3, 0.2, 2.0, 1]))
    frames = read_frames(volume, 3, 1)
    assert frames.values.shape == (1, 1, 3, 4, 5)
    np.testing.assert_allclose(frames.spacing_mm, (0.2, 0.3, 2.0))
    write_frames_mask(tmp_path / "b.nii", predicted(frames), frames, volume)
    np.testing.assert_array_equal(
        np.asarray(nib.load(tmp_path / "b.nii").dataobj), classes_of(values[..., 0])
    )
    moving = save_nifti(tmp_path / "c.nii", values, EYE)
    frames = read_frames(moving, 3, 1)
    assert frames.values.shape == (2, 1, 3, 4, 5)
    write_frames_mask(tmp_path / "d.nii", predicted(frames), frames, moving)
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "d.nii").dataobj), classes_of(values))


def test_a_sequence_is_one_input_of_a_model_with_time(tmp_path: Path) -> None:
    frames = read_frames(save_nifti(tmp_path / "a.nii", pixels((4, 3, 1, 5), 0), EYE), 3, 1)
    assert (frames.values.shape, frames.spacing_mm) == ((1, 1, 3, 4, 5), (1.0, 1.0, 1.0))


def test_an_image_for_a_volume_model_is_refused(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "a.nii", pixels((4, 3, 1), 0), EYE)
    with pytest.raises(DataError, match=r"wanted 3 axes.*model for 2-D"):
        read_frames(path, 3, 1)


def test_time_between_frames(tmp_path: Path) -> None:
    image = nib.Nifti1Image(pixels((4, 3, 1, 5), 0), EYE)
    image.header.set_zooms((1, 1, 1, 0.04))
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(read_frames(tmp_path / "a.nii", 2, 1).frame_ms, 40.0)  # .04 s


def test_pixel_sizes_that_are_none_are_unknown(tmp_path: Path) -> None:
    image = nib.Nifti1Image(pixels((4, 3), 0), None)
    image.header["pixdim"][1] = np.nan
    nib.save(image, tmp_path / "a.nii")
    frames = read_frames(tmp_path / "a.nii", 2, 1)
    assert (frames.spacing_mm, frames.spacing_known) == ((1.0, 1.0), False)


def coloured(share: float) -> Any:
    """A grey picture of 10 x 10 pixels, some of them red. Shape: (10, 10, 3)."""
    values = np.repeat(np.arange(100, dtype=np.uint8).reshape(10, 10, 1), 3, axis=-1)
    values.reshape(-1, 3)[: round(100 * share)] = (200, 0, 0)
    return values


def test_colour_for_a_grey_model(tmp_path: Path) -> None:
    for name, share in (("grey", 0.0), ("overlay", 0.05), ("colour", 0.06)):
        Image.fromarray(coloured(share)).save(tmp_path / f"{name}.png")
    grey = read_frames(tmp_path / "grey.png", 2, 1).values
    np.testing.assert_array_equal(grey[0, 0], np.arange(100).reshape(10, 10))
    overlay = read_frames(tmp_path / "overlay.png", 2, 1).values[0, 0]
    np.testing.assert_allclose(overlay[0, :5], 0.299 * 200, rtol=1e-6)
    np.testing.assert_array_equal(overlay[0, 5:], np.arange(5, 10))
    with pytest.raises(DataError, match=r"colour where grey is wanted \(6% .*save the image as grey"):
        read_frames(tmp_path / "colour.png", 2, 1)


def test_grey_saved_as_a_colour_jpeg_is_grey(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (40, 40, 1)).astype(np.uint8)
    Image.fromarray(np.repeat(values, 3, axis=-1)).save(tmp_path / "a.jpg", quality=70)
    assert read_frames(tmp_path / "a.jpg", 2, 1).values.shape == (1, 1, 40, 40)


def test_channels_for_a_colour_model(tmp_path: Path) -> None:
    Image.fromarray(coloured(0.5)).save(tmp_path / "colour.png")
    colour = read_frames(tmp_path / "colour.png", 2, 3)
    np.testing.assert_array_equal(colour.values[0], np.moveaxis(coloured(0.5), -1, 0))
    Image.fromarray(GREY).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_frames(tmp_path / "grey.png", 2, 3).values[0], [GREY] * 3)
    with pytest.raises(DataError, match="1 values per pixel, but the model wants 2"):
        read_frames(tmp_path / "grey.png", 2, 2)


def test_colour_nifti(tmp_path: Path) -> None:
    record = np.zeros((4, 3), np.dtype([(name, "u1") for name in "RGB"]))
    record["R"], record["G"] = GREY.T, GREY.T + 90
    path = save_nifti(tmp_path / "a.nii", record, EYE)
    np.testing.assert_array_equal(read_frames(path, 2, 3).values[0], [GREY, GREY + 90, 0 * GREY])
    with pytest.raises(DataError, match="colour where grey is wanted"):
        read_frames(path, 2, 1)


def test_16_bit_png_keeps_its_range(tmp_path: Path) -> None:
    deep = GREY.astype(np.uint16) * 5957  # up to 65527
    Image.fromarray(deep).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_frames(tmp_path / "a.png", 2, 1).values[0, 0], deep)


@pytest.mark.parametrize("value", [0, 7])
def test_nothing_to_see(tmp_path: Path, value: int) -> None:
    Image.fromarray(np.full((4, 3), value, np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=rf"a\.png: every pixel is {value}"):
        read_frames(tmp_path / "a.png", 2, 1)


def test_no_pixels(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "a.nii", np.zeros((4, 0), np.uint8), EYE)
    with pytest.raises(DataError, match=r"a\.nii: .*"):
        read_frames(path, 2, 1)


def test_not_finite(tmp_path: Path) -> None:
    values = np.arange(12.0).reshape(4, 3)
    values[0, 0] = np.nan
    with pytest.raises(DataError, match="1 of 12 intensities are NaN"):
        read_frames(save_nifti(tmp_path / "a.nii", values, EYE), 2, 1)
    values[0, 0] = 1e300  # more than float32 holds
    with pytest.raises(DataError, match="1 of 12 intensities are NaN or infinite"):
        read_frames(save_nifti(tmp_path / "b.nii", values, EYE), 2, 1)


def test_pictures_get_png_masks_and_maps(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png")
    frames = read_frames(tmp_path / "a.png", 2, 1)
    write_frames_mask(tmp_path / "m.png", classes_of(GREY)[None], frames, tmp_path / "a.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "m.png"), classes_of(GREY))
    error = np.linspace(0, 1, 12, dtype=np.float32).reshape(1, 3, 4)
    write_frames_map(tmp_path / "e.png", error, frames, tmp_path / "a.png")
    np.testing.assert_allclose(read_image(tmp_path / "e.png").values / 255, error, atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.mha", "a.dcm"])
def test_maps_lie_on_the_native_grid(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("mha"):
        save_meta(path, GREY[None], (0.3, 0.2, 1.5))
    elif name.endswith("dcm"):
        save_dicom(path, GREY, PixelSpacing=[0.2, 0.3])
    else:
        save_nifti(path, GREY.T[..., None], np.diag([0.3, 0.2, 1.5, 1]))
    frames = read_frames(path, 2, 1)
    error = np.random.default_rng(0).random((1, 3, 4)).astype(np.float32)
    out = tmp_path / f"e{mask_ending(path)}"
    write_frames_map(out, error, frames, path)
    after = read_image(out)
    assert after.values.dtype == np.float32
    np.testing.assert_allclose(after.values, error, atol=0.5 / 1024 + 1e-7)
    np.testing.assert_allclose(after.affine, frames.affine, atol=1e-7)
    np.testing.assert_allclose(after.spacing_mm, (0.2, 0.3), rtol=1e-6)


def test_what_shows_or_reads_the_image_is_not_taken_over(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.linspace(0, 3, 12).reshape(4, 3), EYE)
    image.set_data_dtype(np.int16)  # stored with a slope
    image.header["cal_max"] = 255
    image.header.set_intent("z score")
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"name of a patient"))
    path = tmp_path / "a.nii"
    nib.save(image, path)
    frames = read_frames(path, 2, 1)
    write_frames_mask(tmp_path / "m.nii", np.full((1, 3, 4), 2, np.uint8), frames, path)
    after = nib.load(tmp_path / "m.nii")
    np.testing.assert_array_equal(np.asarray(after.dataobj), 2)
    assert after.get_data_dtype() == np.uint8
    assert (after.header["cal_max"], after.header.get_intent()[0]) == (0, "none")
    assert b"patient" not in (tmp_path / "m.nii").read_bytes()


def test_endings() -> None:
    wanted = {"a.NII": ".nii", "a.b.nii.gz": ".nii.gz", "a.jpg": ".png", "a.mhd": ".mha", "a.dcm": ".nii.gz"}
    assert {name: mask_ending(Path(name)) for name in wanted} == wanted
    with pytest.raises(DataError, match="no known image format"):
        mask_ending(Path("a.txt"))


def test_what_cannot_be_written(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "a.nii", pixels((4, 3, 2), 0), EYE)
    frames = read_frames(path, 2, 1)
    masks = np.zeros((2, 3, 4), np.uint8)
    with pytest.raises(DataError, match=r"values of shape \(1, 3, 4\), wanted .* \(2, 3, 4\)"):
        write_frames_mask(tmp_path / "m.nii", masks[:1], frames, path)
    for name in ("m.png", "m.mha", "m.txt"):
        with pytest.raises(DataError, match=r"cannot hold the 3-D mask of a\.nii; use \.nii"):
            write_frames_mask(tmp_path / name, masks, frames, path)
    (tmp_path / "taken").write_text("a file, not a folder")
    with pytest.raises(DataError, match="could not be written"):
        write_frames_mask(tmp_path / "taken" / "m.nii", masks, frames, path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.nii", "taken"]


@pytest.mark.realdata
@pytest.mark.parametrize("folder", ["camus_mhd_patient0001", "us_dicom"])
def test_real_files_there_and_back(tmp_path: Path, real_data: Path, folder: str) -> None:
    from reward_data.inputs import list_inputs

    files = list_inputs(real_data / folder)
    assert len(files) == {"camus_mhd_patient0001": 8, "us_dicom": 3}[folder]
    for file in files:
        frames = read_frames(file.path, 2, 1)
        masks = classes_of(np.rint(frames.values[:, 0]))
        out = tmp_path / f"{file.id}{mask_ending(file.path)}"
        write_frames_mask(out, masks, frames, file.path)
        after = read_frames(out, 2, 1)
        np.testing.assert_array_equal(after.values[:, 0], masks)
        np.testing.assert_allclose(after.affine, frames.affine, atol=1e-6)
        np.testing.assert_allclose(after.spacing_mm, frames.spacing_mm, rtol=1e-6)
