"""The simulated scanner: what is drawn, what each part does to an image with a known answer, what it leaves alone."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from reward_data.errors import DataError
from reward_data.phantom import PhantomConfig
from reward_data.readers import DatasetConfig, read_cases
from reward_data.scanner_shift import (
    PRESETS,
    ScannerShift,
    Shadow,
    ShiftRecord,
    apply_shift,
    draw_shift,
    shift_case,
)
from reward_data.types import Case

NOTHING = ShiftRecord(
    shadows=(), gamma=1, attenuation=0, blur=(0, 0), speckle=0, speckle_size=(0.01, 0.02), speckle_seed=0,
    haze=0, haze_decay=0.2, contrast=1, floor=0.1,
)  # fmt: skip


def sector(size: int = 64, grey: float = 0.5) -> np.ndarray:
    """A wedge of 45 degrees to either side below the middle of the top row; one white pixel sets the range to 1."""
    rows, columns = np.mgrid[:size, :size]
    inside = (np.abs(columns - (size - 1) / 2) <= rows + 0.5) & (rows < size - 2)
    image = np.where(inside, grey, 0).astype(np.float32)
    image[size - 3, 2] = 1.0
    return image[None]


def case(image: np.ndarray, case_id: str = "a") -> Case:
    label = np.ones(image.shape[1:], np.uint8)
    return Case(case_id, case_id, "t", None, image, label, (1.0,) * (image.ndim - 1), np.eye(4))


def test_a_record_that_does_nothing_returns_the_image() -> None:
    image = sector() * 200 + 7  # a native range of its own: 7..207
    assert np.allclose(apply_shift(image, NOTHING), image, atol=1e-4)


def test_outside_the_sector_stays_and_the_range_is_kept() -> None:
    image = sector() * 255
    for name in PRESETS:
        shifted = apply_shift(image, draw_shift(ScannerShift.named(name), "a"))
        assert (shifted[image == 0] == 0).all()
        assert shifted.min() >= 0
        assert shifted.max() <= 255.001
        assert np.abs(shifted - image)[image > 0].mean() > 5


def test_a_dark_hole_inside_the_sector_belongs_to_it() -> None:
    image = sector()
    image[0, 30:34, 30:34] = 0
    shifted = apply_shift(image, NOTHING.model_copy(update={"haze": 0.3, "haze_decay": 100.0}))
    # haze .3 at every depth (decay 100: exp(-.5 / 100) = .995)
    assert np.allclose(shifted[0, 30:34, 30:34], 0.3, atol=0.01)


def test_gamma_and_contrast_by_hand() -> None:
    image = sector()
    assert np.allclose(
        apply_shift(image, NOTHING.model_copy(update={"gamma": 2.0}))[0, 40, 30], 0.25, atol=1e-5
    )  # .5 ^ 2
    shifted = apply_shift(image, NOTHING.model_copy(update={"contrast": 0.5}))
    assert np.allclose(shifted[0, 40, 30], 0.3, atol=1e-5)  # .1 + .5 (.5 - .1)


def test_attenuation_and_haze_follow_the_depth() -> None:
    image = sector()
    # The farthest pixels of the wedge: row 61, columns 0 and 63; apex at row 0, column 31.5: sqrt(61² + 31.5²) = 68.65.
    # Row 34, column 31: sqrt(34² + .5²) = 34.004, a relative depth of .4953; exp(-.4953) x .5 = .3047
    faded = apply_shift(image, NOTHING.model_copy(update={"attenuation": 1.0}))
    assert np.allclose(faded[0, 34, 31], 0.3047, atol=2e-3)
    # .5 + .2 exp(-.4953 / .5) = .5 + .2 x .3713 = .5743
    hazed = apply_shift(image, NOTHING.model_copy(update={"haze": 0.2, "haze_decay": 0.5}))
    assert np.allclose(hazed[0, 34, 31], 0.5743, atol=2e-3)


def test_a_shadow_lies_along_its_scan_line_below_its_start() -> None:
    shadow = Shadow(beam=0.0, width=0.2, strength=0.8, start=0.5)
    shifted = apply_shift(sector(), NOTHING.model_copy(update={"shadows": (shadow,)}))[0]
    assert np.allclose(shifted[55, 31], 0.1, atol=0.01)  # .5 (1 - .8), in its middle
    assert np.allclose(shifted[10, 31], 0.5, atol=0.001)  # above its start
    assert np.allclose(shifted[55, 5], 0.5, atol=0.01)  # another scan line
    left = apply_shift(
        sector(), NOTHING.model_copy(update={"shadows": (shadow.model_copy(update={"beam": -0.6}),)})
    )
    assert left[0, 55, :31].min() < 0.15
    assert np.allclose(left[0, 55, 33:], 0.5, atol=0.01)


def test_blur_does_not_darken_the_edge_of_the_sector() -> None:
    shifted = apply_shift(sector(), NOTHING.model_copy(update={"blur": (0.03, 0.03)}))[0]
    inside = sector()[0] == 0.5
    assert (shifted[inside] > 0.499).all()  # brighter beside the white pixel, nowhere darker


def test_speckle_keeps_the_mean_and_has_the_spread_of_rayleigh_noise() -> None:
    image = sector(256)
    record = NOTHING.model_copy(update={"speckle": 0.4, "speckle_size": (0.004, 0.004)})
    values = apply_shift(image, record)[0][image[0] == 0.5]
    # Rayleigh noise of mean 1 has the standard deviation sqrt(4 / pi - 1) = .523: .5 x .4 x .523 = .105
    assert np.isclose(values.mean(), 0.5, atol=0.01)
    assert np.isclose(values.std(), 0.105, atol=0.01)


def test_lengths_are_shares_of_the_image() -> None:
    """Blurred at 224 px and then reduced, an image is as smooth as one blurred at 56 px."""
    record = NOTHING.model_copy(update={"blur": (0.03, 0.05), "attenuation": 0.5})
    _rows, columns = np.mgrid[:224, :224]
    fine = sector(224)
    fine[0] *= 1 + 0.5 * np.sin(columns * 2 * np.pi / 56)
    fine[0, 200:212, 100:112] = 1.0  # the same range after the reduction
    coarse = fine.reshape(1, 56, 4, 56, 4).mean((2, 4))
    reduced = apply_shift(fine, record).reshape(1, 56, 4, 56, 4).mean((2, 4))
    inside = np.zeros((56, 56), bool)
    inside[30:50, 14:42] = True
    assert np.abs(apply_shift(coarse, record)[0] - reduced[0])[inside].max() < 0.04


def test_draws_depend_on_seed_and_id_alone_and_lie_in_their_ranges() -> None:
    shift = ScannerShift(seed=3)
    record = draw_shift(shift, "a")
    assert record == draw_shift(shift, "a")
    assert record != draw_shift(shift, "b")
    assert record != draw_shift(ScannerShift(seed=4), "a")
    records = [draw_shift(shift, str(number)) for number in range(200)]
    assert {len(r.shadows) for r in records} == {1, 2, 3}
    gammas = [r.gamma for r in records]
    assert min(gammas) >= 0.8
    assert max(gammas) <= 1.3
    assert max(gammas) - min(gammas) > 0.4
    assert all(0.2 / 64 <= r.blur[0] <= 0.4 / 64 and 0.3 / 64 <= r.blur[1] <= 0.8 / 64 for r in records)


def test_the_record_is_the_provenance() -> None:
    """Written and read again, it gives the same image bit by bit."""
    record = draw_shift(ScannerShift.named("haze"), "a")
    again = ShiftRecord.model_validate_json(record.model_dump_json())
    assert np.array_equal(apply_shift(sector(), record), apply_shift(sector(), again))


def test_any_sizes_several_channels_and_slices() -> None:
    shift = ScannerShift()
    wide = np.concatenate([sector(64)[:, :, 8:56], sector(64)[:, :, 8:56] * 0.5])  # two channels, 64 x 48
    assert shift_case(case(wide), shift).image.shape == (2, 64, 48)
    one = sector(48)
    volume = np.stack([one, one, one], axis=-1)
    shifted = shift_case(case(volume), shift)
    assert shifted.image.shape == (1, 48, 48, 3)
    assert np.array_equal(shifted.image[..., 0], shift_case(case(one), shift).image)  # one record per case
    assert not np.array_equal(shifted.image[..., 0], shifted.image[..., 1])  # but speckle of its own
    with pytest.raises(DataError, match=r"wanted \(C, H, W\)"):
        shift_case(case(np.ones((1, 5), np.float32)), shift)


def test_empty_and_constant_images_stay() -> None:
    for image in (np.zeros((1, 8, 8), np.float32), np.full((1, 8, 8), 3, np.float32)):
        assert np.array_equal(shift_case(case(image), ScannerShift()).image, image)
    dot = np.zeros((1, 8, 8), np.float32)
    dot[0, 4, 4] = 1
    assert np.isfinite(shift_case(case(dot), ScannerShift()).image).all()


def test_a_dataset_is_shifted_when_it_is_read_and_its_labels_are_not() -> None:
    phantom = DatasetConfig(format="phantom", phantom=PhantomConfig(cases=4))
    shifted = DatasetConfig.model_validate(phantom.model_dump() | {"shift": "shadow_speckle"})
    assert shifted.shift == ScannerShift()
    for before, after in zip(read_cases(phantom), read_cases(shifted)):
        assert before.id == after.id
        assert np.array_equal(before.label, after.label)
        assert not np.array_equal(before.image, after.image)


def test_a_preset_gives_what_is_not_given() -> None:
    haze = ScannerShift.named("haze")
    assert (haze.speckle, haze.gamma, haze.shadows) == ((0.2, 0.6), (0.5, 1.0), (1, 3))
    own = ScannerShift.model_validate({"preset": "haze", "seed": 4, "speckle": (0.0, 0.0)})
    assert (own.seed, own.speckle, own.gamma) == (4, (0.0, 0.0), (0.5, 1.0))
    assert DatasetConfig.model_validate({"shift": "haze"}).shift == haze
    assert ScannerShift.model_validate_json(own.model_dump_json()) == own


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValidationError, match="Input should be 'shadow_speckle' or 'haze'"):
        DatasetConfig.model_validate({"shift": "fog"})
    with pytest.raises(ValidationError, match=r"gamma .* wanted 0 <= low <= high"):
        ScannerShift(gamma=(1.3, 0.8))
    with pytest.raises(ValidationError, match=r"haze_decay .* more than 0"):
        ScannerShift(haze_decay=(0.0, 0.4))
    with pytest.raises(ValidationError, match=r"speckle .* at most 1"):
        ScannerShift(speckle=(0.0, 1.4))
