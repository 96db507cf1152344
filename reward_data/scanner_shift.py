"""A worse scanner, simulated: any dataset becomes a benchmark whose shift is known.

Drawn per case into a `ShiftRecord`, then applied to it; labels are never touched. In this order: acoustic shadows along
scan lines, gamma, attenuation with depth, blur, multiplicative Rayleigh speckle, haze near the probe, contrast. Images
are brought to [0, 1] of their own range for that and back afterwards; outside the sector they stay at their minimum.

Lengths are shares: blur and speckle of the image's rows and columns, so that 64 x 64 and 224 x 224 pixels look alike;
depths of the sector's range, 0 at the probe, 1 at its far end. Rows are depth, columns are lateral, and the probe is at
the top in the middle of the sector. A third axis (depth slices or time) is treated slice by slice with the same record.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field, model_validator
from scipy.ndimage import binary_fill_holes, gaussian_filter

from reward_data.errors import DataError
from reward_data.types import Bool, Case, Config, Float32

Range = tuple[float, float]
SHADOW_EDGE = 0.02  # how sharply a shadow begins, share of the depth
HAZE_HEAVY: dict[str, Range] = {
    "gamma": (0.5, 1.0),
    "attenuation": (0.3, 1.2),
    "blur_lateral": (0.5 / 64, 1.2 / 64),
    "blur_axial": (0.2 / 64, 0.5 / 64),
    "speckle": (0.2, 0.6),
    "haze": (0.1, 0.35),
    "shadow_strength": (0.1, 0.6),
    "contrast": (0.5, 0.8),
}
PRESETS: dict[str, dict[str, Range]] = {"shadow_speckle": {}, "haze": HAZE_HEAVY}


class ScannerShift(Config):
    """How much worse the scanner is: ranges of uniform draws, one set of values per case.

    The name of a preset may stand for all of it.
    """

    preset: Literal["shadow_speckle", "haze"] = Field(
        default="shadow_speckle",
        description="Where ranges that are not given come from: shadow_speckle, whose values are the defaults below, "
        "or haze, so hard that it tests for collapse.",
    )
    seed: int = Field(default=0, ge=0, description="Seed of all draws; a case depends on it and on its id.")
    shadows: tuple[int, int] = Field(default=(1, 3), description="Fewest and most shadows per image.")
    shadow_width: Range = Field(
        default=(0.03, 0.08),
        description="Width of a shadow (two standard deviations) at the far end, share of the columns.",
    )
    shadow_strength: Range = Field(
        default=(0.5, 0.9), description="Share of the intensity that a shadow takes in its middle."
    )
    shadow_start: Range = Field(default=(0.0, 0.35), description="Relative depth at which a shadow begins.")
    gamma: Range = Field(default=(0.8, 1.3), description="Exponent of the grey curve.")
    attenuation: Range = Field(default=(0.0, 0.6), description="a of exp(-a r) at the relative depth r.")
    blur_lateral: Range = Field(
        default=(0.3 / 64, 0.8 / 64),
        description="Blur across the beams (standard deviation), share of the columns.",
    )
    blur_axial: Range = Field(
        default=(0.2 / 64, 0.4 / 64), description="Blur in depth (standard deviation), share of the rows."
    )
    speckle: Range = Field(default=(0.1, 0.4), description="m of (1 - m) + m x Rayleigh noise of mean 1.")
    speckle_size: tuple[float, float] = Field(
        default=(1.2 / 64, 0.6 / 64),
        description="Correlation length of speckle: lateral, axial, as for the blur.",
    )
    haze: Range = Field(default=(0.0, 0.08), description="Haze added at the probe, intensities in [0, 1].")
    haze_decay: Range = Field(
        default=(0.15, 0.4), description="Relative depth at which haze has fallen to 1/e."
    )
    contrast: Range = Field(default=(0.8, 1.0), description="Factor on the distance from `floor`.")
    floor: float = Field(default=0.1, ge=0, le=1, description="Grey value toward which contrast is lost.")

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"preset": value}
        if not isinstance(value, dict) or value.get("preset") not in PRESETS:
            return value
        return PRESETS[value["preset"]] | value

    @model_validator(mode="after")
    def _ranges_are_sound(self) -> ScannerShift:
        for name, (low, high) in self._ranges().items():
            if not 0 <= low <= high:
                raise ValueError(f"{name} ({low}, {high}): wanted 0 <= low <= high")
        for name in ("shadow_strength", "speckle", "haze", "contrast"):
            if getattr(self, name)[1] > 1:
                raise ValueError(f"{name} {getattr(self, name)}: wanted at most 1")
        for name in ("gamma", "haze_decay", "shadow_width"):
            if getattr(self, name)[0] <= 0:
                raise ValueError(f"{name} {getattr(self, name)}: wanted more than 0")
        return self

    def _ranges(self) -> dict[str, Range]:
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return {
            name: value
            for name, value in fields.items()
            if isinstance(value, tuple) and name != "speckle_size"
        }

    @classmethod
    def named(cls, name: str) -> ScannerShift:
        """The shipped shift of this name: ``shadow_speckle`` or ``haze``."""
        return cls.model_validate({"preset": name})


class Shadow(Config):
    """One acoustic shadow: behind a rib, or where the probe has no contact."""

    beam: float = Field(ge=-1, le=1, description="Its scan line: -1 the sector's left edge, 1 the right.")
    width: float = Field(gt=0, description="Two standard deviations, share of the columns, at the far end.")
    strength: float = Field(ge=0, le=1, description="Share of the intensity taken in its middle.")
    start: float = Field(ge=0, description="Relative depth.")


class ShiftRecord(Config):
    """All that was drawn for one case; `apply_shift` makes the same image from it again."""

    shadows: tuple[Shadow, ...] = Field(description="Shadows, any number.")
    gamma: float = Field(gt=0, description="Exponent.")
    attenuation: float = Field(ge=0, description="a of exp(-a r).")
    blur: tuple[float, float] = Field(description="Axial and lateral, shares of rows and columns.")
    speckle: float = Field(ge=0, le=1, description="Share of the noise.")
    speckle_size: tuple[float, float] = Field(description="Axial and lateral, shares of rows and columns.")
    speckle_seed: int = Field(ge=0, description="Seed of the speckle pattern.")
    haze: float = Field(ge=0, description="At the probe.")
    haze_decay: float = Field(gt=0, description="Relative depth.")
    contrast: float = Field(ge=0, description="Factor.")
    floor: float = Field(description="Grey value.")


def draw_shift(shift: ScannerShift, case_id: str) -> ShiftRecord:
    """What the scanner does to one case; depends on nothing but the config and the id."""
    digest = hashlib.sha256(case_id.encode()).digest()
    rng = np.random.default_rng([shift.seed, int.from_bytes(digest[:8], "little")])

    def value(bounds: Range) -> float:
        return float(rng.uniform(*bounds))

    count = int(rng.integers(shift.shadows[0], shift.shadows[1] + 1))
    shadows = tuple(
        Shadow(
            beam=float(rng.uniform(-0.9, 0.9)),
            width=value(shift.shadow_width),
            strength=value(shift.shadow_strength),
            start=value(shift.shadow_start),
        )
        for _ in range(count)
    )
    return ShiftRecord(
        shadows=shadows,
        gamma=value(shift.gamma),
        attenuation=value(shift.attenuation),
        blur=(value(shift.blur_axial), value(shift.blur_lateral)),
        speckle=value(shift.speckle),
        speckle_size=(shift.speckle_size[1], shift.speckle_size[0]),
        speckle_seed=int(rng.integers(2**31)),
        haze=value(shift.haze),
        haze_decay=value(shift.haze_decay),
        contrast=value(shift.contrast),
        floor=shift.floor,
    )


def shift_case(case: Case, shift: ScannerShift) -> Case:
    """The case as the worse scanner shows it; its label and geometry are the same.

    Raises: DataError for an image of other than two or three spatial axes.
    """
    if case.image.ndim not in {3, 4}:
        raise DataError(
            f"case {case.id!r}: image of shape {case.image.shape}, wanted (C, H, W) or (C, H, W, D); leave out `shift`"
        )
    return replace(case, image=apply_shift(case.image, draw_shift(shift, case.id)))


def apply_shift(image: Float32, record: ShiftRecord) -> Float32:
    """An image after the shift, in its native range. Shape: (C, H, W) or (C, H, W, D), the same again.

    Pixels at the minimum of all channels that no others enclose are outside the sector and stay there.
    """
    low, high = float(image.min()), float(image.max())
    if high <= low:
        return image
    unit = (image - np.float32(low)) / np.float32(high - low)
    slices = unit[..., None] if unit.ndim == 3 else unit
    shifted = np.stack(
        [_shift_slice(slices[..., place], record, place) for place in range(slices.shape[-1])], axis=-1
    )
    native: Float32 = (shifted.reshape(image.shape) * np.float32(high - low) + np.float32(low)).astype(
        np.float32
    )
    return native


class Polar(NamedTuple):
    """Where the pixels of a sector are. Shape: (H, W) each; ``column``: of the scan line at the far end, a share."""

    depth: Float32  # 0 at the probe, 1 at the farthest pixel
    column: Float32
    reach: tuple[float, float]  # of ``column``, between the sector's edges


def _polar(sector: Bool) -> Polar:
    """Depth and scan line of every pixel, seen from the top of the sector's box in its middle."""
    rows, columns = np.flatnonzero(sector.any(1)), np.flatnonzero(sector.any(0))
    apex = float(rows[0]), (columns[0] + columns[-1]) / 2
    y, x = np.mgrid[: sector.shape[0], : sector.shape[1]].astype(np.float32)
    down, aside = (y - apex[0]) / sector.shape[0], (x - apex[1]) / sector.shape[1]
    radius = np.hypot(down, aside)
    farthest = max(float(radius[sector].max()), 1e-6)
    depth = (radius / farthest).astype(np.float32)
    column = (np.arctan2(aside, np.maximum(down, 0)) * np.float32(farthest)).astype(np.float32)
    far = sector & (depth > 0.5)  # close to a curved probe, angles say little
    seen = column[far if far.any() else sector]
    return Polar(depth, column, (float(seen.min()), float(seen.max())))


