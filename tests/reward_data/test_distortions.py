"""Records are drawn from the generator alone, replay exactly, and do what they say at every size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from scipy import ndimage

from reward_data.distortions import (
    Contrast,
    Distortion,
    DistortionConfig,
    Identity,
    IdentityConfig,
    ImageConfig,
    ModelConfig,
    Noise,
    Swap,
    SwapConfig,
    WeightNoise,
    distort_image,
    replay,
    sample_distortions,
    weight_noises,
)
from reward_data.mask_damage import Affine, Damage, Morph, Warp, damage_mask
from reward_data.types import Float32

FAULTS = ("cut_end", "cut_wall", "hole", "fill", "leak", "island", "flip", "drop_class")


def nested(size: int = 64) -> np.ndarray:
    """Class 1 within class 2, both open at the base (the lowest rows): 44 % x 34 % of the grid."""
    mask = np.zeros((size, size), np.uint8)
    unit = size // 32
    mask[10 * unit : 24 * unit, 10 * unit : 21 * unit] = 2
    mask[13 * unit : 24 * unit, 13 * unit : 18 * unit] = 1
    return mask


class Threshold:
    """Class = number of levels below the intensity; perturbing moves the levels."""

    num_classes = 3

    def __init__(self, levels: tuple[float, float] = (0.3, 0.6)) -> None:
        self.levels = levels

    def probabilities(self, images: Float32) -> Float32:
        value = sum((images[:, 0] > level).astype(int) for level in self.levels)
        return np.moveaxis(np.eye(3, dtype=np.float32)[value], -1, 1)

    def perturbed(self, sigma: float, seed: int) -> Threshold:
        shift = sigma * np.random.default_rng(seed).standard_normal(2)
        return Threshold((self.levels[0] + shift[0], self.levels[1] + shift[1]))


def draw(config: DistortionConfig, seed: int = 0) -> tuple[Distortion, ...]:
    return sample_distortions(config, 3, ("a", "b", "c"), np.random.default_rng(seed))


@given(st.integers(0, 10_000))
def test_every_drawn_record_survives_json_and_replays_exactly(seed: int) -> None:
    mask, image = nested(), np.random.default_rng(seed).random((1, 64, 64), np.float32)
    others = {name: np.roll(mask, n + 1, 0) for n, name in enumerate("abc")}
    config = DistortionConfig()
    records = (*draw(config, seed), *weight_noises(config.model, seed))
    assert records == (*draw(config, seed), *weight_noises(config.model, seed))
    for record in records:
        again = TypeAdapter(Distortion).validate_json(record.model_dump_json())
        first = replay(record, mask, image, others.__getitem__, Threshold())
        assert np.array_equal(first, replay(again, mask, image, others.__getitem__, Threshold()))
        assert first.dtype == np.uint8
        assert first.shape == mask.shape


def test_default_families_and_counts() -> None:
    kinds = [record.kind for record in draw(DistortionConfig())]
    # identity, swap, contrast .7 and .8, noise .05 and .1, morph, warp + affine, damage
    assert kinds == [
        "identity", "swap", "contrast", "contrast", "noise", "noise", "morph", "warp", "affine", "damage"
    ]  # fmt: skip
    assert [r.sigma for r in weight_noises(ModelConfig(), 0)] == [0.005, 0.01, 0.015, 0.02]


@pytest.mark.parametrize("family", ["identity", "swap", "image", "morphology", "warp", "damage"])
def test_a_family_switched_off_takes_only_its_own_records_away(family: str) -> None:
    kinds = {
        "identity": {"identity"}, "swap": {"swap"}, "image": {"contrast", "noise"},
        "morphology": {"morph"}, "warp": {"warp", "affine"}, "damage": {"damage"},
    }[family]  # fmt: skip
    off = DistortionConfig.model_validate({family: {"enabled": False}})
    assert draw(off) == tuple(record for record in draw(DistortionConfig()) if record.kind not in kinds)


def test_weight_noise_off_and_many() -> None:
    assert weight_noises(ModelConfig(enabled=False), 0) == ()
    records = weight_noises(ModelConfig(sigmas=(0.1, 0.1), count=2), 0)
    assert len({record.seed for record in records}) == 4  # no network twice


def test_swaps_are_different_others_and_never_more_than_there_are() -> None:
    config = DistortionConfig(swap=SwapConfig(count=9))
    chosen = [record.other_id for record in draw(config) if isinstance(record, Swap)]
    assert sorted(chosen) == ["a", "b", "c"]
    assert not any(isinstance(r, Swap) for r in sample_distortions(config, 3, (), np.random.default_rng(0)))


def test_identity_share() -> None:
    config = DistortionConfig(identity=IdentityConfig(share=0.25))
    count = sum(any(isinstance(r, Identity) for r in draw(config, seed)) for seed in range(400))
    assert 70 <= count <= 130  # 400 draws at .25: 100, standard deviation 8.7


def test_distorted_images_go_to_the_clean_policy() -> None:
    # intensities .35 and .7; times .7 they are .245 (below .3: class 0) and .49 (class 1)
    image = np.array([[[0.35, 0.7]]], np.float32)
    mask = np.array([[1, 2]], np.uint8)
    proposed = replay(Contrast(factor=0.7), mask, image, {}.__getitem__, Threshold())
    assert proposed.tolist() == [[0, 1]]


def test_weight_noise_sees_the_clean_image() -> None:
    image = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 8, 8)
    record = WeightNoise(sigma=0.2, seed=3)
    noisy = Threshold().perturbed(0.2, 3).probabilities(image[None]).argmax(1)[0]
    assert np.array_equal(
        replay(record, np.zeros((8, 8), np.uint8), image, {}.__getitem__, Threshold()), noisy
    )
    assert not np.array_equal(noisy, Threshold().probabilities(image[None]).argmax(1)[0])


def test_image_noise_has_its_sigma_and_stays_in_range() -> None:
    grey = np.full((1, 100, 100), 0.5, np.float32)
    noisy = distort_image(Noise(sigma=0.1, seed=1), grey)
    assert noisy.std() == pytest.approx(0.1, rel=0.03)
    assert noisy.dtype == np.float32
    assert distort_image(Noise(sigma=0.5, seed=1), grey).min() == 0


@pytest.mark.parametrize("what", FAULTS)
@pytest.mark.parametrize("size", [32, 64, 128])
def test_faults_change_the_mask_and_only_know_its_classes(what: str, size: int) -> None:
    mask = nested(size)
    before = mask.copy()
    damaged = damage_mask(Damage(what=what, size=0.3, seed=1), mask)
    assert np.array_equal(mask, before)
    assert 0.005 < (damaged != mask).mean() < 0.4
    assert set(np.unique(damaged)) <= {0, 1, 2}


def test_what_each_fault_does() -> None:
    mask = nested()
    made = {what: damage_mask(Damage(what=what, size=0.25, seed=2), mask) for what in FAULTS}

    def pieces(region: np.ndarray) -> int:
        return ndimage.label(region, np.ones((3, 3)))[1]

    assert (ndimage.binary_fill_holes(made["hole"] > 0) & (made["hole"] == 0)).any()
    assert pieces(made["island"] > 0) == 2
    assert np.array_equal(made["flip"][20:48], mask[20:48][::-1])  # rows 20..47 hold the mask
    assert (made["leak"] == 1).sum() > (mask == 1).sum()
    assert set(mask[made["fill"] != mask]) == {1}
    assert set(made["fill"][made["fill"] != mask]) == {2}
    assert set(mask[made["cut_wall"] != mask]) == {2}
    assert len(np.unique(made["drop_class"])) == 2
    # a quarter of 28 rows is 7; seed 2 draws .26 < .7, the lower end
    assert not made["cut_end"][41:].any()
    assert np.array_equal(made["cut_end"][:41], mask[:41])


def test_morph_radius_is_a_share_of_the_size() -> None:
    square = np.zeros((60, 60), np.uint8)
    square[20:40, 20:40] = 1  # size 20: radius .1 is 2 pixels
    eroded = damage_mask(Morph(operation="erode", class_value=1, radius=0.1), square)
    assert (eroded == 1).sum() == 16 * 16
    dilated = damage_mask(Morph(operation="dilate", class_value=1, radius=0.1), square)
    # 4 sides of 2 x 20, and in each corner the pixels within distance 2: (1, 1) alone of (1..2)^2
    assert (dilated == 1).sum() == 400 + 4 * 40 + 4


def test_eroded_inner_class_goes_to_its_neighbour_not_to_background() -> None:
    mask = np.full((40, 40), 0, np.uint8)
    mask[8:32, 8:32] = 2
    mask[14:26, 14:26] = 1
    eroded = damage_mask(Morph(operation="erode", class_value=1, radius=0.1), mask)
    assert np.array_equal(eroded > 0, mask > 0)
    assert (eroded == 1).sum() < (mask == 1).sum()


def test_affine_by_hand() -> None:
    square = np.zeros((60, 60), np.uint8)
    square[20:40, 20:40] = 1
    moved = damage_mask(Affine(rotation_degrees=0, scale=1, shift=(0.25, -0.5)), square)  # 5 down, 10 left
    assert np.array_equal(moved, np.roll(square, (5, -10), (0, 1)))
    turned = damage_mask(Affine(rotation_degrees=90, scale=1, shift=(0, 0)), nested())
    centre = [axis.mean() for axis in np.nonzero(turned)]
    assert np.allclose(centre, [axis.mean() for axis in np.nonzero(nested())], atol=1)
    assert (turned == 1).sum() == pytest.approx((nested() == 1).sum(), rel=0.05)
    grown = damage_mask(Affine(rotation_degrees=0, scale=1.2, shift=(0, 0)), square)
    assert grown.sum() == pytest.approx(1.44 * 400, rel=0.1)


def test_same_record_does_the_same_harm_at_another_resolution() -> None:
    for record in (Warp(strength=0.1, length=0.6, seed=4), Damage(what="cut_end", size=0.3, seed=4)):
        shares = [(damage_mask(record, nested(size)) != nested(size)).mean() for size in (64, 128)]
        assert shares[0] == pytest.approx(shares[1], rel=0.5)


@pytest.mark.parametrize("shape", [(16, 16), (9, 14), (8, 8, 8)])
@pytest.mark.parametrize("pixels", [0, 1])
def test_empty_and_one_pixel_masks_of_any_dimension(shape: tuple[int, ...], pixels: int) -> None:
    mask = np.zeros(shape, np.uint8)
    mask[tuple(s // 2 for s in shape)] = 2 * pixels
    records = [Damage(what=what, size=0.3, seed=0) for what in FAULTS]
    records += [Morph(operation=o, class_value=v, radius=0.1) for o in ("erode", "dilate") for v in (1, 2)]
    records += [
        Warp(strength=0.1, length=0.5, seed=0),
        Affine(rotation_degrees=9, scale=1.1, shift=(0.1,) * 3),
    ]
    for record in records:
        damaged = damage_mask(record, mask)
        assert damaged.shape == shape
        assert damaged.dtype == np.uint8
        if not pixels and not (isinstance(record, Damage) and record.what == "island"):
            assert not damaged.any()


def test_configs_refuse_nonsense() -> None:
    for bad in ({"contrasts": [0]}, {"noises": [-1]}, {"count": 0}, {"contrast": [0.7]}):
        with pytest.raises(ValidationError):
            ImageConfig.model_validate(bad)


class Recorder(Threshold):
    """Keeps the images that it and its noisy copies are asked about."""

    def __init__(self, name: str = "clean", log: list[tuple[str, Float32]] | None = None) -> None:
        super().__init__()
        self.name = name
        self.log: list[tuple[str, Float32]] = [] if log is None else log

    def probabilities(self, images: Float32) -> Float32:
        self.log.append((self.name, images))
        return super().probabilities(images)

    def perturbed(self, sigma: float, seed: int) -> Recorder:
        return Recorder(f"{sigma} {seed}", self.log)


@pytest.mark.parametrize(
    ("record", "asked"),
    [
        (Contrast(factor=0.7), "clean"),
        (Noise(sigma=0.1, seed=5), "clean"),
        (WeightNoise(sigma=0.01, seed=6), "0.01 6"),
    ],
)
def test_replay_asks_one_policy_once(record: Contrast | Noise | WeightNoise, asked: str) -> None:
    """A distorted image goes to the clean policy, the clean image to the noisy one; nothing is distorted twice."""
    image, segmenter = np.random.default_rng(0).random((1, 8, 8), np.float32), Recorder()
    replay(record, np.zeros((8, 8), np.uint8), image, {}.__getitem__, segmenter)
    [(name, seen)] = segmenter.log
    assert name == asked
    expected = image if isinstance(record, WeightNoise) else distort_image(record, image)
    assert np.array_equal(seen, expected[None])


def test_records_of_masks_ask_no_policy() -> None:
    mask, other, segmenter = nested(), np.roll(nested(), 5, 0), Recorder()
    image = np.zeros((1, 64, 64), np.float32)
    for record in (Swap(other_id="b"), Identity(), Morph(operation="erode", class_value=1, radius=0.1)):
        replay(record, mask, image, {"b": other}.__getitem__, segmenter)
    assert not segmenter.log
    swapped = replay(Swap(other_id="b"), mask, image, {"a": mask, "b": other}.__getitem__, segmenter)
    assert np.array_equal(swapped, other)
    swapped[:] = 0
    assert other.any()  # a copy, not the other image's mask itself
