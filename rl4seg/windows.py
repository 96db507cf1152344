"""Large images: on a grid of their own, seen by the network through windows of the trained shape."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from reward_data.geometry import Geometry
from reward_data.preprocess import PreprocessConfig, preprocess
from reward_data.types import Case, Float32
from rl4seg.configs.predict import WindowConfig


def lay_on_grid(case: Case, config: PreprocessConfig, window: WindowConfig) -> tuple[Float32, Geometry, bool]:
    """The image (C, *G) in [0, 1], the way back, and whether windows have to slide over it.

    Raises:
        DataError: see `reward_data.preprocess.preprocess`.
    """
    size = window_grid(case, config, window)
    if size is None:
        image, _, geometry = preprocess(case, config)
        return image, geometry, False
    filled = config.model_copy(update={"shape": size, "spacing_mm": None, "aspect": "stretch"})
    image, _, geometry = preprocess(case, filled)
    return image, geometry, True


def window_grid(case: Case, config: PreprocessConfig, window: WindowConfig) -> tuple[int, ...] | None:
    """Pixels per axis of the grid that windows slide over; None where the image goes through in one piece."""
    native = case.image.shape[1:]
    fixed = config.spacing_mm is not None and case.spacing_known
    if window.mode == "none" or len(native) != len(config.shape) or (config.spacing_mm and not fixed):
        return None
    factors = [window.scale] * len(native)
    if config.spacing_mm is not None:
        factors = [own / wanted for own, wanted in zip(case.spacing_mm, config.spacing_mm, strict=True)]
    elif window.mode == "auto":
        return None
    size = tuple(max(1, int(np.rint(n * f))) for n, f in zip(native, factors, strict=True))
    fits = all(pixels <= trained for pixels, trained in zip(size, config.shape, strict=True))
    return None if fits and window.mode == "auto" else size


@torch.no_grad()
def through_windows(
    see: Callable[[Tensor], Tensor], inputs: Tensor, shape: tuple[int, ...], overlap: float, batch_size: int
) -> Tensor:
    """``see`` applied to windows of ``shape`` and averaged, the middle of a window counting most.

    An image with fewer pixels than a window gets a border of zeros. Shape: (B, C, *G) -> (B, K, *G).
    """
    from monai.inferers import SlidingWindowInferer

    inferer = SlidingWindowInferer(shape, batch_size, overlap, mode="gaussian")
    seen: Tensor = inferer(inputs, see)
    return seen