def _shift_slice(image: Float32, record: ShiftRecord, place: int) -> Float32:
    """One slice. Shape: (C, H, W) in [0, 1] -> the same."""
    sector = binary_fill_holes((image > 0).any(0))
    if not sector.any():
        return image
    polar, shape = _polar(sector), image.shape[1:]
    gain = _shadows(record, polar)
    tail = np.exp(-np.float32(record.attenuation) * polar.depth)
    noise = _rayleigh(record, shape, place)
    haze = np.float32(record.haze) * np.exp(-polar.depth / np.float32(record.haze_decay))
    channels = []
    for channel in image:
        shown = (channel * gain) ** np.float32(record.gamma) * tail
        shown = _blurred(shown, sector, record.blur)
        shown = shown * (1 + np.float32(record.speckle) * (noise - 1)) + haze
        shown = record.floor + np.float32(record.contrast) * (shown - np.float32(record.floor))
        channels.append(np.where(sector, np.clip(shown, 0, 1), 0))
    return np.stack(channels).astype(np.float32)


def _shadows(record: ShiftRecord, polar: Polar) -> Float32:
    """What shadows leave of the intensity, in [0, 1]. Shape: (H, W)."""
    gain = np.ones_like(polar.depth)
    left, right = polar.reach
    for shadow in record.shadows:
        middle = (left + right) / 2 + shadow.beam * (right - left) / 2
        across = np.exp(-2 * ((polar.column - np.float32(middle)) / np.float32(shadow.width)) ** 2)
        below = 1 / (1 + np.exp(-(polar.depth - np.float32(shadow.start)) / np.float32(SHADOW_EDGE)))
        gain *= 1 - np.float32(shadow.strength) * across * below
    return gain


def _blurred(image: Float32, sector: Bool, blur: tuple[float, float]) -> Float32:
    """Gaussian blur inside the sector alone: what lies outside does not darken its edge. Shape: (H, W)."""
    sigma = tuple(share * size for share, size in zip(blur, image.shape))
    inside = sector.astype(np.float32)
    weight = np.maximum(gaussian_filter(inside, sigma), np.float32(1e-3))
    smooth: Float32 = gaussian_filter(image * inside, sigma) / weight
    return smooth


def _rayleigh(record: ShiftRecord, shape: tuple[int, ...], place: int) -> Float32:
    """Correlated Rayleigh noise of mean 1: the modulus of smoothed complex Gaussian noise. Shape: (H, W)."""
    rng = np.random.default_rng([record.speckle_seed, place])
    sigma = tuple(share * size for share, size in zip(record.speckle_size, shape))
    real, imaginary = (gaussian_filter(rng.standard_normal(shape, np.float32), sigma) for _ in range(2))
    envelope = np.hypot(real, imaginary)
    noise: Float32 = envelope / envelope.mean()
    return noise
