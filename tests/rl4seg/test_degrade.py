import math

import pytest
import torch

from rl4seg.augment import augment
from rl4seg.configs.augment import AugmentConfig, DegradeConfig
from rl4seg.degrade import Degradation, apply_degradation, degrade, draw_degradation, gaussian_blur

OFF = DegradeConfig(
    share=1, attenuation=0, occlusion=0, blur=0, speckle=0, haze=0, gamma=0, dimming=0, veil=0
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plain(batch: int, shape: tuple[int, ...]) -> Degradation:
    one = torch.ones(batch, 1, *shape)
    zeros = torch.zeros(batch)
    chosen = torch.ones(batch, dtype=torch.bool)
    return Degradation(one, zeros, one, 0 * one, zeros + 1, zeros + 1, zeros, chosen)


@pytest.mark.parametrize("shape", [(16, 24), (8, 12, 10)])
def test_zero_strength_changes_nothing(shape: tuple[int, ...]) -> None:
    images = torch.rand(3, 2, *shape, generator=generator())
    assert torch.allclose(degrade(OFF, images, generator()), images, atol=1e-5)
    assert degrade(None, images, generator()) is images


@pytest.mark.parametrize("shape", [(16, 24), (8, 12, 10)])
def test_degraded_images_stay_in_range_and_black_stays_black(shape: tuple[int, ...]) -> None:
    images = torch.rand(6, 1, *shape, generator=generator())
    images[:, :, :4] = 0
    worse = degrade(DegradeConfig(share=1), images, generator(1))
    assert worse.min() >= 0
    assert worse.max() <= 1
    assert (worse[:, :, :4] == 0).all()
    assert ((worse - images).abs().flatten(1).mean(1) > 0.01).all()


def test_a_record_replays_exactly_and_the_share_is_kept() -> None:
    images = torch.rand(400, 1, 8, 8, generator=generator())
    record = draw_degradation(DegradeConfig(share=0.7), images, generator(4))
    again = draw_degradation(DegradeConfig(share=0.7), images, generator(4))
    worse = apply_degradation(record, images)
    assert torch.equal(worse, apply_degradation(again, images))
    changed = (worse != images).flatten(1).any(1)
    assert torch.equal(changed, record.chosen)
    assert 0.6 < changed.float().mean() < 0.8  # 400 draws at .7: standard deviation .023


def test_parts_are_applied_in_their_order() -> None:
    # ((.5 * .8) * 1.5 + .04) = .64; ** .5 = .8; * .5 + .1 = .5. A constant image is not changed by the blur.
    record = plain(1, (8, 8))
    record = Degradation(
        gain=0.8 * record.gain,
        blur=torch.tensor([2.0]),
        grain=1.5 * record.grain,
        haze=record.haze + 0.04,
        gamma=torch.tensor([0.5]),
        factor=torch.tensor([0.5]),
        veil=torch.tensor([0.1]),
        chosen=record.chosen,
    )
    worse = apply_degradation(record, torch.full((1, 1, 8, 8), 0.5))
    assert torch.allclose(worse, torch.full((1, 1, 8, 8), 0.5), atol=1e-5)


@pytest.mark.parametrize("axis", [2, 3])
def test_the_blur_has_its_own_width_in_every_image(axis: int) -> None:
    images = torch.zeros(2, 1, 65, 65)
    images[:, :, 32, 32] = 1
    blurred = gaussian_blur(images, torch.tensor([1.5, 3.0]))
    place = torch.arange(65.0) - 32
    for image, sigma in zip(blurred, (1.5, 3.0), strict=True):
        profile = image.sum(5 - axis - 1)[0]  # over the other axis
        assert profile.sum().item() == pytest.approx(1, abs=1e-4)
        assert math.sqrt((profile * place**2).sum().item()) == pytest.approx(sigma, rel=0.01)


def test_the_blur_mirrors_the_edge() -> None:
    # Left half 0, right half 1: periodic blurring would darken the right edge; mirrored, it stays 1.
    images = torch.zeros(1, 1, 4, 40)
    images[..., 20:] = 1
    blurred = gaussian_blur(images, torch.tensor([2.0]))
    assert blurred[..., -1].min() > 0.999
    assert blurred[..., 0].max() < 0.001


def test_augmentation_degrades_images_and_not_masks() -> None:
    still = AugmentConfig(rotation_degrees=0, scale=0, shift=0, brightness=0, contrast=0, gamma=0, noise=0)
    images, masks = torch.rand(2, 1, 16, 16, generator=generator()), torch.ones(2, 16, 16, dtype=torch.long)
    config = still.model_copy(update={"degrade": DegradeConfig(share=1)})
    moved, (mask,) = augment(config, images, (masks,), generator())
    assert not torch.allclose(moved, images, atol=1e-2)
    assert torch.equal(mask, masks)
