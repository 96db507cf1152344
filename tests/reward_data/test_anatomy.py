"""Rule sets, verdicts, and the shipped set against damage planted in drawn and in real masks."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from reward_data.anatomy import is_valid, load_rules, measure, rules_from_yaml, rules_to_yaml, violations
from reward_data.anatomy_fit import resize_labels
from reward_data.errors import ConfigError, DataError

RULES = load_rules("lv_myo")
PUBLIC = load_rules("lv_myo_public")
NUCLEUS = "classes: [background, nucleus]\nrules:\n- {kind: present, structure: nucleus}\n"


def ventricle(size: int, rng: np.random.Generator) -> np.ndarray:
    """A left ventricle (1) in its wall (2): nested ellipses, open at a slanted base between two unequal feet."""
    breadth, length = rng.uniform(0.08, 0.14), rng.uniform(0.22, 0.30)
    wall, tilt = rng.uniform(0.035, 0.055), rng.uniform(-0.25, 0.25)
    rows, columns = (np.mgrid[:size, :size] + 0.5) / size
    down, across = rows - 0.45, columns - 0.5
    y = down * np.cos(tilt) - across * np.sin(tilt)
    x = across * np.cos(tilt) + down * np.sin(tilt)
    base = rng.uniform(0.5, 0.7) * length + rng.uniform(-0.2, 0.2) * x
    feet = base + np.where(x < 0, rng.uniform(0.01, 0.03), rng.uniform(0.03, 0.05))
    inner = ((x / breadth) ** 2 + (y / length) ** 2 <= 1) & (y <= base)
    outer = (x / (breadth + wall)) ** 2 + (y / (length + wall)) ** 2 <= 1
    open_below = (np.abs(x) < breadth * np.sqrt(np.clip(1 - (base / length) ** 2, 0, 1))) & (y > base)
    mask = np.where(outer & (y <= feet) & ~open_below, 2, 0)
    mask[inner] = 1
    return mask.astype(np.uint8)


def box(region: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def disc(mask: np.ndarray, row: float, column: float, radius: float) -> np.ndarray:
    rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
    return (rows - row) ** 2 + (columns - column) ** 2 <= max(radius, 0.8) ** 2


def radius_of(mask: np.ndarray) -> float:
    """One fiftieth of the epicardium's size: about 2 px at 256, half a pixel at 64."""
    return float(np.sqrt(np.count_nonzero(mask)) / 50)


