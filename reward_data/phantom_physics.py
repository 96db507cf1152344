"""From anatomy to an ultrasound image: scatterers in polar geometry, a point spread, losses, display.

Speckle as in Meunier and Bertrand (IEEE Trans. Biomed. Eng. 42(12), 1995): complex Gaussian scatterers weighted by the
echo strength, convolved with the pulse, then the envelope. Depths are shares of the image height, angles are in rad.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter1d, map_coordinates, uniform_filter1d

from reward_data.phantom_shapes import Place, Ventricle, locate
from reward_data.types import Bool, Float32

Complex64 = npt.NDArray[np.complex64]

DEPTHS, BEAMS = 192, 112
PROBE_Y, RANGE, HALF_ANGLE = 0.02, 0.96, 0.64
SEVERITY = 0.75  # the shift of a patient is drawn in (1 +- this) of the domain's


@dataclass(frozen=True)
class Setting:
    """How one imaging parameter is drawn: normal around a mean that moves with the shift, cut to a range."""

    mean: float
    spread: float
    move: float
    low: float
    high: float

    def draw(self, shift: float, rng: np.random.Generator) -> float:
        """One value; ``shift`` 0 is the source domain."""
        value = self.mean + shift * self.move + self.spread * rng.standard_normal()
        return float(np.clip(value, self.low, self.high))


SETTINGS = {
    # display: dB shown, brightness added in dB, exponent of the grey curve
    "dynamic_range": Setting(56, 3, -8, 30, 80),
    "gain": Setting(0, 2, -3, -15, 10),
    "gamma": Setting(1.0, 0.06, 0.2, 0.7, 2.0),
    # losses in dB: from probe to full depth; of the wall on the right; in a shadow
    "attenuation": Setting(4, 1.5, 6, 0, 30),
    "dropout": Setting(2, 2, 12, 0, 26),
    "shadow": Setting(8, 2, 8, 2, 24),
    # shadows per image
    "shadows": Setting(0.1, 0, 2.4, 0, 5),
    # point spread: standard deviation in beams, in the focus
    "beam": Setting(0.9, 0.08, 1.5, 0.5, 4.5),
    # haze under the probe and noise, as amplitude of wall echoes
    "haze": Setting(0.04, 0.02, 0.7, 0, 2),
    "noise": Setting(0.012, 0.003, 0.02, 0, 0.2),
    # echo strength in dB relative to the wall
    "blood": Setting(-36, 2, 8, -44, -10),
    "wall": Setting(0, 1, -1, -20, 6),
    "tissue": Setting(-11, 3, 0.5, -20, 6),
}


def draw_settings(shift: float, rng: np.random.Generator) -> dict[str, float]:
    """One patient's imaging parameters; ``shift`` 0 is the source domain, 1 the usual target.

    How far a patient is shifted varies: some image almost as in the source, others far worse.
    """
    shift = shift * float(rng.uniform(1 - SEVERITY, 1 + SEVERITY))
    return {name: setting.draw(shift, rng) for name, setting in SETTINGS.items()}


def simulate(
    ventricle: Ventricle, settings: dict[str, float], shape: tuple[int, int], rng: np.random.Generator
) -> Float32:
    """One image of a ventricle. Shape: ``shape`` (rows, columns), grey values 0..255, 0 outside the sector."""
    x, y = _polar_points()
    place = locate(ventricle, x, y)
    strength = _decibels(_echo_strength(place, ventricle, settings, rng))
    echoes: Float32 = np.abs(_blurred(strength * _speckle(rng, strength.shape), settings["beam"]))
    noise: Float32 = np.abs(_speckle(rng, strength.shape))
    envelope = (echoes + _haze(settings, rng)) * _decibels(_losses(settings, rng))
    envelope += np.float32(settings["noise"]) * noise
    return _scan_convert(_display(envelope, settings), shape)


def grid_points(shape: tuple[int, int]) -> tuple[Float32, Float32]:
    """x and y of the pixel centres, shares of the image height. Shape: (rows, 1) and (1, columns) broadcast."""
    rows, columns = shape
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    return (x + np.float32(0.5 - columns / 2)) / rows, (y + np.float32(0.5)) / rows


@lru_cache(maxsize=1)
def _polar_points() -> tuple[Float32, Float32]:
    """x and y of the samples of all beams. Shape: (DEPTHS, BEAMS) each."""
    radius = np.linspace(0, RANGE, DEPTHS, dtype=np.float32)[:, None]
    angle = np.linspace(-HALF_ANGLE, HALF_ANGLE, BEAMS, dtype=np.float32)[None]
    return radius * np.sin(angle), PROBE_Y + radius * np.cos(angle)


@lru_cache(maxsize=8)
def _sector(shape: tuple[int, int]) -> tuple[Float32, Bool]:
    """Fractional (depth, beam) index of every pixel, and which pixels lie in the sector."""
    x, y = grid_points(shape)
    y = y - np.float32(PROBE_Y)
    radius, angle = np.hypot(x, y), np.arctan2(x, y)
    inside = (radius <= RANGE) & (np.abs(angle) <= HALF_ANGLE)
    depth = radius * ((DEPTHS - 1) / RANGE)
    beam = (angle + HALF_ANGLE) * ((BEAMS - 1) / (2 * HALF_ANGLE))
    return np.stack([depth[inside], beam[inside]]).astype(np.float32), inside


def _decibels(level: Float32) -> Float32:
    """Amplitude of a level in dB."""
    amplitude: Float32 = np.exp(level * np.float32(np.log(10) / 20))
    return amplitude


def _echo_strength(
    place: Place, ventricle: Ventricle, settings: dict[str, float], rng: np.random.Generator
) -> Float32:
    """Echo strength in dB relative to the wall. Shape: (DEPTHS, BEAMS)."""
    blood = np.float32(settings["blood"])
    level = np.full(place.along.shape, settings["tissue"], np.float32) + _patches(rng, 3.0)
    level[_chamber_beside(place, ventricle, rng)] = blood + 3
    level[_atrium(place, ventricle, rng)] = blood + 1
    wall = (place.outside_by < 0) & (place.base <= 1)
    level[wall] = (np.float32(settings["wall"]) + _patches(rng, 2.0))[wall]
    cavity = (place.inside_by < 0) & (place.base <= 1)
    level[cavity] = (blood + _patches(rng, 2.5))[cavity]
    level += _line(place.outside_by - 0.006, 0.006, rng.uniform(8, 15)) * (place.base <= 1.02)
    valve = (
        place.base
        - 1
        + np.float32(rng.uniform(-0.1, 0.25)) * (1 - np.abs(place.across) / np.float32(ventricle.half_width))
    )
    near = (place.inside_by < 0.01) & (np.abs(valve) < 0.03)
    level[near] = np.maximum(level[near], np.float32(rng.uniform(-8, 2)))
    lateral = wall & (place.across > 0) & (place.along > 0.15)
    level[lateral] -= np.float32(settings["dropout"])
    return level


def _line(distance: Float32, width: float, height: float) -> Float32:
    """A bright line of ``height`` dB where ``distance`` is 0."""
    line: Float32 = np.float32(height) * np.exp(-((distance / np.float32(width)) ** 2))
    return line


def _chamber_beside(place: Place, ventricle: Ventricle, rng: np.random.Generator) -> Bool:
    """The right ventricle: a dark half-moon to the left of the wall."""
    start, reach = rng.uniform(0.25, 0.5), rng.uniform(0.08, 0.15)
    middle = (place.along - np.float32(start)) / np.float32(1.02 - start)
    width = reach * 2 * np.sqrt(np.clip(middle, 0, 1)) * (1 - 0.5 * np.clip(middle, 0, 1))
    inside: Bool = (place.across < 0) & (place.outside_by > 0.006) & (place.outside_by < width)
    return inside & (place.base < 1.0)


def _atrium(place: Place, ventricle: Ventricle, rng: np.random.Generator) -> Bool:
    """The left atrium: a dark oval beyond the base."""
    depth = np.float32(rng.uniform(0.35, 0.6))
    width = np.float32(ventricle.half_width * rng.uniform(0.8, 1.15))
    inside: Bool = ((place.base - 1 - depth * 0.75) / depth) ** 2 + (place.across / width) ** 2 < 1
    return inside & (place.base > 1.03)


def _patches(rng: np.random.Generator, spread: float) -> Float32:
    """Slowly varying level in dB with about this standard deviation. Shape: (DEPTHS, BEAMS)."""
    coarse = (spread * 1.4) * rng.standard_normal((9, 7), np.float32)
    rows = np.linspace(0, 8, DEPTHS)
    columns = np.linspace(0, 6, BEAMS)
    weights = [
        np.clip(1 - np.abs(at[:, None] - np.arange(count)), 0, 1).astype(np.float32)
        for at, count in ((rows, 9), (columns, 7))
    ]
    patches: Float32 = weights[0] @ coarse @ weights[1].T
    return patches


def _speckle(rng: np.random.Generator, shape: tuple[int, ...]) -> Complex64:
    pairs = rng.standard_normal((*shape, 2), np.float32)
    return pairs.view(np.complex64)[..., 0]


def _blurred(echoes: Complex64, beam: float) -> Complex64:
    """The point spread: short in depth, across the beams narrow in the focus and wide far from it; unit noise gain."""
    axial = gaussian_filter1d(echoes, 1.1, axis=0, truncate=2.5)
    narrow = gaussian_filter1d(axial, beam, axis=1, truncate=2.5)
    wide = gaussian_filter1d(axial, 1.8 * beam, axis=1, truncate=2.5)
    away = np.abs(np.linspace(0, RANGE, DEPTHS, dtype=np.float32) - 0.4)[:, None] / np.float32(0.56)
    gain = np.float32(2 * np.sqrt(np.pi * 1.1 * beam))
    spread: Complex64 = gain * ((1 - away) * narrow + away * np.float32(np.sqrt(1.8)) * wide)
    return spread


def _haze(settings: dict[str, float], rng: np.random.Generator) -> Float32:
    """Reverberation under the probe: dies away with depth, uneven across the beams."""
    depth = np.linspace(0, RANGE, DEPTHS, dtype=np.float32)[:, None]
    uneven = np.clip(1 + _patches(rng, 0.35), 0.2, 2)
    haze: Float32 = np.float32(settings["haze"]) * np.exp(-depth / np.float32(0.2)) * uneven
    return haze


def _losses(settings: dict[str, float], rng: np.random.Generator) -> Float32:
    """Attenuation that the depth gain leaves, and shadows along beams, in dB. Shape: (DEPTHS, BEAMS)."""
    depth = np.linspace(0, 1, DEPTHS, dtype=np.float32)[:, None]
    beams = np.linspace(-1, 1, BEAMS, dtype=np.float32)[None]
    losses: Float32 = np.repeat(-np.float32(settings["attenuation"]) * (depth - 0.3), BEAMS, axis=1)
    losses -= np.float32(3) * np.abs(beams) ** 3
    for _shadow in range(rng.poisson(settings["shadows"])):
        at, width, start = rng.uniform(-0.8, 0.8), rng.uniform(0.06, 0.18), rng.uniform(0.02, 0.3)
        below = 1 / (1 + np.exp(-(depth - np.float32(start)) / np.float32(0.02)))
        losses -= _line(beams - np.float32(at), width, settings["shadow"]) * below
    return losses


def _display(envelope: Float32, settings: dict[str, float]) -> Float32:
    """Log compression: 8 dB above the wall and ``gain`` is white, ``dynamic_range`` below that is black; 0..255."""
    level = np.float32(20) * np.log10(envelope + np.float32(1e-6)) - np.float32(10 - settings["gain"])
    shown = np.clip(1 + level / np.float32(settings["dynamic_range"]), 0, 1)
    grey: Float32 = np.float32(255) * shown ** np.float32(settings["gamma"])
    return grey


def _scan_convert(polar: Float32, shape: tuple[int, int]) -> Float32:
    """Beams to pixels; where pixels are coarser than the samples of a beam, these are averaged first."""
    samples = round(DEPTHS / RANGE / shape[0])
    smooth = uniform_filter1d(polar, samples, axis=0) if samples > 1 else polar
    at, inside = _sector(shape)
    image = np.zeros(shape, np.float32)
    image[inside] = map_coordinates(smooth, at, order=1, mode="nearest")
    return image
