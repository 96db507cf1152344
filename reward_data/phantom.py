"""A two-domain ultrasound phantom with exact masks: data for the demo and for tests, none of it from a patient.

Both domains show the same kind of anatomy; the target is imaged worse (see ``phantom_physics.SETTINGS``).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from reward_data.errors import DataError
from reward_data.native import picture_affine
from reward_data.phantom_physics import draw_settings, grid_points, simulate
from reward_data.phantom_shapes import Ventricle, contract, draw_ventricle, label, locate
from reward_data.types import Case, Config

DEPTH_MM = 150.0
FRAMES = ("ED", "ES")


class PhantomConfig(Config):
    """Which phantom images to simulate."""

    cases: int = Field(
        default=100, ge=1, description="Number of images; two (ED, ES) are one patient, in this order."
    )
    shape: tuple[int, int] = Field(
        default=(64, 64), description="Rows and columns in pixels; the rows always span 150 mm."
    )
    domain: Literal["source", "target"] = Field(
        default="source", description="source: well imaged; target: imaged as `shift` says."
    )
    shift: float = Field(
        default=1.0, ge=0, le=2, description="How much worse the target is imaged; 0 is like the source."
    )
    seed: int = Field(default=0, ge=0, description="Seed of all images; each depends on nothing but it.")
    test_fraction: float = Field(
        default=0.0, ge=0, lt=1, description="Share of the patients, the last ones, whose split is 'test'."
    )

    @field_validator("shape")
    @classmethod
    def _shows_the_heart(cls, shape: tuple[int, int]) -> tuple[int, int]:
        rows, columns = shape
        if rows < 32 or not 0.8 <= columns / rows <= 2:
            raise ValueError(f"shape {shape}: want at least 32 rows, and 0.8 to 2 times as many columns")
        return shape


def phantom_group(config: PhantomConfig, index: int) -> str:
    """Patient of case ``index``, e.g. ``phantom-source-0003``; simulates nothing."""
    return f"phantom-{config.domain}-{index // 2:04d}"


def phantom_case(config: PhantomConfig, index: int) -> Case:
    """Simulate case ``index`` (0..cases - 1): image (1, H, W), whole grey values 0..255, and its exact label (H, W).

    Raises: DataError for an index outside the configured number of cases.
    """
    if not 0 <= index < config.cases:
        raise DataError(
            f"phantom case {index}: wanted 0..{config.cases - 1}; raise `cases` or use a smaller index"
        )
    patient, frame = divmod(index, 2)
    stream = [config.seed, int(config.domain == "target"), patient]
    shift = config.shift if config.domain == "target" else 0.0
    ventricle, settings = _patient(stream, frame, shift)
    image = simulate(ventricle, settings, config.shape, np.random.default_rng([*stream, 1 + frame]))
    spacing = (DEPTH_MM / config.shape[0],) * 2
    return Case(
        id=f"{phantom_group(config, index)}_{FRAMES[frame]}",
        group=phantom_group(config, index),
        domain=config.domain,
        split="test" if _is_test(config, patient) else None,
        image=np.rint(image)[None],
        label=label(locate(ventricle, *grid_points(config.shape))),
        spacing_mm=spacing,
        affine=picture_affine(spacing),
    )


def _patient(stream: list[int], frame: int, shift: float) -> tuple[Ventricle, dict[str, float]]:
    """Shape in this frame and imaging parameters; the latter are the same in both frames."""
    rng = np.random.default_rng([*stream, 0])
    diastole = draw_ventricle(rng)
    systole = contract(diastole, rng)
    return (systole if frame else diastole), draw_settings(shift, rng)


def _is_test(config: PhantomConfig, patient: int) -> bool:
    patients = (config.cases + 1) // 2
    return patient >= patients - round(config.test_fraction * patients)