def upside_down(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return mask[::-1].copy()


def base_missing(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    first, last, _, _ = box(mask > 0)
    mask[first + round((last - first) * 2 / 3) :] = 0
    return mask


def wall_cut(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    first, last, _, _ = box(mask == 1)
    middle = first + round((last - first) * rng.uniform(0.3, 0.6))
    half = max(1, round(radius_of(mask)))
    side = np.arange(mask.shape[1]) < np.flatnonzero(mask[middle] == 1).mean()
    band = mask[middle - half : middle + half]
    band[(band == 2) & side] = 0
    return mask


def leak(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    first, last, _, _ = box(mask == 1)
    middle = first + round((last - first) * rng.uniform(0.3, 0.6))
    half = max(1, round(radius_of(mask)))
    side = np.arange(mask.shape[1]) > np.flatnonzero(mask[middle] == 1).mean()
    band = mask[middle - half : middle + half]
    band[(band == 2) & side] = 1
    return mask


def hole_in_lv(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return deep_hole(mask, 1)


def hole_in_myo(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return deep_hole(mask, 2)


def deep_hole(mask: np.ndarray, label: int) -> np.ndarray:
    depth = ndimage.distance_transform_edt(mask == label)
    row, column = np.unravel_index(depth.argmax(), mask.shape)
    mask[disc(mask, row, column, radius_of(mask))] = 0
    return mask


def fragmented(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    far = ndimage.distance_transform_edt(mask == 0) > 5 * radius_of(mask) + 2
    for row, column in rng.permutation(np.argwhere(far))[:3]:
        mask[disc(mask, row, column, 2 * radius_of(mask))] = rng.integers(1, 3)
    return mask


def lv_missing(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.where(mask == 1, 0, mask).astype(np.uint8)


def myo_missing(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.where(mask == 2, 0, mask).astype(np.uint8)


def noise(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    struck = rng.random(mask.shape) < 0.02
    return np.where(struck, rng.integers(0, 3, mask.shape), mask).astype(np.uint8)


def thin_wall(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Take the outer three quarters of the wall away on one side; at least one pixel stays."""
    beyond = ndimage.distance_transform_edt(mask != 1)
    side = np.arange(mask.shape[1]) < np.argwhere(mask == 1)[:, 1].mean()
    outside = ndimage.distance_transform_edt(mask > 0)
    rim = (mask == 1) & ndimage.binary_dilation(mask == 2) & side
    keep = max(1.0, 0.25 * float(np.median(outside[rim])))
    mask[(mask == 2) & side & (beyond > keep)] = 0
    return mask


def shifted_myo(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shift the wall sideways by 15 % of the epicardium's size under a ventricle that stays."""
    by = round(0.15 * np.sqrt(np.count_nonzero(mask))) * rng.choice([-1, 1])
    moved = np.where(np.roll(mask, by, axis=1) == 2, 2, 0)
    return np.where(mask == 1, 1, moved).astype(np.uint8)


DAMAGE = (
    upside_down,
    base_missing,
    wall_cut,
    leak,
    hole_in_lv,
    hole_in_myo,
    fragmented,
    lv_missing,
    myo_missing,
)
DAMAGE += (noise, thin_wall, shifted_myo)


def rejected_share(masks: list[np.ndarray], damage, spacing) -> float:  # type: ignore[no-untyped-def]
    broken = [damage(mask.copy(), np.random.default_rng([7, i])) for i, mask in enumerate(masks)]
    return float(np.mean([not is_valid(mask, RULES, spacing) for mask in broken]))


@pytest.fixture(scope="module", params=[256, 128, 64])
def drawn(request: pytest.FixtureRequest) -> list[np.ndarray]:
    return [ventricle(request.param, np.random.default_rng([3, i])) for i in range(60)]


@pytest.mark.parametrize("rules", [RULES, PUBLIC], ids=["stricter", "public"])
def test_drawn_ventricles_are_accepted_at_every_size(drawn, rules):
    broken = [[str(v) for v in violations(mask, rules, (1.0, 1.0))] for mask in drawn]
    assert not [found for found in broken if found]


@pytest.mark.parametrize("damage", DAMAGE)
def test_planted_damage_is_rejected(drawn, damage):
    assert rejected_share(drawn, damage, (1.0, 1.0)) >= 0.9


def real_masks(root: Path, folder: str, share: int) -> list[tuple[np.ndarray, tuple[float, ...]]]:
    found = []
    for path in sorted((root / folder).glob("*.nii.gz"))[::share]:
        image = nibabel.load(path)
        mask = np.asarray(image.dataobj).astype(np.uint8).reshape(image.shape[:2]).T
        mask[mask == 3] = 0
        found.append((mask, tuple(float(s) for s in image.header.get_zooms()[:2][::-1])))
    assert len(found) >= 100 // share, f"no labels in {folder}"
    return found


@pytest.mark.realdata
@pytest.mark.parametrize("folder", ["Dataset101_CAMUS_A4C/labelsTr", "Dataset102_CAMUS_A2C/labelsTs"])
def test_real_masks_are_accepted_alike_at_every_size(real_data, folder):
    cases = real_masks(real_data, folder, 2)
    native = [is_valid(mask, RULES, spacing) for mask, spacing in cases]
    assert np.mean(native) >= 0.99
    for size, nearest in [(128, False), (64, False), (64, True)]:
        resized = [resize_labels(mask, spacing, (size, size), nearest) for mask, spacing in cases]
        small = [is_valid(mask, RULES, spacing) for mask, spacing in resized]
        assert np.mean(small) >= 0.99
        assert np.mean(np.equal(native, small)) >= 0.99


@pytest.mark.realdata
@pytest.mark.parametrize("size", [None, 128, 64])
def test_damage_planted_in_real_masks_is_rejected(real_data, size):
    cases = real_masks(real_data, "Dataset102_CAMUS_A2C/labelsTs", 2)
    masks = [mask if size is None else resize_labels(mask, s, (size, size))[0] for mask, s in cases]
    shares = {damage.__name__: rejected_share(masks, damage, (1.0, 1.0)) for damage in DAMAGE}
    assert min(shares.values()) >= 0.9, shares


def test_violations_name_the_rule_and_its_value():
    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 20:40] = 1  # 400 of 4096 pixels, no wall
    found = {broken.rule: broken for broken in violations(mask, RULES, (1.0, 1.0))}
    assert found["present(myo)"].value == 0.0
    assert str(found["frontier_ratio(lv, background)"]) == (
        "frontier_ratio(lv, background) = 1 ratio, accepted 0.06 to 0.27"  # its whole border is open
    )


@pytest.mark.parametrize("fill", [0, 1, 2])
def test_empty_full_and_one_pixel_masks_are_judged(fill):
    for mask in (
        np.full((32, 32), fill, np.uint8),
        np.full((1, 1), fill, np.uint8),
        np.zeros((32, 32), np.uint8),
    ):
        mask[0, 0] = fill
        assert not is_valid(mask, RULES, (1.0, 1.0))
        assert violations(mask, RULES, (1.0, 1.0))
        assert violations(mask, PUBLIC, (1.0, 1.0))


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(["noise", "blobs", "ventricle", "damaged"]))
def test_verdict_and_measurements_agree(seed, kind):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 40, 2))
    mask = rng.integers(0, 3, shape).astype(np.uint8)
    if kind == "blobs":
        smooth = [ndimage.gaussian_filter(rng.normal(size=shape), 3) for _ in range(3)]
        mask = np.argmax(smooth, axis=0).astype(np.uint8)
    elif kind != "noise":
        mask = ventricle(48, rng)
        mask = mask if kind == "ventricle" else DAMAGE[rng.integers(len(DAMAGE))](mask, rng)
    spacing = tuple(rng.uniform(0.3, 2.0, 2))
    for rules in (RULES, PUBLIC):
        assert is_valid(mask, rules, spacing) == all(taken.ok for taken in measure(mask, rules, spacing))


def test_verdict_is_free_of_the_unit_of_spacing():
    """Ten times the spacing on both axes is another unit of length: shares stay, so verdicts stay."""
    mask = ventricle(96, np.random.default_rng(5))
    near = [taken.value for taken in measure(mask, RULES, (0.5, 0.8))]
    assert np.allclose(near, [taken.value for taken in measure(mask, RULES, (5.0, 8.0))], rtol=1e-9)


def test_another_modality_loads_and_judges_3d():
    rules = rules_from_yaml(
        NUCLEUS + "- {kind: one_piece, structure: nucleus}\n- {kind: no_hole, structure: nucleus}\n"
        "- {kind: area, structure: nucleus, relative_to: mm, low: 50}\n",
        "nucleus",
    )
    cube = np.zeros((8, 9, 10), np.uint8)
    cube[2:6, 2:6, 2:6] = 1  # 64 voxels of 1 x 1 x 2 mm = 128 mm3
    assert [taken.value for taken in measure(cube, rules, (1.0, 1.0, 2.0))] == [64 / 720, 0.0, 0.0, 128.0]
    cube[3, 3, 3] = 0  # enclosed on all six sides
    assert [taken.rule for taken in violations(cube, rules, (1.0, 1.0, 2.0))] == ["no_hole(nucleus)"]
    with pytest.raises(ConfigError, match=r"solidity.*2-D"):
        is_valid(
            cube, rules_from_yaml(NUCLEUS + "- {kind: solidity, structure: nucleus}\n", "n"), (1.0, 1.0, 2.0)
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            NUCLEUS + "- {kind: area, structure: nucleos, low: 0}\n",
            "unknown class 'nucleos'; did you mean 'nucleus'",
        ),
        (NUCLEUS + "- {kind: arae, structure: nucleus}\n", "unknown rule kind 'arae'; did you mean 'area'"),
        (NUCLEUS + "- {kind: area, structure: nucleus, hihg: 1}\n", "hihg"),
        (NUCLEUS + "- {kind: area, structure: nucleus, low: 2, high: 1}\n", "above high"),
        (NUCLEUS + "- {kind: present, structure: nucleus}\n", "two rules are called"),
        (NUCLEUS + "- {kind: area, structure: background}\n", "measures the background"),
        (NUCLEUS + "- just text\n", "rules"),
        ("[1, 2", "not YAML"),
        ("- 1", "want a mapping"),
    ],
)
def test_a_broken_rule_set_is_one_clear_error(text, message):
    with pytest.raises(ConfigError, match=message):
        rules_from_yaml(text, "mine.yaml")


def test_unusable_masks_and_names_are_clear_errors():
    with pytest.raises(ConfigError, match="lv_myo_public"):
        load_rules("lv_mio")
    with pytest.raises(DataError, match="label value 3"):
        is_valid(np.full((4, 4), 3, np.uint8), RULES, (1.0, 1.0))
    with pytest.raises(DataError, match="spacing"):
        is_valid(np.zeros((4, 4), np.uint8), RULES, (1.0,))


def test_yaml_round_trip():
    for rules in (RULES, PUBLIC):
        assert rules_from_yaml(rules_to_yaml(rules), "copy") == rules
