import pytest
import torch

from rl4seg.augment import apply_to_images, apply_to_masks, augment, draw
from rl4seg.configs.augment import AugmentConfig

STILL = AugmentConfig(rotation_degrees=0, scale=0, shift=0, brightness=0, contrast=0, gamma=0, noise=0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blob(shape: tuple[int, ...]) -> torch.Tensor:
    masks = torch.zeros(2, *shape, dtype=torch.long)
    masks[(slice(None), *[slice(s // 4, s // 2) for s in shape])] = 2
    return masks


@pytest.mark.parametrize("shape", [(16, 24), (8, 12, 16)])
def test_zero_strength_changes_nothing(shape: tuple[int, ...]) -> None:
    images, masks = torch.rand(2, 1, *shape, generator=generator()), blob(shape)
    moved, (mask,) = augment(STILL, images, (masks,), generator())
    assert torch.allclose(moved, images, atol=1e-5)
    assert torch.equal(mask, masks)
    assert augment(None, images, (masks,), generator())[0] is images


@pytest.mark.parametrize("shape", [(32, 32), (16, 16, 16)])
def test_image_and_mask_move_together(shape: tuple[int, ...]) -> None:
    still = STILL.model_copy(update={"rotation_degrees": 25.0, "scale": 0.2, "shift": 0.1})
    masks = blob(shape)
    moved, (mask,) = augment(still, (masks[:, None] > 0).float(), (masks,), generator())
    assert not torch.equal(mask, masks)
    assert set(mask.unique().tolist()) <= {0, 2}
    agree = ((moved[:, 0] > 0.5) == (mask > 0)).float().mean().item()
    assert agree > 0.97


def test_a_record_replays_exactly() -> None:
    images, masks = torch.rand(2, 1, 16, 16, generator=generator()), blob((16, 16))
    record = draw(AugmentConfig(), images, generator(4))
    again = draw(AugmentConfig(), images, generator(4))
    assert torch.equal(apply_to_images(record, images), apply_to_images(again, images))
    assert torch.equal(apply_to_masks(record, masks), apply_to_masks(again, masks))
    assert not torch.equal(record.theta, draw(AugmentConfig(), images, generator(5)).theta)


def test_images_stay_in_range() -> None:
    images = torch.rand(4, 2, 16, 16, generator=generator())
    moved, _ = augment(AugmentConfig(brightness=1, contrast=0.9, noise=1), images, (), generator())
    assert moved.min() >= 0
    assert moved.max() <= 1
