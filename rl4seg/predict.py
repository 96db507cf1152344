"""Predictions of a policy over a case store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from reward_data.case_store import CaseStore
from reward_data.types import Float32, Int64, Progress, UInt8, no_progress
from rl4seg.policies import Model, TorchSegmenter
from rl4seg.runtime import Runtime


@dataclass(frozen=True)
class Predictions:
    """Argmax masks of some cases of a store. ``masks`` Shape: (n, *S); ``confidence`` (n,) mean maximum softmax."""

    indices: Int64
    masks: UInt8
    confidence: Float32

    def save(self, path: Path) -> None:
        """Write HDF5; equal predictions give equal bytes."""
        with h5py.File(path, "w") as file:
            file.create_dataset("indices", data=self.indices)
            file.create_dataset(
                "masks",
                data=self.masks,
                chunks=(1, *self.masks.shape[1:]),
                compression="gzip",
                compression_opts=1,
            )
            file.create_dataset("confidence", data=self.confidence)

    @classmethod
    def load(cls, path: Path) -> Predictions:
        """Read what `save` wrote."""
        with h5py.File(path, "r") as file:
            return cls(file["indices"][:], file["masks"][:], file["confidence"][:])


def predict(
    model: Model, store: CaseStore, indices: Int64, runtime: Runtime, progress: Progress = no_progress
) -> Predictions:
    """Argmax masks and mean confidence of the cases ``indices``, in batches, in eval mode."""
    segmenter = TorchSegmenter(model, runtime)
    masks = np.zeros((len(indices), *store.shape), np.uint8)
    confidence = np.zeros(len(indices), np.float32)
    for start in range(0, len(indices), runtime.batch_size):
        part = slice(start, start + runtime.batch_size)
        probabilities = segmenter.probabilities(store.images(indices[part]))
        masks[part] = probabilities.argmax(1)
        confidence[part] = probabilities.max(1).reshape(len(probabilities), -1).mean(1)
        progress(min(start + runtime.batch_size, len(indices)), len(indices))
    return Predictions(np.asarray(indices, np.int64), masks, confidence)
