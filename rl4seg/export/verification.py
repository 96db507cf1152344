"""Is an export the policy that it was made from? Both predict the same images; an export that differs is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from pydantic import Field
from scipy import ndimage
from torch import Tensor

from reward_data.errors import ArtifactError
from reward_data.types import Config, Float32
from rl4seg.runtime import derive_seed

TOLERANCE = 1e-4  # largest difference of a probability
BATCHES = (1, 2, 5)  # sizes that the images are given in, so that a batch axis that is not free is found out

Network = Callable[[Tensor], Tensor]


class Verification(Config):
    """How far an export's predictions lie from the policy's, over the images that both have predicted."""

    images: int = Field(ge=1, description="Images compared.")
    logits: float = Field(ge=0, description="Largest absolute difference of a logit.")
    probabilities: float = Field(ge=0, description="Largest absolute difference of a probability.")
    pixels: int = Field(ge=0, description="Pixels whose label differs, over all images.")
    files: int = Field(
        default=0, ge=0, description="Image files taken the whole way: read, predicted, written."
    )


def probe_images(channels: int, shape: tuple[int, ...], count: int = 16, seed: int = 0) -> Float32:
    """Images to compare on: noise, smooth fields, and white, a ramp, a ball and its outside. Shape: (count, C, *shape).

    None is all black: there instance norm divides rounding noise by next to nothing, and float32 differs from float64
    by as much as one export from another.
    """
    rng = np.random.default_rng(derive_seed(seed))
    noise = rng.random((count, channels, *shape), dtype=np.float32)
    for index in range(0, count, 2):
        noise[index] = _smooth(noise[index], 0.5 * (1 + index % 8))
    places = np.stack(np.meshgrid(*(np.linspace(0, 1, size) for size in shape), indexing="ij"))
    ball = np.sqrt(((places - 0.5) ** 2).sum(0)) < 0.3
    for index, picture in enumerate((np.ones(shape), places.mean(0), ball, ~ball)[: count - 1]):
        noise[index + 1] = picture
    return noise


def _smooth(image: Float32, sigma: float) -> Float32:
    """Each channel blurred by ``sigma`` pixels and stretched to [0, 1]."""
    blurred = ndimage.gaussian_filter(image, sigma, axes=tuple(range(1, image.ndim)))
    return np.asarray((blurred - blurred.min()) / max(float(np.ptp(blurred)), 1e-6), np.float32)


@torch.no_grad()
def compare(policy: Network, export: Network, images: Float32, what: str) -> Verification:
    """Both networks on the same images, batches of several sizes.

    Shape: images (n, C, *S); the networks (B, C, *S) -> logits (B, K, *S); with K = 1 a sigmoid makes probabilities.
    Raises:
        ArtifactError: a probability differs by more than `TOLERANCE`, or the shapes differ.
    """
    logits = probabilities = 0.0
    pixels = 0
    for batch in _batches(torch.from_numpy(images)):
        wanted, got = policy(batch), export(batch)
        if wanted.shape != got.shape:
            raise ArtifactError(
                f"{what}: gives {tuple(got.shape)} where the policy gives {tuple(wanted.shape)}; it is not written: "
                "choose another format, and tell the makers of this project"
            )
        logits = max(logits, _distance(wanted, got))
        probabilities = max(probabilities, _distance(_probabilities(wanted), _probabilities(got)))
        pixels += int((wanted.argmax(1) != got.argmax(1)).sum())
    refuse_above(probabilities, what)
    return Verification(images=len(images), logits=logits, probabilities=probabilities, pixels=pixels)


def refuse_above(difference: float, what: str) -> None:
    """Raises: ArtifactError where a probability differs by more than `TOLERANCE`, or by NaN."""
    if not difference <= TOLERANCE:
        raise ArtifactError(
            f"{what}: probabilities differ from the policy's by up to {difference:.3g}, allowed are {TOLERANCE:g}; "
            "it is not written: choose another format, and tell the makers of this project"
        )


def _batches(images: Tensor) -> list[Tensor]:
    """All images once, in batches of `BATCHES` sizes and one of what is left."""
    sizes, left = [], len(images)
    for size in BATCHES:
        sizes.append(min(size, left))
        left -= sizes[-1]
    return [part for part in images.split([*sizes, left]) if len(part)]


def _probabilities(logits: Tensor) -> Tensor:
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)


def _distance(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference; infinite where one is NaN."""
    return float((a - b).abs().nan_to_num(nan=float("inf")).max())
