"""Images as grids of patches, in two and three dimensions."""

from __future__ import annotations

import pytest
import torch

from reward_data.errors import ConfigError
from rl4seg.patchdrop.grid import (
    first_of,
    from_centre,
    join_patches,
    keep_pixels,
    lowered,
    patch_shape,
    split_patches,
)


def test_patches_go_row_by_row_and_come_back() -> None:
    image = torch.arange(24.0).reshape(1, 1, 4, 6)
    patches = split_patches(image, (2, 3))
    assert patches.shape == (1, 6, 1, 2, 2)
    assert patches[0, 1, 0].tolist() == [[2, 3], [8, 9]]  # to the right of the first
    assert patches[0, 3, 0].tolist() == [[12, 13], [18, 19]]  # below it
    torch.testing.assert_close(join_patches(patches, (2, 3)), image)


@pytest.mark.parametrize("grid", [(2, 4), (4, 2, 3)])
def test_a_keep_map_covers_the_pixels_of_its_patches(grid: tuple[int, ...]) -> None:
    shape = tuple(3 * cells for cells in grid)
    images = torch.randn(2, 2, *shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(join_patches(split_patches(images, grid), grid), images)
    keep = torch.randint(0, 2, (2, split_patches(images, grid).shape[1])).bool()
    kept = split_patches(images * keep_pixels(keep, grid, shape), grid)
    assert kept[~keep].abs().max() == 0
    torch.testing.assert_close(kept[keep], split_patches(images, grid)[keep])


def test_a_grid_that_does_not_divide_the_image_is_refused() -> None:
    assert patch_shape((32, 24), (4, 2)) == (8, 12)
    for grid in ((3, 4), (4,), (4, 4, 4)):
        with pytest.raises(ConfigError, match="does not divide an image of 32 x 32 pixels"):
            patch_shape((32, 32), grid)


def test_the_low_resolution_image_has_the_means() -> None:
    image = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]]).repeat_interleave(2, -1)
    assert lowered(image, (1, 2)).tolist() == [[[[1.0, 2.0]]]]


def test_orders_and_counts() -> None:
    # 3 x 3: the centre first, then its four neighbours, then the corners
    order = from_centre((3, 3)).tolist()
    assert order[0] == 4
    assert sorted(order[1:5]) == [1, 3, 5, 7]
    kept = first_of(torch.tensor([2, 0, 1]), torch.tensor([0, 1, 2, 3]))
    assert kept.int().tolist() == [[0, 0, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1]]
    own = first_of(torch.tensor([[2, 0, 1], [1, 2, 0]]), torch.tensor([1, 1]))
    assert own.int().tolist() == [[0, 0, 1], [0, 1, 0]]
