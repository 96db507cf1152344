from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from reward_data.errors import DataError
from reward_data.geometry import Geometry, channels_to_native, pad_to_grid, resize_linear
from reward_data.preprocess import PreprocessConfig, preprocess, restore, restore_probabilities
from reward_data.types import Case, Float32, UInt8


def make_case(
    image: Any, label: Any = None, spacing: tuple[float, ...] = (1.0, 1.0), known: bool = True
) -> Case:
    values = np.asarray(image, dtype=np.float32)
    values = values[None] if values.ndim == len(spacing) else values
    affine = np.diag([*spacing, *[1.0] * (4 - len(spacing))])
    return Case("c1", "g", "d", None, values, label, spacing, affine, known)


def disc(shape: tuple[int, ...], radius: float = 0.3) -> UInt8:
    """Two nested ellipsoids that fill `radius` of the grid along every axis."""
    axes = np.meshgrid(*[(np.arange(n) + 0.5) / n - 0.5 for n in shape], indexing="ij")
    distance = np.sqrt(sum(axis**2 for axis in axes))
    return (distance < radius).astype(np.uint8) + (distance < radius / 2).astype(np.uint8)


def dice(a: UInt8, b: UInt8) -> float:
    return float(2 * ((a > 0) & (b > 0)).sum() / ((a > 0).sum() + (b > 0).sum()))


