"""The anatomy of the phantom: a left ventricle in its wall, drawn at random and given by formulas.

Lengths are shares of the image height; x runs to the right from the middle of the image, y down from the probe. A
ventricle has its own coordinates: ``along`` its bent axis (0 at the apex of the cavity, 1 at the base) and ``across``
it. In these, the cavity and the outside of the wall are half-widths as functions of ``along``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from reward_data.types import Bool, Float32, UInt8

BACKGROUND, CAVITY, WALL = 0, 1, 2


@dataclass(frozen=True)
class Ventricle:
    """Shape of one frame. Pairs are (left, right) of the axis as seen in the image.

    ``apex`` is (x, y) of the tip of the cavity; ``tilt`` the angle of the axis from the vertical in rad; ``bend`` the
    largest sideways shift of the axis; ``apical`` the share of the length over which the tip opens, with the exponent
    ``bluntness``; ``taper`` the share of the width lost towards the base; ``slant`` the slope of the base line
    and ``bulge`` how far it is bent up at the rim of the cavity; ``waves`` the amplitude and phase of two cosines on
    each side, Shape: (2 sides, 2 waves, 2).
    """

    apex: tuple[float, float]
    tilt: float
    length: float
    half_width: float
    bend: float
    apical: float
    bluntness: float
    taper: float
    slant: float
    bulge: float
    walls: tuple[float, float]
    apex_wall: float
    wall_growth: tuple[float, float]
    waves: tuple[tuple[tuple[float, float], ...], ...]


@dataclass(frozen=True)
class Place:
    """Where points lie in a ventricle's coordinates. Every field has the shape of the points.

    ``along`` and ``across`` (right is positive); ``base`` > 1 beyond the base line; ``inside_by`` and ``outside_by``:
    how far a point lies outside the cavity and outside the wall, across the axis.
    """

    along: Float32
    across: Float32
    base: Float32
    inside_by: Float32
    outside_by: Float32


def draw_ventricle(rng: np.random.Generator) -> Ventricle:
    """A patient's ventricle at end-diastole."""
    wall = rng.uniform(0.048, 0.078)
    uneven = rng.uniform(-0.16, 0.16)
    waves = tuple(
        tuple((rng.normal(0, scale), rng.uniform(0, 2 * np.pi)) for scale in (0.035, 0.025))
        for _side in range(2)
    )
    return Ventricle(
        apex=(rng.uniform(-0.07, 0.09), rng.uniform(0.17, 0.27)),
        tilt=rng.uniform(-0.22, 0.26),
        length=rng.uniform(0.40, 0.54),
        half_width=rng.uniform(0.095, 0.15),
        bend=rng.uniform(-0.025, 0.025),
        apical=rng.uniform(0.45, 0.75),
        bluntness=rng.uniform(1.8, 2.3),
        taper=rng.uniform(0.06, 0.30),
        slant=rng.uniform(-0.3, 0.3),
        bulge=rng.uniform(0.02, 0.05),
        walls=(wall * (1 + uneven), wall * (1 - uneven)),
        apex_wall=wall * rng.uniform(0.75, 1.05),
        wall_growth=(rng.uniform(-0.15, 0.2), rng.uniform(-0.15, 0.2)),
        waves=waves,
    )


def contract(ventricle: Ventricle, rng: np.random.Generator) -> Ventricle:
    """The same ventricle at end-systole: shorter, narrower, with a thicker wall."""
    shortening, narrowing = rng.uniform(0.82, 0.93), rng.uniform(0.66, 0.86)
    thickening = rng.uniform(1.12, 1.35)
    left, right = ventricle.walls
    x, y = ventricle.apex
    return replace(
        ventricle,
        apex=(x + rng.normal(0, 0.006), y + rng.uniform(0.0, 0.02)),
        tilt=ventricle.tilt + rng.normal(0, 0.02),
        length=ventricle.length * shortening,
        half_width=ventricle.half_width * narrowing,
        walls=(left * thickening, right * thickening),
        apex_wall=ventricle.apex_wall * thickening,
    )


def locate(ventricle: Ventricle, x: Float32, y: Float32) -> Place:
    """The ventricle's coordinates of image points. Args: x, y, any one shape, shares of the image height."""
    cosine, sine = np.float32(np.cos(ventricle.tilt)), np.float32(np.sin(ventricle.tilt))
    dx: Float32 = x - np.float32(ventricle.apex[0])
    dy: Float32 = y - np.float32(ventricle.apex[1])
    below: Float32 = dy * cosine - dx * sine
    along = below / np.float32(ventricle.length)
    across: Float32 = dx * cosine + dy * sine
    across = across - np.float32(4 * ventricle.bend) * along * (1 - along)
    inner, outer = _half_widths(ventricle, along, across > 0)
    distance = np.abs(across)
    bulge = np.float32(ventricle.bulge) * np.square(across / np.float32(ventricle.half_width))
    return Place(
        along=along,
        across=across,
        base=along + np.float32(ventricle.slant) * across + bulge,
        inside_by=distance - inner,
        outside_by=distance - outer,
    )


def label(place: Place) -> UInt8:
    """Class of every point: 0 background, 1 cavity, 2 wall; both end at the base line. Shape: that of the points."""
    before_base = place.base <= 1
    labels: UInt8 = np.where(before_base & (place.outside_by < 0), WALL, BACKGROUND).astype(np.uint8)
    labels[before_base & (place.inside_by < 0)] = CAVITY
    return labels


def _half_widths(ventricle: Ventricle, along: Float32, right: Bool) -> tuple[Float32, Float32]:
    """Half-width of the cavity and of the whole on the side where each point lies."""
    inner_by_side, wall_by_side = [], []
    for waves, thickness, growth in zip(ventricle.waves, ventricle.walls, ventricle.wall_growth):
        wobble = sum(
            np.float32(size) * np.cos(np.float32(np.pi * order) * along + np.float32(phase))
            for order, (size, phase) in enumerate(waves, start=1)
        )
        inner_by_side.append(np.float32(ventricle.half_width) * (1 + wobble))
        wall_by_side.append(np.float32(thickness) * (1 + np.float32(growth) * (along - np.float32(0.5))))
    inner = np.where(right, inner_by_side[1], inner_by_side[0])
    wall = np.where(right, wall_by_side[1], wall_by_side[0])
    cap = np.float32(ventricle.apex_wall / ventricle.length)
    whole = (along + cap) / (1 + cap)
    return inner * _bullet(ventricle, along), (inner + wall) * _bullet(ventricle, whole)


def _bullet(ventricle: Ventricle, along: Float32) -> Float32:
    """Share of the full half-width: 0 up to the tip, opening like a superellipse, narrowing towards the base."""
    power = np.float32(ventricle.bluntness)
    rest = np.clip(1 - along / np.float32(ventricle.apical), 0, 1)
    opening = (1 - rest**power) ** (1 / power)
    late = np.clip((along - np.float32(ventricle.apical)) / np.float32(1 - ventricle.apical), 0, 1.3)
    shares: Float32 = opening * (1 - np.float32(ventricle.taper) * late * late)
    return shares
