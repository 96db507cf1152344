from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reward_data.dicom import is_dicom, read
from reward_data.errors import DataError
from reward_data.formats import read_image, read_labels
from tests.reward_data.image_files import dicom_item, save_dicom

pydicom = pytest.importorskip("pydicom", reason="DICOM: the optional package pydicom is not installed")

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4)


def region(**changes: Any) -> Any:
    """A 2-D region over all of a 3 x 4 image, measured in cm: .03 cm per column, .02 cm per row."""
    tags = {
        "RegionSpatialFormat": 1,
        "RegionDataType": 1,
        "RegionLocationMinX0": 0,
        "RegionLocationMinY0": 0,
        "RegionLocationMaxX1": 3,
        "RegionLocationMaxY1": 2,
        "PhysicalUnitsXDirection": 3,
        "PhysicalUnitsYDirection": 3,
        "PhysicalDeltaX": 0.03,
        "PhysicalDeltaY": 0.02,
    }
    return dicom_item(**tags | changes)


def test_one_grey_image(tmp_path: Path) -> None:
    native = read(save_dicom(tmp_path / "a.dcm", GREY))
    np.testing.assert_array_equal(native.values, GREY[None])
    assert (native.spacing_mm, native.spacing_known, native.frame_ms) == ((1.0, 1.0), False, None)


def test_frames_come_last(tmp_path: Path) -> None:
    frames = np.stack([GREY, GREY + 50])
    native = read(save_dicom(tmp_path / "a.dcm", frames, FrameTime=20.0))
    assert native.values.shape == (1, 3, 4, 2)
    np.testing.assert_array_equal(native.values[0, ..., 1], GREY + 50)
    assert (native.spacing_mm, native.frame_ms) == ((1.0, 1.0, 1.0), 20.0)


def test_monochrome1_is_turned_round(tmp_path: Path) -> None:
    np.testing.assert_array_equal(
        read(save_dicom(tmp_path / "a.dcm", GREY, "MONOCHROME1")).values[0], 255 - GREY
    )
    signed = np.array([[-5, 0], [3, 32767]], np.int16)  # -1 - v: the largest becomes the smallest, -32768
    turned = read(save_dicom(tmp_path / "b.dcm", signed, "MONOCHROME1")).values[0]
    np.testing.assert_array_equal(turned, [[4, -1], [-4, -32768]])


def test_16_bits_and_rescale(tmp_path: Path) -> None:
    deep = GREY.astype(np.uint16) * 5000
    np.testing.assert_array_equal(read(save_dicom(tmp_path / "a.dcm", deep)).values[0], deep)
    scaled = read(save_dicom(tmp_path / "b.dcm", GREY, RescaleSlope="2", RescaleIntercept="-3"))
    np.testing.assert_allclose(scaled.values[0], 2.0 * GREY - 3)


@pytest.mark.parametrize("frames", [1, 3])
def test_colour_ultrasound_is_its_luminance(tmp_path: Path, frames: int) -> None:
    colours = np.repeat(GREY[..., None], 3, axis=-1)
    colours[0, 0] = (200, 100, 50)  # .299 * 200 + .587 * 100 + .114 * 50 = 59.8 + 58.7 + 5.7 = 124.2
    pixels = np.stack([colours] * frames) if frames > 1 else colours
    values = read(save_dicom(tmp_path / "a.dcm", pixels, "RGB")).values
    assert values.shape == ((1, 3, 4) if frames == 1 else (1, 3, 4, frames))
    last = values[0] if frames == 1 else values[0, ..., -1]
    np.testing.assert_allclose(last[0, 0], 124.2, rtol=1e-6)
    np.testing.assert_array_equal(last.ravel()[1:], GREY.ravel()[1:])  # grey pixels exactly


def test_colour_of_other_modalities_is_kept(tmp_path: Path) -> None:
    colours = np.stack([GREY, GREY + 20, GREY + 40], axis=-1)
    native = read(save_dicom(tmp_path / "a.dcm", colours, "RGB", Modality="XC"))
    np.testing.assert_array_equal(native.values, np.moveaxis(colours, -1, 0))
    frames = read(save_dicom(tmp_path / "b.dcm", np.stack([colours, colours + 9]), "RGB", Modality="XC"))
    assert frames.values.shape == (3, 3, 4, 2)
    np.testing.assert_array_equal(frames.values[2, ..., 1], GREY + 49)


