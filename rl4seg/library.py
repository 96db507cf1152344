"""The library's front door: a trained policy as one object that takes arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from reward_data.types import Float64
from rl4seg.configs.predict import PredictConfig
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.package import PackageSpec, load_package, package_folder
from rl4seg.predictor import CaseResult, Predictor
from rl4seg.runtime import start


class LoadedPolicy:
    """A trained policy: call it with an image."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    @property
    def spec(self) -> PackageSpec:
        """What the model says about itself: classes, preprocessing, rules, trust flag."""
        return self.predictor.spec

    def __call__(
        self,
        image: npt.ArrayLike,
        spacing_mm: Sequence[float] | None = None,
        affine: Float64 | None = None,
    ) -> CaseResult:
        """Mask, error map, trust and verdict of one image; see `rl4seg.predictor.CaseResult`.

        Args:
            image: native intensities. Shape: (*S), or (C, *S) for a model of several channels.
            spacing_mm: pixel size per axis; None = unknown.
            affine: pixel index to world (RAS+, mm), Shape: (4, 4); None = made of the spacing.

        Raises:
            DataError: nothing can be predicted for the image.
        """
        values = np.asarray(image, dtype=np.float32)
        if values.ndim == len(self.spec.preprocess.shape):
            values = values[None]
        return self.predictor.predict(values, spacing_mm, affine)


def load_policy(
    path: Path | str, options: PredictConfig | None = None, runtime: RuntimeConfig | None = None
) -> LoadedPolicy:
    """Read a model package. Sets the number of threads and asks for repeatable kernels of torch in this process.

    Args:
        path: ``policy/`` of a run, a copy of it, the folder of the run, or an exported bundle.
        options: test-time methods, windows, post-processing; None = none of them.
        runtime: device, precision, threads; None = CUDA where visible.

    Raises:
        ArtifactError: no readable model package is there.
    """
    resolved = start(runtime or RuntimeConfig())
    return LoadedPolicy(Predictor(load_package(package_folder(path), resolved), resolved, options))
