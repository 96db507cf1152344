"""How bad masks are made: frozen, replayable records, one per example, and the switches that draw them.

The paper's families (RL4Seg, arXiv 2406.17902): the mask of another image, the prediction of a network with noisy
weights, the prediction on an image of lower contrast or with noise. Ours beside them: damage to the mask itself.
A record holds all that is random; `replay` makes the same mask from it again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from reward_data.mask_damage import Affine, Damage, MaskDamage, Morph, Warp, damage_mask
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


class MaskDamageConfig(Config):
    """Damage to accepted masks; counts are examples per accepted image."""

    morph: int = Field(default=1, ge=0, description="Eroded or dilated classes.")
    morph_radius: float = Field(
        default=0.12, gt=0, le=1, description="Largest radius, share of the foreground's size."
    )
    warp: int = Field(default=1, ge=0, description="Smooth displacements.")
    warp_strength: float = Field(
        default=0.12, gt=0, le=1, description="Largest strength, share of the foreground's size."
    )
    affine: int = Field(default=1, ge=0, description="Turned, scaled, shifted masks.")
    rotation_degrees: float = Field(default=15.0, ge=0, description="Largest rotation.")
    scale: float = Field(default=0.2, ge=0, lt=1, description="Largest relative change of scale.")
    shift: float = Field(default=0.15, ge=0, description="Largest shift, share of the foreground's size.")
    damage: int = Field(default=1, ge=0, description="Gross faults.")
    damages: tuple[Literal["cut_end", "cut_wall", "hole", "leak", "island", "flip", "drop_class"], ...] = (
        Field(
            default=("cut_end", "cut_wall", "hole", "leak", "island"),
            description="Which gross faults are drawn.",
        )
    )
    damage_size: float = Field(
        default=0.3, gt=0, le=1, description="Largest fault, share of the foreground's size."
    )


class DistortionConfig(Config):
    """Which bad masks an accepted prediction is paired with; an empty list or 0 switches a family off."""

    identity: bool = Field(
        default=True, description="Also keep the accepted mask itself, as an example without error."
    )
    swap: int = Field(default=1, ge=0, description="Masks of other images, per accepted image.")
    weight_noise: tuple[float, ...] = Field(
        default=(0.005, 0.01, 0.015, 0.02),
        description="Standard deviations of the weight noise, one example each.",
    )
    contrast: tuple[float, ...] = Field(default=(0.7, 0.8), description="Contrast factors, one example each.")
    noise: tuple[float, ...] = Field(default=(0.05, 0.1), description="Image noise, one example each.")
    mask: MaskDamageConfig = Field(default=MaskDamageConfig(), description="Damage to the mask itself.")


def sample_mask_damage(
    config: MaskDamageConfig, num_classes: int, rng: np.random.Generator
) -> tuple[MaskDamage, ...]:
    """Draw the mask damages of one image. Sample first, apply later."""
    records: list[MaskDamage] = []
    for _ in range(config.morph):
        operation: Literal["erode", "dilate"] = "erode" if rng.random() < 0.5 else "dilate"
        radius = config.morph_radius * rng.uniform(0.3, 1)
        records.append(
            Morph(operation=operation, class_value=int(rng.integers(1, num_classes)), radius=radius)
        )
    for _ in range(config.warp):
        strength = config.warp_strength * rng.uniform(0.3, 1)
        records.append(Warp(strength=strength, length=rng.uniform(0.4, 1.0), seed=_seed(rng)))
    for _ in range(config.affine):
        angle, zoom = config.rotation_degrees * rng.uniform(-1, 1), 1 + config.scale * rng.uniform(-1, 1)
        shift = tuple(float(v) for v in config.shift * rng.uniform(-1, 1, 3))
        records.append(Affine(rotation_degrees=angle, scale=zoom, shift=shift))
    for _ in range(config.damage if config.damages else 0):
        what = config.damages[int(rng.integers(len(config.damages)))]
        records.append(Damage(what=what, size=config.damage_size * rng.uniform(0.3, 1), seed=_seed(rng)))
    return tuple(records)


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def distort_image(record: Contrast | Noise, image: Float32) -> Float32:
    """The distorted image, clipped to [0, 1]. Shape: (C, *S) -> (C, *S)."""
    if isinstance(record, Contrast):
        return np.clip(image * np.float32(record.factor), 0, 1).astype(np.float32)
    noise = np.random.default_rng(record.seed).standard_normal(image.shape).astype(np.float32)
    return np.clip(image + np.float32(record.sigma) * noise, 0, 1).astype(np.float32)


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
        return predict_masks(segmenter.perturbed(record.sigma, record.seed), image[None])[0]
    if isinstance(record, Contrast | Noise):
        return predict_masks(segmenter, distort_image(record, image)[None])[0]
    return damage_mask(record, mask)


def predict_masks(segmenter: Segmenter, images: Float32) -> UInt8:
    """Argmax masks. Shape: (B, C, *S) -> (B, *S)."""
    masks: UInt8 = segmenter.probabilities(images).argmax(1).astype(np.uint8)
    return masks
