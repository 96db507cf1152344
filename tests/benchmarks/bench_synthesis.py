"""Synthesis per accepted 256x256 image, all families on: ``python -m tests.benchmarks.bench_synthesis``.

Reference 4.0 core-s, 28 files and 1.2 MB per accepted image; wanted a fifth of the time at most. The segmenter is the
paper's U-Net with the truth as its answer, so that every image is accepted and every pass is paid for.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from reward_data.anatomy import load_rules
from reward_data.case_store import CaseStore, import_cases
from reward_data.phantom import PhantomConfig, phantom_case
from reward_data.preprocess import PreprocessConfig
from reward_data.shape_prior import ShapePrior
from reward_data.synthesis import SynthesisConfig, synthesize
from reward_data.types import LabelMap
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.policies import TorchSegmenter, new_model, spec_for
from rl4seg.runtime import start
from tests.benchmarks.bench_ppo import PAPER, SIDE

IMAGES, REFERENCE = 24, 4.0


def main() -> int:
    """Print the figure; 1 where it misses a fifth of the reference."""
    phantom = PhantomConfig(cases=IMAGES, shape=(SIDE, SIDE))
    runtime = start(RuntimeConfig(device="cpu", threads=1, batch_size=8))
    with tempfile.TemporaryDirectory() as scratch:
        path, out = Path(scratch) / "cases.h5", Path(scratch) / "rewards.h5"
        cases = (phantom_case(phantom, i) for i in range(IMAGES))
        import_cases(cases, IMAGES, PreprocessConfig(shape=(SIDE, SIDE)), LabelMap(), path)
        with CaseStore(path) as store:
            masks, everyone = store.labels(store.indices()), store.indices()
            segmenter = TorchSegmenter(new_model(spec_for(PAPER, store)), runtime)
            prior = ShapePrior.fit(masks, store.num_classes, 20)
            config = SynthesisConfig(agreement=0.0)
            begun = time.process_time()
            rules = load_rules("lv_myo")
            summary = synthesize(
                store, everyone, masks, segmenter, rules, prior, config, 0, out, Path(scratch) / "c"
            )
            seconds = time.process_time() - begun
        accepted = round(summary["accepted"] * IMAGES)
        kilobytes = out.stat().st_size / 1e3 / accepted
        examples = sum(summary["examples"].values()) / accepted
    each = seconds / accepted
    print(
        f"synthesis per accepted 256x256 image: {each:.2f} core-s, {kilobytes:.0f} kB, {examples:.1f} examples"
    )
    print(
        f"  {REFERENCE / each:.1f} times as quick as the reference (wanted 5); {accepted} of {IMAGES} accepted"
    )
    return 0 if np.isfinite(each) and each <= REFERENCE / 5 else 1


if __name__ == "__main__":
    sys.exit(main())