def test_resize_puts_pixel_centres_right() -> None:
    # 4 -> 8: output i looks at (i + .5) / 2 - .5 = -.25, .25, .75, ...; a ramp stays a ramp but for the clamped ends
    ramp = np.arange(4, dtype=np.float32).reshape(1, 1, 4)
    np.testing.assert_allclose(resize_linear(ramp, (1, 8))[0, 0], [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
    # 8 -> 4: triangle of half-width 2 around 2 i + .5: weights 1/8 3/8 3/8 1/8; inner pixels of a ramp are exact
    ramp = np.arange(8, dtype=np.float32).reshape(1, 1, 8)
    np.testing.assert_allclose(resize_linear(ramp, (1, 4))[0, 0, 1:3], [2.5, 4.5], rtol=1e-6)


def test_resize_down_does_not_alias() -> None:
    # 63 -> 9: output i is centred on pixel 7 i + 3, so that linear interpolation alone would give 1, 0, 1, 0, ...
    # A triangle of half-width 7 has 7 + 2 (5 + 3 + 1) = 25 of 49 parts of its weight on pixels like its centre.
    stripes = (np.arange(63) % 2).astype(np.float32).reshape(1, 1, 63)
    expected = [24 / 49, 25 / 49] * 4  # output 1 is centred on pixel 10, a 0; output 2 on pixel 17, a 1
    np.testing.assert_allclose(resize_linear(stripes, (1, 9))[0, 0, 1:8], expected[:7], rtol=1e-6)


@pytest.mark.parametrize(
    ("aspect", "resized", "pad"),
    [
        # 40 x 40 pixels of 1 x .5 mm = 40 x 20 mm. physical: 40 mm -> 32 px, 20 mm -> 16 px, (32 - 16) / 2 = 8 before
        ("physical", (32, 16), (0, 8)),
        ("pixels", (32, 32), (0, 0)),
        ("stretch", (32, 32), (0, 0)),
    ],
)
def test_aspect(aspect: Any, resized: tuple[int, ...], pad: tuple[int, ...]) -> None:
    case = make_case(np.ones((40, 40)), spacing=(1.0, 0.5))
    image, _, geometry = preprocess(
        case, PreprocessConfig(shape=(32, 32), aspect=aspect, intensity="none_clip01")
    )
    assert (geometry.resized_shape, geometry.pad_before, image.shape) == (resized, pad, (1, 32, 32))
    assert image.sum() == resized[0] * resized[1]  # ones inside, zeros in the padding
    if aspect == "physical":
        assert geometry.spacing_mm == (1.25, 1.25)


def test_pixels_pads_the_shorter_axis_and_stretch_does_not() -> None:
    case = make_case(np.ones((20, 41)))
    pixels = preprocess(case, PreprocessConfig(shape=(32, 32), aspect="pixels"))[2]
    # scale 32 / 41; 20 * 32 / 41 = 15.6 -> 16
    assert (pixels.resized_shape, pixels.pad_before) == ((16, 32), (8, 0))
    assert preprocess(case, PreprocessConfig(shape=(32, 32), aspect="stretch"))[2].resized_shape == (32, 32)


def test_resample_to_spacing_then_pad() -> None:
    case = make_case(np.ones((40, 30)), spacing=(0.5, 1.0))  # 20 x 30 mm
    config = PreprocessConfig(shape=(32, 32), spacing_mm=(1.0, 1.0))
    geometry = preprocess(case, config)[2]
    assert (geometry.resized_shape, geometry.pad_before) == ((20, 30), (6, 1))
    with pytest.raises(DataError, match=r"'c1' takes \(40, 60\) pixels at \(0.5, 0.5\) mm.*\(32, 32\)"):
        preprocess(case, config.model_copy(update={"spacing_mm": (0.5, 0.5)}))
    with pytest.raises(DataError, match="no known pixel size"):
        preprocess(make_case(np.ones((8, 8)), known=False), config)


@pytest.mark.parametrize(
    ("intensity", "expected"),
    [
        ("minmax", [0, 0.25, 1]),  # (51 - 1) / (201 - 1)
        ("divide_255", [1 / 255, 0.2, 201 / 255]),
        ("none_clip01", [1, 1, 1]),
        # percentiles 1 and 99 of three values: 1 + .02 * 50 = 2, 201 - .02 * 150 = 198; (51 - 2) / 196 = .25
        ("percentile", [0, 0.25, 1]),
    ],
)
def test_intensity(intensity: Any, expected: list[float]) -> None:
    config = PreprocessConfig(shape=(1, 3), intensity=intensity)
    image = preprocess(make_case([[1, 51, 201]]), config)[0]
    np.testing.assert_allclose(image[0, 0], expected, rtol=1e-5)


def test_divide_255_refuses_other_ranges() -> None:
    with pytest.raises(DataError, match=r"-1\.\.300, but intensity=divide_255 wants 0\.\.255"):
        preprocess(make_case([[-1, 300]]), PreprocessConfig(shape=(1, 2), intensity="divide_255"))


@pytest.mark.parametrize("intensity", ["minmax", "percentile", "divide_255"])
@pytest.mark.parametrize("clahe", [None, 0.01])
def test_constant_images_stay_finite(intensity: Any, clahe: float | None) -> None:
    config = PreprocessConfig(shape=(16, 16), intensity=intensity, clahe_clip=clahe)
    image = preprocess(make_case(np.full((20, 20), 7)), config)[0]
    assert np.isfinite(image).all()


def test_channels_are_scaled_apart() -> None:
    image = np.stack([np.array([[0, 10]]), np.array([[100, 300]])])
    result = preprocess(make_case(image), PreprocessConfig(shape=(1, 2)))[0]
    np.testing.assert_array_equal(result, [[[0, 1]], [[0, 1]]])


def test_clahe_raises_local_contrast_and_leaves_the_padding() -> None:
    rows = np.linspace(0.45, 0.55, 32)
    case = make_case(np.tile(rows[:, None], (1, 16)))
    plain = PreprocessConfig(shape=(32, 32), aspect="pixels", intensity="none_clip01")
    before, after = (
        preprocess(case, plain.model_copy(update={"clahe_clip": clip}))[0] for clip in (None, 0.5)
    )
    assert after[0, :, 8:24].std() > 2 * before[0, :, 8:24].std()
    assert after[0, :, :8].max() == 0
    assert after.min() >= 0
    assert after.max() <= 1


def test_axes_must_match_the_grid() -> None:
    with pytest.raises(DataError, match=r"3 spatial axes \(4, 4, 2\).*one entry per axis"):
        preprocess(make_case(np.ones((4, 4, 2)), spacing=(1.0, 1.0, 1.0)), PreprocessConfig(shape=(4, 4)))


def test_config_refuses_what_makes_no_grid() -> None:
    for wrong in ({"shape": (0, 4)}, {"shape": (4,)}, {"spacing_mm": (1.0,)}, {"spacing_mm": (0.0, 1.0)}):
        with pytest.raises(ValidationError):
            PreprocessConfig(**wrong)  # type: ignore[arg-type]


def test_no_resize_is_the_identity() -> None:
    rng = np.random.default_rng(0)
    image, label = rng.random((20, 30)), rng.integers(0, 3, (20, 30)).astype(np.uint8)
    config = PreprocessConfig(shape=(25, 30), aspect="pixels", intensity="none_clip01")
    result, on_grid, geometry = preprocess(make_case(image, label), config)
    assert on_grid is not None
    np.testing.assert_array_equal(result[0, 2:22], image.astype(np.float32))
    np.testing.assert_array_equal(restore(on_grid, geometry).labels, label)


sizes, spacings = st.integers(33, 131), st.floats(0.3, 1.2)


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(sizes, sizes),
    st.tuples(spacings, spacings),
    st.sampled_from(["physical", "pixels", "stretch"]),
    st.sampled_from([(64, 64), (96, 64), (65, 79)]),
)
def test_big_blobs_survive_the_round_trip(
    shape: tuple[int, int], spacing: tuple[float, float], aspect: Any, grid: tuple[int, int]
) -> None:
    label = disc(shape)
    case = make_case(np.zeros(shape), label, spacing)
    _, on_grid, geometry = preprocess(case, PreprocessConfig(shape=grid, aspect=aspect))
    assert on_grid is not None
    back = restore(on_grid, geometry)
    assert back.labels.shape == shape
    assert back.spacing_mm == spacing
    np.testing.assert_array_equal(back.affine, case.affine)
    # at worst 33 : 131 px of aspect and 1.2 : .3 mm leave 4 px across the short axis; a blob of 20 px must be good
    if 0.6 * min(geometry.resized_shape) >= 20:
        assert dice(back.labels, label) > 0.97


@settings(deadline=None, max_examples=30)
@given(st.tuples(sizes, sizes), st.tuples(spacings, spacings), st.integers(0, 100))
def test_images_stay_in_range_and_label_lies_on_the_image(
    shape: tuple[int, int], spacing: tuple[float, float], seed: int
) -> None:
    noise = np.random.default_rng(seed).normal(size=shape)
    label = (disc(shape) > 0).astype(np.uint8)  # two classes: the larger one is the one above one half
    image, on_grid, _ = preprocess(make_case(noise, label, spacing), PreprocessConfig())
    assert image.min() >= 0
    assert image.max() <= 1
    shown = preprocess(make_case(label, None, spacing), PreprocessConfig())[0]
    assert on_grid is not None
    clear = np.abs(shown[0] - 0.5) > 1e-5  # at one half both classes fill the pixel alike
    np.testing.assert_array_equal((on_grid > 0)[clear], (shown[0] > 0.5)[clear])


def test_volumes_round_trip() -> None:
    shape, spacing = (40, 50, 20), (1.0, 0.8, 2.0)
    label = disc(shape, 0.35)
    config = PreprocessConfig(shape=(32, 32, 32))
    image, on_grid, geometry = preprocess(make_case(np.zeros(shape), label, spacing), config)
    assert on_grid is not None
    assert image.shape == (1, 32, 32, 32)
    assert dice(restore(on_grid, geometry).labels, label) > 0.95


def test_restored_borders_are_smooth() -> None:
    # a half plane under 45 degrees, 16 -> 128: linear classes give a straight edge, nearest would give steps of 8 px
    label = np.tri(128, dtype=np.uint8)
    _, on_grid, geometry = preprocess(
        make_case(np.zeros((128, 128)), label), PreprocessConfig(shape=(16, 16))
    )
    assert on_grid is not None
    edge = restore(on_grid, geometry).labels[16:112].sum(axis=1).astype(int)
    assert np.abs(np.diff(edge)).max() <= 3


def test_probabilities_restore_finer_than_labels() -> None:
    shape = (130, 120)
    label = disc(shape)
    one_hot: Float32 = np.stack([label == k for k in range(3)]).astype(np.float32)
    _, on_grid, geometry = preprocess(make_case(np.zeros(shape), label), PreprocessConfig(shape=(32, 32)))
    assert on_grid is not None
    soft = pad_to_grid(resize_linear(one_hot, geometry.resized_shape), geometry)
    back = restore_probabilities(soft, geometry)
    assert back.labels.dtype == np.uint8
    assert dice(back.labels, label) > max(0.985, dice(restore(on_grid, geometry).labels, label))


def test_channels_to_native_agrees_with_restore() -> None:
    _, on_grid, geometry = preprocess(
        make_case(np.zeros((50, 37)), disc((50, 37)), (1.0, 0.7)), PreprocessConfig()
    )
    assert on_grid is not None
    one_hot: Float32 = np.stack([on_grid == k for k in range(3)]).astype(np.float32)
    np.testing.assert_array_equal(
        channels_to_native(one_hot, geometry).argmax(0), restore(on_grid, geometry).labels
    )


def test_geometry_survives_json() -> None:
    geometry = preprocess(make_case(np.zeros((7, 9)), spacing=(0.1, 1 / 3)), PreprocessConfig())[2]
    assert Geometry.model_validate_json(geometry.model_dump_json()) == geometry
