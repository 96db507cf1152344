"""From an image as it came to a mask, its error map, its trust and the anatomical verdict. Arrays only, no files.

Three steps, so that a caller can overlap them: `Predictor.prepare` and `Predictor.finish` are CPU work for any number
of threads; `Predictor.infer` is the networks, for as many images as a batch has, and for one
thread at a time where it draws at random.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from reward_data.anatomy import Measurement, is_valid, violations
from reward_data.errors import ConfigError, DataError
from reward_data.geometry import Geometry, channels_to_native
from reward_data.post_processing import post_process
from reward_data.types import Case, Float32, Float64, UInt8
from rl4seg.configs.predict import PredictConfig
from rl4seg.optimised import optimised
from rl4seg.package import ModelPackage
from rl4seg.paser.package import set_budget
from rl4seg.runtime import Runtime
from rl4seg.sight import Sight, look
from rl4seg.windows import lay_on_grid


@dataclass(frozen=True)
class Prepared:
    """An image on the grid G, the trained shape unless windows slide. ``image`` Shape: (C, *G) in [0, 1]."""

    image: Float32
    geometry: Geometry
    spacing_known: bool
    windowed: bool = False


@dataclass(frozen=True)
class CaseResult:
    """What is known about one image. Shapes: S is the native shape.

    ``mask`` (*S) classes; ``error`` (*S) in [0, 1], the probability that the mask's pixel is wrong; ``trust`` in
    [0, 1], the Dice that the error map lets expect (`reward_data.trust`), 0 for an empty mask; ``violated``
    the rules that the mask breaks on the network's grid; ``areas`` class name -> mm2 (mm3 in 3-D) on the native grid,
    None where the pixel size is unknown; ``flagged`` None where the model has no flag; ``rounds`` of test-time
    optimisation that made the mask; ``trusted_by`` what trust and error map are made of.
    """

    mask: UInt8
    error: Float32
    trust: float
    violated: tuple[Measurement, ...]
    areas: dict[str, float | None]
    flagged: bool | None
    spacing_mm: tuple[float, ...]
    affine: Float64
    rounds: int
    trusted_by: str

    @property
    def valid(self) -> bool:
        """Whether the mask obeys every anatomical rule."""
        return not self.violated


class Predictor:
    """A model package ready to be used on images.

    Raises:
        ConfigError: a budget is asked of a package without a router, or one that it cannot keep; or test-time
            optimisation is asked of a package without a reward net, or by a flag that it has not.
    """

    def __init__(self, package: ModelPackage, runtime: Runtime, options: PredictConfig | None = None) -> None:
        self.package, self.runtime, self.options = package, runtime, options or PredictConfig()
        self.spec = package.spec
        set_budget(package.model, self.options.budget)
        optimise = self.options.optimised
        if optimise.rounds and package.reward is None:
            raise ConfigError(
                f"model {self.spec.name!r} has no reward net, and test-time optimisation learns from one; set "
                "optimised.rounds=0 or take a run with ppo.reward.learned > 0"
            )
        if optimise.rounds and optimise.when == "flagged" and self.spec.trust is None:
            raise ConfigError(
                f"model {self.spec.name!r} has no trust flag: nothing says which masks to optimise; take "
                "optimised.when=invalid"
            )

    @property
    def trusted_by(self) -> str:
        """What trust and error maps are made of."""
        return "softmax" if self.package.reward is None else "calibrated reward x softmax"

    @property
    def draws_at_random(self) -> bool:
        """Whether `infer` seeds torch's global generator, so that two calls must not run at once."""
        return bool(self.options.augmented.draws or self.options.optimised.rounds)

    def prepare(
        self,
        image: Float32,
        spacing_mm: Sequence[float] | None = None,
        affine: Float64 | None = None,
        name: str = "image",
    ) -> Prepared:
        """Lay an image on the network's grid.

        Args:
            image: native intensities. Shape: (C, *S).
            spacing_mm: pixel size per axis; None = unknown, then pixels are taken to be square.
            affine: pixel index to world (RAS+, mm), Shape: (4, 4); None = made of the spacing.
            name: of the image, for errors.

        Raises:
            DataError: nothing can be predicted for it (channels, axes, no pixels, no contrast, not finite).
        """
        case = _case(image, spacing_mm, affine, name)
        wanted = self.package.model.spec.in_channels
        if case.image.shape[0] != wanted:
            raise DataError(
                f"{name} has {case.image.shape[0]} channels, the model wants {wanted}; "
                + ("convert it to grey" if wanted == 1 else "give the images that the model was trained on")
            )
        grid, geometry, windowed = lay_on_grid(case, self.spec.preprocess, self.options.window)
        return Prepared(grid, geometry, case.spacing_known, windowed)

    def infer(self, batch: Sequence[Prepared]) -> list[Sight]:
        """What the networks say, in the order of ``batch``: of each image its probabilities, mask and expected errors.

        Images on equal grids go through together, ``runtime.batch_size`` at a time.
        """
        seen: dict[int, Sight] = {}
        for places in self._groups(batch):
            images = self.runtime.tensor(np.stack([batch[place].image for place in places]))
            seen.update(zip(places, self._look(images, batch[places[0]].windowed), strict=True))
        if self.options.optimised.rounds:
            seen = {place: self._optimised(batch[place], sight) for place, sight in seen.items()}
        return [seen[place] for place in range(len(batch))]

    def finish(self, prepared: Prepared, sight: Sight) -> CaseResult:
        """Bring what the networks said back to the native grid, judge and measure it."""
        geometry = prepared.geometry
        labels = self._native_mask(sight, geometry)
        error: Float32 = channels_to_native(sight.error[None], geometry)[0].clip(0, 1)
        flag, trust = self.spec.trust, sight.trust
        return CaseResult(
            mask=labels,
            error=error,
            trust=trust,
            violated=violations(sight.mask, self.spec.rules, geometry.spacing_mm),
            areas=self._areas(labels, geometry.native_spacing_mm if prepared.spacing_known else None),
            flagged=None if flag is None else trust < flag.threshold,
            spacing_mm=geometry.native_spacing_mm,
            affine=np.asarray(geometry.affine, dtype=np.float64),
            rounds=sight.rounds,
            trusted_by=self.trusted_by,
        )

    def predict(
        self, image: Float32, spacing_mm: Sequence[float] | None = None, affine: Float64 | None = None
    ) -> CaseResult:
        """All three steps for one image; arguments and errors as `prepare`."""
        prepared = self.prepare(image, spacing_mm, affine)
        return self.finish(prepared, self.infer([prepared])[0])

    def _groups(self, batch: Sequence[Prepared]) -> Iterator[list[int]]:
        """Places in the batch that go through the network together."""
        alike: dict[tuple[object, ...], list[int]] = {}
        for place, prepared in enumerate(batch):
            alike.setdefault((prepared.image.shape, prepared.windowed), []).append(place)
        for places in alike.values():
            size = 1 if batch[places[0]].windowed else self.runtime.batch_size
            yield from (places[start : start + size] for start in range(0, len(places), size))

    def _look(self, images: torch.Tensor, windowed: bool) -> list[Sight]:
        """An image alone goes through as two: for one, torch takes CPU kernels that round otherwise than for many."""
        alone = len(images) == 1 and not windowed and images.device.type == "cpu"
        inputs = images.repeat(2, *[1] * (images.ndim - 1)) if alone else images
        return look(self.package, inputs, self.options, windowed, self.runtime)[: len(images)]

    def _optimised(self, prepared: Prepared, sight: Sight) -> Sight:
        """The sight itself where no check fails, or where windows slide: PPO needs the whole image at once."""
        spacing = prepared.geometry.spacing_mm

        def passes(seen: Sight) -> bool:
            return self._passes(seen, spacing)

        if prepared.windowed or passes(sight):
            return sight
        images = self.runtime.tensor(prepared.image[None])
        return optimised(self.package, images, spacing, sight, passes, self.options, self.runtime)

    def _passes(self, sight: Sight, spacing_mm: tuple[float, ...]) -> bool:
        """Whether a mask passes the checks of test-time optimisation."""
        when, flag = self.options.optimised.when, self.spec.trust
        if when != "flagged" and not is_valid(sight.mask, self.spec.rules, spacing_mm):
            return False
        return when == "invalid" or flag is None or sight.trust >= flag.threshold

    def _native_mask(self, sight: Sight, geometry: Geometry) -> UInt8:
        if geometry.native_shape == geometry.resized_shape:  # nothing to interpolate
            window = tuple(
                slice(start, start + size) for start, size in zip(geometry.pad_before, geometry.resized_shape)
            )
            return sight.mask[window].copy()
        labels = _largest(channels_to_native(sight.probabilities, geometry))
        return post_process(labels) if self.options.post_process else labels

    def _areas(self, labels: UInt8, spacing_mm: tuple[float, ...] | None) -> dict[str, float | None]:
        names = self.spec.labels.names
        if spacing_mm is None:
            return dict.fromkeys(names[1:])
        pixel = math.prod(spacing_mm)
        return {name: np.count_nonzero(labels == value) * pixel for value, name in enumerate(names) if value}


