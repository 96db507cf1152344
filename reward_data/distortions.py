"""How bad masks are made: frozen, replayable records, one per example, and the switches that draw them.

The paper's families (RL4Seg, arXiv 2406.17902): the mask of another image, the prediction of a network with noisy
weights, the prediction on an image of lower contrast or with noise. Ours beside them: damage to the mask itself.
A record holds all that is random; `replay` makes the same mask from it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from reward_data.mask_damage import Affine, Damage, Fault, Morph, Warp, damage_mask
from reward_data.types import Config, Float32, Segmenter, UInt8


class Identity(Config):
    """The pseudo ground truth itself: nothing is wrong."""

    kind: Literal["identity"] = "identity"


class Swap(Config):
    """The accepted mask of another image."""

    kind: Literal["swap"] = "swap"
    other_id: str


class WeightNoise(Config):
    """The prediction of the policy with N(0, sigma) added to its weights, on the clean image."""

    kind: Literal["weight_noise"] = "weight_noise"
    sigma: float = Field(gt=0)
    seed: int


class Contrast(Config):
    """The prediction of the clean policy on the image with its intensities multiplied by ``factor``."""

    kind: Literal["contrast"] = "contrast"
    factor: float = Field(gt=0)


class Noise(Config):
    """The prediction of the clean policy on the image plus N(0, sigma), intensities in [0, 1]."""

    kind: Literal["noise"] = "noise"
    sigma: float = Field(gt=0)
    seed: int


Distortion = Annotated[
    Identity | Swap | WeightNoise | Contrast | Noise | Morph | Warp | Affine | Damage,
    Field(discriminator="kind"),
]
Strength = Annotated[float, Field(gt=0)]


class IdentityConfig(Config):
    """Perfect masks, so that the reward net knows them."""

    enabled: bool = Field(default=True, description="Whether accepted masks are examples without error.")
    share: float = Field(default=1.0, ge=0, le=1, description="Share of the accepted images that give one.")


class SwapConfig(Config):
    """Masks of other images."""

    enabled: bool = Field(default=True, description="Whether this family is used.")
    count: int = Field(default=1, ge=1, description="Examples per accepted image.")


class ModelConfig(Config):
    """Predictions of policies with noisy weights."""

    enabled: bool = Field(default=True, description="Whether this family is used.")
    sigmas: tuple[Strength, ...] = Field(
        default=(0.005, 0.01, 0.015, 0.02), description="Standard deviations of the weight noise."
    )
    count: int = Field(
        default=1, ge=1, description="Noisy policies per sigma; each gives one example per accepted image."
    )


class ImageConfig(Config):
    """Predictions on distorted images."""

    enabled: bool = Field(default=True, description="Whether this family is used.")
    contrasts: tuple[Strength, ...] = Field(
        default=(0.7, 0.8), description="Contrast factors, one example each."
    )
    noises: tuple[Strength, ...] = Field(
        default=(0.05, 0.1), description="Standard deviations of the image noise, intensities in [0, 1]."
    )
    count: int = Field(default=1, ge=1, description="Examples per accepted image and noise strength.")


class MorphologyConfig(Config):
    """One class eroded or dilated."""

    enabled: bool = Field(default=True, description="Whether this family is used.")
    radius: Strength = Field(
        default=0.12, le=1, description="Largest radius, share of the foreground's size (root of its area)."
    )
    count: int = Field(default=1, ge=1, description="Examples per accepted image.")


class WarpConfig(Config):
    """The mask bent smoothly, and the mask turned, scaled and shifted."""

    enabled: bool = Field(default=True, description="Whether this family is used.")
    strength: Strength = Field(
        default=0.12,
        le=1,
        description="Largest standard deviation of the bend, share of the foreground's size.",
    )
    rotation_degrees: float = Field(default=15.0, ge=0, le=180, description="Largest rotation, degrees.")
    scale: float = Field(default=0.2, ge=0, lt=1, description="Largest relative change of scale.")
    shift: float = Field(default=0.15, ge=0, description="Largest shift, share of the foreground's size.")
    count: int = Field(default=1, ge=1, description="Examples of each of the two per accepted image.")


class DamageConfig(Config):
    """Gross faults."""

    enabled: bool = Field(default=True, description="Whether this family is used.")
    faults: tuple[Fault, ...] = Field(
        default=("cut_end", "cut_wall", "hole", "fill", "leak", "island", "flip"),
        min_length=1,
        description="Which faults are drawn; drop_class removes a whole class.",
    )
    size: Strength = Field(default=0.3, le=1, description="Largest fault, share of the foreground's size.")
    count: int = Field(default=1, ge=1, description="Examples per accepted image.")


class DistortionConfig(Config):
    """Which proposed masks an accepted prediction is paired with."""

    identity: IdentityConfig = Field(default=IdentityConfig(), description="The accepted mask itself.")
    swap: SwapConfig = Field(default=SwapConfig(), description="Masks of other images (paper).")
    model: ModelConfig = Field(default=ModelConfig(), description="Noisy weights (paper).")
    image: ImageConfig = Field(default=ImageConfig(), description="Distorted images (paper).")
    morphology: MorphologyConfig = Field(default=MorphologyConfig(), description="Eroded or dilated classes.")
    warp: WarpConfig = Field(default=WarpConfig(), description="Bent, turned, scaled and shifted masks.")
    damage: DamageConfig = Field(default=DamageConfig(), description="Gross faults.")


def weight_noises(config: ModelConfig, seed: int) -> tuple[WeightNoise, ...]:
    """The noisy policies of one reward dataset, the same ones for all its images."""
    strengths = [sigma for sigma in config.sigmas for _ in range(config.count)] if config.enabled else []
    return tuple(
        WeightNoise(sigma=sigma, seed=_seed(np.random.default_rng([seed, number])))
        for number, sigma in enumerate(strengths)
    )


def sample_distortions(
    config: DistortionConfig, num_classes: int, other_ids: Sequence[str], rng: np.random.Generator
) -> tuple[Distortion, ...]:
    """Draw the examples of one accepted image, all but the noisy policies. Sample first, apply later.

    ``other_ids``: accepted images to swap with; none gives no swap.
    """
    draws = (_identities, _swaps, _images, _morphs, _warps, _damages)
    streams = rng.spawn(len(draws))  # a family's draws do not depend on the other families
    return tuple(
        record
        for draw, stream in zip(draws, streams, strict=True)
        for record in draw(config, num_classes, other_ids, stream)
    )


def _identities(
    config: DistortionConfig, num_classes: int, other_ids: Sequence[str], rng: np.random.Generator
) -> Iterator[Distortion]:
    if config.identity.enabled and rng.random() < config.identity.share:
        yield Identity()


def _swaps(
    config: DistortionConfig, num_classes: int, other_ids: Sequence[str], rng: np.random.Generator
) -> Iterator[Distortion]:
    count = min(config.swap.count, len(other_ids)) if config.swap.enabled else 0
    for chosen in rng.choice(len(other_ids), count, replace=False) if count else ():
        yield Swap(other_id=other_ids[int(chosen)])


def _images(
    config: DistortionConfig, num_classes: int, other_ids: Sequence[str], rng: np.random.Generator
) -> Iterator[Distortion]:
    if config.image.enabled:
        yield from (Contrast(factor=factor) for factor in config.image.contrasts)
        for sigma in config.image.noises:
            yield from (Noise(sigma=sigma, seed=_seed(rng)) for _ in range(config.image.count))


def _morphs(
    config: DistortionConfig, num_classes: int, other_ids: Sequence[str], rng: np.random.Generator
) -> Iterator[Distortion]:
    for _ in range(config.morphology.count if config.morphology.enabled else 0):
        yield Morph(
            operation="erode" if rng.random() < 0.5 else "dilate",
            class_value=int(rng.integers(1, num_classes)),
            radius=_strength(config.morphology.radius, rng),
        )


def _warps(
    config: DistortionConfig, num_classes: int, other_ids: Sequence[str], rng: np.random.Generator
) -> Iterator[Distortion]:
    warp = config.warp
    for _ in range(warp.count if warp.enabled else 0):
        strength = _strength(warp.strength, rng)
        yield Warp(strength=strength, length=float(rng.uniform(0.4, 1.0)), seed=_seed(rng))
        yield Affine(
            rotation_degrees=warp.rotation_degrees * float(rng.uniform(-1, 1)),
            scale=1 + warp.scale * float(rng.uniform(-1, 1)),
            shift=tuple(warp.shift * float(part) for part in rng.uniform(-1, 1, 3)),
        )


def _damages(
    config: DistortionConfig, num_classes: int, other_ids: Sequence[str], rng: np.random.Generator
) -> Iterator[Distortion]:
    damage = config.damage
    for _ in range(damage.count if damage.enabled else 0):
        what = damage.faults[int(rng.integers(len(damage.faults)))]
        yield Damage(what=what, size=_strength(damage.size, rng), seed=_seed(rng))


def _strength(largest: float, rng: np.random.Generator) -> float:
    """Between 0.3 of the largest strength and all of it."""
    return largest * float(rng.uniform(0.3, 1))


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def distort_image(record: Contrast | Noise, image: Float32) -> Float32:
    """The distorted image, clipped to [0, 1]. Shape: (C, *S) -> (C, *S)."""
    if isinstance(record, Contrast):
        distorted = image * np.float32(record.factor)
    else:
        noise = np.random.default_rng(record.seed).standard_normal(image.shape, np.float32)
        distorted = image + np.float32(record.sigma) * noise
    clipped: Float32 = np.clip(distorted, 0, 1)
    return clipped


def replay(
    record: Distortion, mask: UInt8, image: Float32, other_mask: Callable[[str], UInt8], segmenter: Segmenter
) -> UInt8:
    """The proposed mask that ``record`` stands for.

    Args:
        mask: the image's accepted mask. Shape: (*S)
        image: in [0, 1]. Shape: (C, *S)
        other_mask: accepted mask of another image by its id.
        segmenter: the policy, unperturbed; distorted images are given to this one, never to a noisy copy.
    """
    if isinstance(record, Identity):
        return mask.copy()
    if isinstance(record, Swap):
        return other_mask(record.other_id).copy()
    if isinstance(record, WeightNoise):
        segmenter = segmenter.perturbed(record.sigma, record.seed)
    elif isinstance(record, Contrast | Noise):
        image = distort_image(record, image)
    else:
        return damage_mask(record, mask)
    proposed: UInt8 = predict_masks(segmenter, image[None])[0]
    return proposed


def predict_masks(segmenter: Segmenter, images: Float32) -> UInt8:
    """Argmax masks. Shape: (B, C, *S) -> (B, *S)."""
    masks: UInt8 = segmenter.probabilities(images).argmax(1).astype(np.uint8)
    return masks