def test_ybr_full(tmp_path: Path) -> None:
    grey = np.stack([GREY, np.full_like(GREY, 128), np.full_like(GREY, 128)], axis=-1)
    np.testing.assert_array_equal(read(save_dicom(tmp_path / "a.dcm", grey, "YBR_FULL")).values[0], GREY)
    # pure red: Y = .299 * 255 = 76, Cb = 128 - .1687 * 255 = 85, Cr = 128 + .5 * 255 = 255
    red = np.broadcast_to(np.array([76, 85, 255], np.uint8), (3, 4, 3))
    values = read(save_dicom(tmp_path / "b.dcm", red, "YBR_FULL", Modality="XC")).values
    np.testing.assert_allclose(values[:, 0, 0], [255, 0, 0], atol=2)


def test_ybr_422_has_a_colour_for_every_two_pixels(tmp_path: Path) -> None:
    # stored Y1 Y2 Cb Cr: two bytes per pixel (PS3.3 C.7.6.3.1.2); pydicom counts Rows and Columns
    path = save_dicom(tmp_path / "a.dcm", np.zeros((3, 4, 3), np.uint8), "YBR_FULL")
    dataset = pydicom.dcmread(path)
    dataset.PhotometricInterpretation = "YBR_FULL_422"
    pairs = GREY.reshape(-1, 2)
    stored = np.concatenate([pairs, np.full_like(pairs, 128)], axis=1)
    dataset.PixelData = stored.tobytes()
    pydicom.dcmwrite(path, dataset)
    np.testing.assert_array_equal(read(path).values[0], GREY)


@pytest.mark.parametrize("low_byte", [0, 1])
def test_palette_of_16_bits(tmp_path: Path, low_byte: int) -> None:
    """Entries 0xXX00 and 0xXXXX both mean the display value XX."""
    entries = (np.arange(256, dtype=np.uint16)[::-1] * (256 + low_byte)).astype("<u2").tobytes()
    tags = {}
    for colour in ("Red", "Green", "Blue"):
        tags[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        tags[f"{colour}PaletteColorLookupTableData"] = entries
    native = read(save_dicom(tmp_path / "a.dcm", GREY, "PALETTE COLOR", **tags))
    np.testing.assert_array_equal(native.values, 255 - GREY[None])


def test_spacing_is_row_then_column(tmp_path: Path) -> None:
    native = read(save_dicom(tmp_path / "a.dcm", GREY, PixelSpacing=[0.5, 0.25]))
    assert (native.spacing_mm, native.spacing_known) == ((0.5, 0.25), True)
    np.testing.assert_allclose(np.linalg.norm(native.affine[:3, :2], axis=0), [0.5, 0.25])


def test_spacing_of_the_largest_region_in_cm(tmp_path: Path) -> None:
    trace = region(RegionSpatialFormat=4, PhysicalUnitsXDirection=4, PhysicalDeltaX=9.0)
    small = region(RegionLocationMaxX1=1, RegionLocationMaxY1=1, PhysicalDeltaX=7.0)
    path = save_dicom(tmp_path / "a.dcm", GREY, SequenceOfUltrasoundRegions=[small, region(), trace])
    native = read(path)
    # .03 cm per column is .3 mm, .02 cm per row is .2 mm
    np.testing.assert_allclose(native.spacing_mm, (0.2, 0.3))
    assert native.spacing_known


@pytest.mark.parametrize(
    "changes",
    [{"PhysicalUnitsXDirection": 4}, {"PhysicalDeltaY": 0.0}, {"RegionLocationMaxX1": 9}],
    ids=["seconds", "zero", "beyond the image"],
)
def test_regions_that_do_not_tell_the_spacing(tmp_path: Path, changes: dict[str, Any]) -> None:
    native = read(save_dicom(tmp_path / "a.dcm", GREY, SequenceOfUltrasoundRegions=[region(**changes)]))
    assert (native.spacing_mm, native.spacing_known) == ((1.0, 1.0), False)


def test_enhanced_files_keep_spacing_and_place_in_groups(tmp_path: Path) -> None:
    measures = dicom_item(PixelSpacing=[0.5, 0.25], SpacingBetweenSlices=2.0)
    shared = dicom_item(
        PixelMeasuresSequence=[measures],
        PlaneOrientationSequence=[dicom_item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
    )
    frames = [
        dicom_item(PlanePositionSequence=[dicom_item(ImagePositionPatient=[1, 2, 3 + 2 * i])]) for i in (0, 1)
    ]
    path = save_dicom(
        tmp_path / "a.dcm",
        np.stack([GREY, GREY]),
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=frames,
    )
    native = read(path)
    assert native.spacing_mm == (0.5, 0.25, 2.0)
    # LPS (1 + .25 column, 2 + .5 row, 3 + 2 frame), in RAS with the first two turned round
    np.testing.assert_allclose(native.affine @ [2, 3, 1, 1], [-1.75, -3.0, 5.0, 1.0])


def test_dicom_of_any_name(tmp_path: Path) -> None:
    path = save_dicom(tmp_path / "IM_0001", GREY)
    assert is_dicom(path)
    np.testing.assert_array_equal(read_image(path).values[0], GREY)
    (tmp_path / "notes").write_text("DICM")
    assert not is_dicom(tmp_path / "notes")
    assert not is_dicom(tmp_path / "absent")
    with pytest.raises(DataError, match="no known image format"):
        read_image(tmp_path / "notes")


@pytest.mark.parametrize("keep", [0, 20, 140, 0.5, 0.95])
def test_truncated(tmp_path: Path, keep: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 30)).astype(np.uint8)
    path = save_dicom(tmp_path / "a.dcm", noise)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(DataError, match=r"a\.dcm: .*copy it again"):
        read(path)


def test_without_pixels(tmp_path: Path) -> None:
    path = save_dicom(tmp_path / "a.dcm", GREY)
    dataset = pydicom.dcmread(path)
    del dataset.PixelData
    pydicom.dcmwrite(path, dataset)
    with pytest.raises(DataError, match="Ultrasound Multi-frame Image Storage without pixels"):
        read(path)


def test_a_codec_without_decoder_is_named(tmp_path: Path) -> None:
    from pydicom.encaps import encapsulate
    from pydicom.pixels import get_decoder
    from pydicom.uid import JPEGLSLossless

    if get_decoder(JPEGLSLossless).is_available:
        pytest.skip("a decoder for JPEG-LS is installed")
    path = save_dicom(tmp_path / "a.dcm", GREY)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
    dataset.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
    dataset["PixelData"].is_undefined_length = True
    pydicom.dcmwrite(path, dataset)
    with pytest.raises(DataError, match=r"compressed as JPEG-LS Lossless.*needs one of.*gdcm"):
        read(path)


def test_pydicom_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_dicom(tmp_path / "a.dcm", GREY)
    monkeypatch.setitem(sys.modules, "pydicom", None)  # what Python does for a package that is not there
    with pytest.raises(DataError, match=r"pip install 'rl4seg\[dicom\]'"):
        read(path)


def test_labels_in_dicom_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="labels in DICOM"):
        read_labels(save_dicom(tmp_path / "a.dcm", GREY))


