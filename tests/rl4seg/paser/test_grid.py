"""The patch grid: owners, windows, cutting and laying, in one to three dimensions and for any size."""

from __future__ import annotations

import pytest
import torch

from reward_data.errors import ConfigError
from rl4seg.paser.grid import PatchGrid

SHAPES = [
    ((8, 8), (4, 4), 0),
    ((9, 7), (4, 3), 0),
    ((9, 7), (4, 3), 2),
    ((5,), (3,), 1),
    ((5, 6, 7), (2, 3, 2), 1),
]


@pytest.mark.parametrize(("shape", "cells", "margin"), SHAPES)
def test_every_pixel_has_one_owner_and_every_window_holds_the_own_pixels(
    shape: tuple[int, ...], cells: tuple[int, ...], margin: int
) -> None:
    grid = PatchGrid(shape, cells, margin)
    owners = torch.zeros(shape)
    for own, seen, inside in zip(grid.own, grid.seen, grid.inside, strict=True):
        owners[own] += 1
        assert owners[own].numel() > 0
        pixels = torch.arange(owners.numel()).reshape(shape)
        assert pixels[seen].shape == grid.window
        assert torch.equal(pixels[seen][inside], pixels[own])
    assert torch.equal(owners, torch.ones(shape))
    assert len(grid.own) == grid.count


@pytest.mark.parametrize(("shape", "cells", "margin"), SHAPES)
def test_what_is_cut_and_laid_again_is_the_image(
    shape: tuple[int, ...], cells: tuple[int, ...], margin: int
) -> None:
    grid = PatchGrid(shape, cells, margin)
    images = torch.rand((2, 3, *shape))
    out = torch.full_like(images, -1)
    grid.lay(grid.cut(images, grid.every(2)), grid.every(2), out)
    assert torch.equal(out, images)


def test_only_chosen_patches_are_touched() -> None:
    grid = PatchGrid((4, 6), (2, 3))
    images = torch.rand(2, 1, 4, 6)
    out = torch.zeros_like(images)
    chosen = torch.tensor([[1, 4]])  # image 1, patch 4: second row, second column = rows 2:4, columns 2:4
    grid.lay(grid.cut(images, chosen), chosen, out)
    assert torch.equal(out[1, 0, 2:4, 2:4], images[1, 0, 2:4, 2:4])
    assert out.count_nonzero() == 4
    assert len(grid.cut(images, torch.zeros((0, 2), dtype=torch.long))) == 0


def test_windows_of_sizes_that_the_grid_does_not_divide() -> None:
    # 9 pixels, 4 patches: owners [0, 2), [2, 4), [4, 6), [6, 9); windows of ceil(9 / 4) = 3, the last at 9 - 3 = 6.
    grid = PatchGrid((9,), (4,))
    assert grid.window == (3,)
    assert [(own[0].start, own[0].stop) for own in grid.own] == [(0, 2), (2, 4), (4, 6), (6, 9)]
    assert [seen[0].start for seen in grid.seen] == [0, 2, 4, 6]


@pytest.mark.parametrize(("shape", "cells"), [((3, 8), (4, 4)), ((8, 8), (4,))])
def test_a_grid_that_does_not_fit_is_refused(shape: tuple[int, ...], cells: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"routing\.grid"):
        PatchGrid(shape, cells)
