"""Damage does harm, the same at every resolution, in known classes, and replays from its record's JSON."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from scipy import ndimage

from reward_data.distortions import Contrast, Identity, Noise, Swap, WeightNoise
from reward_data.mask_damage import (
    Affine,
    Damage,
    Fault,
    MaskDamage,
    Morph,
    Warp,
    damage_mask,
    foreground_size,
)
from reward_data.reward_store import Provenance
from reward_data.types import UInt8

FAULTS: tuple[Fault, ...] = get_args(Fault)
RECORDS: dict[str, MaskDamage] = {
    **{what: Damage(what=what, size=0.25, seed=3) for what in FAULTS},
    **{
        f"{operation}_{value}": Morph(operation=operation, class_value=value, radius=0.1)
        for operation in ("erode", "dilate")
        for value in (1, 2)
    },
    "warp": Warp(strength=0.1, length=0.6, seed=3),
    "affine": Affine(rotation_degrees=12, scale=1.15, shift=(0.1, -0.08)),
}
DAMAGED = pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS.keys())


def ventricle(size: int = 64) -> UInt8:
    """Half an ellipse of LV (1) within its wall (2), apex up, open at the base in row 0.7 of the grid."""
    rows, columns = (np.mgrid[:size, :size] + 0.5) / size
    down, across = (rows - 0.65) / 0.45, columns - 0.5
    above = rows < 0.7
    inner = (down / 0.8) ** 2 + (across / 0.14) ** 2 <= 1
    outer = down**2 + (across / 0.22) ** 2 <= 1
    return np.where(inner & above, 1, np.where(outer & above, 2, 0)).astype(np.uint8)


def changed(record: MaskDamage, mask: UInt8) -> float:
    """Changed pixels as a share of the foreground."""
    return float(np.count_nonzero(damage_mask(record, mask) != mask) / np.count_nonzero(mask))


@DAMAGED
def test_a_typical_mask_is_changed_but_stays_a_mask(record: MaskDamage) -> None:
    mask = ventricle()
    before = mask.copy()
    damaged = damage_mask(record, mask)
    assert 0.01 < changed(record, mask) < 1.5
    assert damaged.shape == mask.shape
    assert damaged.dtype == np.uint8
    assert set(np.unique(damaged)) <= {0, 1, 2}
    assert np.array_equal(mask, before)  # the input is left alone


@DAMAGED
def test_equal_records_give_equal_masks(record: MaskDamage) -> None:
    first = damage_mask(record, ventricle())
    np.random.default_rng().random(5)
    assert np.array_equal(first, damage_mask(record.model_copy(), ventricle()))


@pytest.mark.parametrize("what", ["cut_wall", "hole", "fill", "leak", "island", "warp"])
def test_another_seed_gives_another_mask(what: str) -> None:
    record = RECORDS[what]
    masks = {
        damage_mask(record.model_copy(update={"seed": seed}), ventricle()).tobytes() for seed in range(6)
    }
    assert len(masks) > 1


@pytest.mark.parametrize("seed", range(4))
@DAMAGED
def test_the_harm_is_the_same_at_64_and_256(record: MaskDamage, seed: int) -> None:
    if isinstance(record, Warp | Damage):
        record = record.model_copy(update={"seed": seed})
    small, large = changed(record, ventricle(64)), changed(record, ventricle(256))
    # A ball on a border loses more or less of itself depending on the pixel that the seed hits, and on which class an
    # island takes nothing depends; sizes in pixels instead of shares would differ by 4 in radius, 16 in area.
    assert 1 / 2.5 < small / large < 2.5


def test_sizes_by_hand_at_two_resolutions() -> None:
    for size in (64, 256):
        mask = np.zeros((size, size), np.uint8)
        quarter = size // 4
        mask[quarter : 3 * quarter, quarter : 3 * quarter] = 1  # a square of side size / 2
        assert foreground_size(mask) == size / 2
        # an eighth of its rows is gone: size / 16 rows of size / 2 pixels
        cut = damage_mask(Damage(what="cut_end", size=0.125, seed=0), mask)
        assert np.count_nonzero(cut != mask) == size // 16 * (size // 2)
        # radius 1/16 of the side: size / 32 pixels are lost at each border
        eroded = damage_mask(Morph(operation="erode", class_value=1, radius=1 / 16), mask)
        assert np.count_nonzero(eroded) == (size // 2 - 2 * (size // 32)) ** 2
        # the hole's diameter is `size` times the side: area pi / 4 * (0.25 * size / 2)^2, one pixel more or less around
        hole = damage_mask(Damage(what="hole", size=0.25, seed=1), mask)
        expected, rim = np.pi / 4 * (size / 8) ** 2, np.pi * size / 8
        assert abs(np.count_nonzero(hole != mask) - expected) <= rim


@pytest.mark.parametrize("what", ["cut_end", "cut_wall", "hole", "fill"])
def test_a_larger_fault_never_harms_less(what: Fault) -> None:
    mask = ventricle()
    for seed in range(5):
        harm = [changed(Damage(what=what, size=size, seed=seed), mask) for size in (0.1, 0.3, 1.0, 1.6, 3.0)]
        assert harm == sorted(harm)


def test_what_kind_of_fault_each_is() -> None:
    mask = ventricle()
    made = {name: damage_mask(record, mask) for name, record in RECORDS.items()}
    holes = ndimage.binary_fill_holes(made["hole"] > 0) & (made["hole"] == 0)
    assert np.array_equal(holes, made["hole"] != mask)  # all of the harm is one enclosed hole
    assert ndimage.label(made["island"])[1] == 2
    assert np.array_equal(made["island"][mask > 0], mask[mask > 0])
    assert (made["leak"] == 1)[mask == 0].any()  # LV outside of the heart
    rows = np.flatnonzero(mask.any(1))
    assert np.array_equal(made["flip"][rows], mask[rows][::-1])
    assert [(mask == v).sum() for v in (1, 2)] == [(made["flip"] == v).sum() for v in (1, 2)]
    for value in (1, 2):
        assert (made[f"erode_{value}"] == value).sum() < (mask == value).sum()
        assert (made[f"dilate_{value}"] == value).sum() > (mask == value).sum()
        assert (made[f"dilate_{value}"] == value)[mask == value].all()
        assert (mask == value)[made[f"erode_{value}"] == value].all()
    # the eroded LV leaves no ring of background within the wall, only the open base can become background
    lost = (made["erode_1"] == 0) & (mask == 1)
    assert set(np.flatnonzero(lost.any(1))) <= set(rows[-8:])


def test_both_ends_can_be_cut_the_base_more_often() -> None:
    mask = ventricle()
    last = np.flatnonzero(mask.any(1))[-1]
    base = sum(
        not damage_mask(Damage(what="cut_end", size=0.2, seed=seed), mask)[last].any() for seed in range(200)
    )
    assert 115 <= base <= 165  # 200 draws at .7: 140, standard deviation 6.5


def test_drop_class_drops_each_class_at_times() -> None:
    left = {
        tuple(np.unique(damage_mask(Damage(what="drop_class", size=0.3, seed=seed), ventricle())))
        for seed in range(20)
    }
    assert left == {(0, 1), (0, 2)}


def odd_masks() -> dict[str, UInt8]:
    corner, halves = np.zeros((12, 9), np.uint8), np.ones((12, 9), np.uint8)
    corner[0, 0], halves[:6] = 2, 2
    return {
        "empty": np.zeros((12, 9), np.uint8),
        "one pixel in a corner": corner,
        "full": np.ones((12, 9), np.uint8),
        "full of two classes": halves,
        "one row": np.array([[0, 1, 1, 2, 0]], np.uint8),
        "one pixel of one": np.ones((1, 1), np.uint8),
        "full volume": np.ones((5, 6, 7), np.uint8),
        "empty volume": np.zeros((5, 6, 7), np.uint8),
    }


@pytest.mark.parametrize("name", odd_masks())
@DAMAGED
def test_odd_masks(record: MaskDamage, name: str) -> None:
    mask = odd_masks()[name]
    for size in (0.01, 1.0):
        if isinstance(record, Damage):
            record = record.model_copy(update={"size": size})
        damaged = damage_mask(record, mask)
        assert damaged.shape == mask.shape
        assert damaged.dtype == np.uint8
        assert set(np.unique(damaged)) <= {0, 1, 2}
        if not mask.any() and getattr(record, "what", None) != "island":
            assert not damaged.any()


def test_a_volume_is_damaged_in_all_its_axes() -> None:
    mask = np.zeros((20, 20, 20), np.uint8)
    mask[5:15, 5:15, 5:15] = 1
    assert foreground_size(mask) == pytest.approx(10)
    moved = damage_mask(Affine(rotation_degrees=0, scale=1, shift=(0.1, -0.2, 0.3)), mask)
    assert np.array_equal(moved, np.roll(mask, (1, -2, 3), (0, 1, 2)))
    # the 8 corners apart: radius 1 takes the 6 faces of 10 x 10
    dilated = damage_mask(Morph(operation="dilate", class_value=1, radius=0.1), mask)
    assert np.count_nonzero(dilated) == 1000 + 6 * 100
    for name in ("hole", "cut_wall", "leak", "island", "warp"):
        assert (damage_mask(RECORDS[name], mask) != mask).any(), name


positive = st.floats(1e-6, 10, allow_nan=False)
finite = st.floats(-1e6, 1e6, allow_nan=False)
seeds = st.integers(0, 2**31 - 1)
ANY_RECORD = st.one_of(
    st.just(Identity()),
    st.builds(Swap, other_id=st.text()),
    st.builds(WeightNoise, sigma=positive, seed=seeds),
    st.builds(Contrast, factor=positive),
    st.builds(Noise, sigma=positive, seed=seeds),
    st.builds(
        Morph,
        operation=st.sampled_from(["erode", "dilate"]),
        class_value=st.integers(1, 255),
        radius=positive,
    ),
    st.builds(Warp, strength=positive, length=positive, seed=seeds),
    st.builds(Affine, rotation_degrees=finite, scale=positive, shift=st.lists(finite, max_size=3).map(tuple)),
    st.builds(Damage, what=st.sampled_from(FAULTS), size=positive, seed=seeds),
)


@given(ANY_RECORD)
def test_any_record_comes_back_from_json_as_itself(record: object) -> None:
    adapter: TypeAdapter[object] = TypeAdapter(Provenance)
    again = adapter.validate_json(adapter.dump_json(record))
    assert again == record
    assert type(again) is type(record)


SMALL = st.floats(0.01, 0.5)


@given(
    st.one_of(
        st.builds(
            Morph,
            operation=st.sampled_from(["erode", "dilate"]),
            class_value=st.sampled_from([1, 2]),
            radius=SMALL,
        ),
        st.builds(Warp, strength=SMALL, length=st.floats(0.2, 2), seed=seeds),
        st.builds(
            Affine,
            rotation_degrees=st.floats(-180, 180),
            scale=st.floats(0.5, 2),
            shift=st.tuples(SMALL, SMALL),
        ),
        st.builds(Damage, what=st.sampled_from(FAULTS), size=SMALL, seed=seeds),
    )
)
def test_a_record_from_json_does_the_same_harm(record: MaskDamage) -> None:
    again: MaskDamage = TypeAdapter(MaskDamage).validate_json(record.model_dump_json())
    assert np.array_equal(damage_mask(record, ventricle(32)), damage_mask(again, ventricle(32)))


def test_unknown_faults_and_sizes_of_nothing_are_refused() -> None:
    for bad in ({"what": "bend"}, {"size": 0}, {"size": -1}, {"depth": 1}):
        with pytest.raises(ValidationError):
            Damage.model_validate({"what": "hole", "size": 0.3, "seed": 1} | bad)