@pytest.mark.realdata
def test_three_ultrasound_files(real_data: Path) -> None:
    folder = real_data / "us_dicom"
    palette, rgb, ybr = (read(folder / f"{n}.dcm") for n in ("OBXXXX1A", "US1_UNCR", "examples_ybr_color"))
    assert [image.values.shape for image in (palette, rgb, ybr)] == [
        (1, 600, 800),
        (1, 480, 640),
        (1, 240, 320, 30),
    ]
    # PhysicalDeltaX and Y of its 2-D region are .02622878766 cm; the region of the third is of a larger raster
    np.testing.assert_allclose(palette.spacing_mm, (0.2622878766,) * 2)
    assert [image.spacing_known for image in (palette, rgb, ybr)] == [True, False, False]
    assert ybr.frame_ms == 33.333
    # upright: the palette file has a bright bar at its top, the third one a grey bar at its bottom
    assert palette.values[0, :20].mean() > 10 * palette.values[0, -20:].mean()
    assert ybr.values[0, -8:].mean() > 5 * ybr.values[0, :8].mean()


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["OBXXXX1A", "US1_UNCR", "examples_ybr_color"])
@pytest.mark.parametrize("keep", [0.02, 0.5, 0.98])
def test_ultrasound_files_cut_short(tmp_path: Path, real_data: Path, name: str, keep: float) -> None:
    content = (real_data / "us_dicom" / f"{name}.dcm").read_bytes()
    (tmp_path / "a.dcm").write_bytes(content[: int(keep * len(content))])
    with pytest.raises(DataError, match="copy it again"):
        read(tmp_path / "a.dcm")
