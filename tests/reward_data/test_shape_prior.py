"""The shape prior keeps plausible masks, mends others, wherever and however large they are."""

from __future__ import annotations

import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest

from reward_data.correction import agreement
from reward_data.errors import ArtifactError, DataError
from reward_data.mask_damage import Damage, damage_mask
from reward_data.shape_prior import ShapePrior
from tests.reward_data.test_anatomy import ventricle


def ventricles(count: int, size: int = 64, stream: int = 0) -> np.ndarray:
    return np.stack([ventricle(size, np.random.default_rng([stream, n])) for n in range(count)])


PRIOR = ShapePrior.fit(ventricles(80), 3, 30)


def least(mask: np.ndarray, prior: ShapePrior = PRIOR) -> float:
    return float(agreement(mask, prior.reconstruct(mask), 3).min())


def test_new_plausible_masks_come_back() -> None:
    scores = [least(mask) for mask in ventricles(20, stream=1)]
    assert np.mean(np.array(scores) > 0.93) >= 0.9


@pytest.mark.parametrize("what", ["flip", "hole", "drop_class"])
def test_implausible_masks_do_not(what: str) -> None:
    scores = [least(damage_mask(Damage(what=what, size=0.4, seed=n), m)) for n, m in enumerate(ventricles(8))]
    assert max(scores) < 0.93


def test_place_and_size_do_not_matter() -> None:
    mask = ventricle(64, np.random.default_rng(5))
    moved = np.roll(mask, (3, -6), (0, 1))
    expected = np.roll(PRIOR.reconstruct(mask), (3, -6), (0, 1))
    assert (
        PRIOR.reconstruct(moved) != expected
    ).mean() < 0.002  # rounding: a pixel or two that lies on a border
    large = ventricle(160, np.random.default_rng(5))
    assert least(large) > 0.93
    assert PRIOR.reconstruct(np.pad(mask, ((0, 30), (7, 0)))).shape == (94, 71)


def test_a_mask_of_the_fit_comes_back_when_all_components_are_kept() -> None:
    masks = ventricles(6)
    prior = ShapePrior.fit(masks, 3, 60)
    assert prior.components.shape[0] == 5  # N - 1
    assert np.allclose(prior.components @ prior.components.T, np.eye(5), atol=1e-5)
    # what is left is the canvas's own coarseness: less than half a pixel along the borders
    assert min(least(mask, prior) for mask in masks) > 0.97


def test_coefficients_are_held_within_three_deviations() -> None:
    far = ventricle(64, np.random.default_rng(0))
    far[far.any(1)] = np.repeat(far[far.any(1)].max(0)[None], far.any(1).sum(), 0)  # bars: far from any heart
    rebuilt = PRIOR.reconstruct(far)
    loose = ShapePrior(**{**vars(PRIOR), "deviations": PRIOR.deviations * 100})
    assert agreement(far, loose.reconstruct(far), 3).min() > agreement(far, rebuilt, 3).min()


def test_empty_mask_gives_the_mean_shape_at_the_centre() -> None:
    shape = PRIOR.reconstruct(np.zeros((64, 64), np.uint8))
    assert np.allclose([axis.mean() for axis in np.nonzero(shape)], 31.5, atol=1.5)
    areas = [np.count_nonzero(mask) for mask in ventricles(80)]
    assert np.count_nonzero(shape) == pytest.approx(np.mean(areas), rel=0.1)
    assert set(np.unique(shape)) == {0, 1, 2}


def test_odd_masks_do_not_crash() -> None:
    one = np.zeros((64, 64), np.uint8)
    one[0, 63] = 2
    for mask in (one, np.ones((64, 64), np.uint8), np.full((3, 5), 2, np.uint8)):
        assert PRIOR.reconstruct(mask).shape == mask.shape


def test_three_axes() -> None:
    grid = np.indices((20, 20, 20)) - 9.5
    masks = np.stack(
        [
            (np.hypot(np.hypot(grid[0] / a, grid[1]), grid[2]) < 5).astype(np.uint8)
            for a in (1, 1.1, 1.2, 1.3, 1.4)
        ]
    )
    prior = ShapePrior.fit(masks, 2, 2)
    assert agreement(masks[2], prior.reconstruct(masks[2]), 2)[0] > 0.9
    with pytest.raises(DataError, match="3 axes got a mask of shape"):
        prior.reconstruct(masks[0, 0])


def test_saved_bytes_are_equal_and_read_back(tmp_path: Path) -> None:
    PRIOR.save(tmp_path / "a.npz")
    ShapePrior.fit(ventricles(80), 3, 30).save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert {item.date_time for item in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    mask = ventricles(1, stream=3)[0]
    loaded = ShapePrior.load(tmp_path / "a.npz")
    assert np.array_equal(loaded.reconstruct(mask), PRIOR.reconstruct(mask))


def test_broken_files_and_too_few_masks(tmp_path: Path) -> None:
    PRIOR.save(tmp_path / "a.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:5000])
    (tmp_path / "empty.npz").touch()
    for name in ("cut.npz", "empty.npz", "missing.npz"):
        with pytest.raises(ArtifactError, match="fit it again"):
            ShapePrior.load(tmp_path / name)
    masks = np.zeros((3, 8, 8), np.uint8)
    masks[0, 2:4] = 1
    with pytest.raises(DataError, match="1 of 3 masks"):
        ShapePrior.fit(masks, 3)


@pytest.mark.realdata
def test_held_out_camus_masks_agree(real_data: Path) -> None:
    files = sorted((real_data / "Dataset101_CAMUS_A4C" / "labelsTr").glob("*.nii.gz"))
    assert files
    masks = np.stack([np.asarray(nibabel.load(file).dataobj).squeeze().T[2::4, 2::4] for file in files])
    masks = np.where(masks == 3, 0, masks).astype(np.uint8)
    patients = np.array([file.name.split("_")[0] for file in files])
    held = np.isin(patients, np.unique(patients)[::4])
    prior = ShapePrior.fit(masks[~held], 3)
    scores = np.array([least(mask, prior) for mask in masks[held]])
    assert (scores > 0.93).mean() >= 0.9