def _largest(values: Float32) -> UInt8:
    """``argmax(axis=0)``, which numpy does slowly where there are few classes; of equals the first. (K, *S) -> (*S)."""
    best, labels = values[0].copy(), np.zeros(values.shape[1:], np.uint8)
    for value in range(1, len(values)):
        labels[values[value] > best] = value
        np.maximum(best, values[value], out=best)
    return labels


def _case(image: Float32, spacing_mm: Sequence[float] | None, affine: Float64 | None, name: str) -> Case:
    """The image as a case, checked for what no network can make sense of."""
    values = np.asarray(image, dtype=np.float32)
    if values.ndim < 3 or values.size == 0:
        raise DataError(
            f"{name} has the shape {values.shape}, wanted (channels, *pixels) with a pixel at least; give image[None] "
            "where there is no axis of channels"
        )
    if not np.isfinite(values).all():
        raise DataError(f"{name} has pixels that are NaN or infinite; mend the file or leave it out")
    if values.min() == values.max():
        raise DataError(
            f"{name} is {values.flat[0]:g} everywhere: there is nothing to see; leave it out or export it anew"
        )
    axes = values.ndim - 1
    spacing = tuple(float(size) for size in spacing_mm) if spacing_mm is not None else (1.0,) * axes
    if len(spacing) != axes or not all(math.isfinite(size) and size > 0 for size in spacing):
        raise DataError(
            f"{name}: spacing_mm={spacing} for {axes} axes; give one positive size in mm per axis, or none at all"
        )
    if affine is None:
        affine = np.diag([*spacing, *[1.0] * (4 - axes)])
    return Case(name, name, "", None, values, None, spacing, affine, spacing_mm is not None)
