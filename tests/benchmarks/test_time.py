"""Gain and cost of the test-time methods on a run's labelled test images: ``python -m tests.benchmarks.test_time RUN``.

One line per method: mean Dice and validity, on the network's grid; how many masks have changed, and by how much their
Dice has; AUROC of trust for the masks below the flag's limit; what the flag finds and flags; core time per image.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flows.run_folder import read_status
from reward_data.anatomy import is_valid
from reward_data.case_store import CaseStore
from reward_data.types import Bool, Float64, Int64
from rl4seg.configs.predict import AugmentedConfig, OptimisedConfig, PredictConfig
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.evaluate import held_out
from rl4seg.metrics import auroc
from rl4seg.package import ModelPackage, load_package, package_folder
from rl4seg.predictor import Predictor, Prepared
from rl4seg.runtime import Runtime, start
from rl4seg.trust_views import mean_dice


def augmented(draws: int) -> PredictConfig:
    return PredictConfig(augmented=AugmentedConfig(draws=draws))


def optimised(rounds: int, when: str = "invalid", draws: int = 0) -> PredictConfig:
    settings = OptimisedConfig.model_validate({"rounds": rounds, "when": when})
    return PredictConfig(optimised=settings, augmented=AugmentedConfig(draws=draws))


METHODS = {
    "plain": PredictConfig(),
    "largest piece": PredictConfig(post_process=True),
    **{f"augmented, {draws} draws": augmented(draws) for draws in (2, 4, 8, 16)},
    **{f"optimised, {rounds} rounds": optimised(rounds) for rounds in (2, 5, 10)},
    "optimised, 5 rounds, or flagged": optimised(5, "either"),
    "both, 4 draws and 5 rounds": optimised(5, draws=4),
}


class Scores(NamedTuple):
    """Of every image: Dice, validity, trust (n,), and the core seconds for all."""

    dice: Float64
    valid: Bool
    trust: Float64
    seconds: float


def target_store(run: Path, store: Path) -> Path:
    """The case store of a run's target images."""
    (row,) = [row for row in read_status(run) if row.label == "import target"]
    return store / row.key / "cases.h5"


def scored(
    package: ModelPackage, store: CaseStore, indices: Int64, options: PredictConfig, runtime: Runtime
) -> Scores:
    """A method's masks against the labels."""
    predictor = Predictor(package, runtime, options)
    images = store.images(indices)
    geometries = [store.geometry(int(i)) for i in indices]
    prepared = [Prepared(image, geometry, True) for image, geometry in zip(images, geometries, strict=True)]
    predictor.infer(prepared[:1])
    began = time.process_time()
    seen = predictor.infer(prepared)
    seconds = time.process_time() - began
    classes, rules = package.model.num_classes, package.spec.rules
    return Scores(
        np.array([mean_dice(s.mask, y, classes) for s, y in zip(seen, store.labels(indices), strict=True)]),
        np.array([is_valid(s.mask, rules, g.spacing_mm) for s, g in zip(seen, geometries, strict=True)]),
        np.array([s.trust for s in seen]),
        seconds,
    )


def line(name: str, own: Scores, plain: Scores, package: ModelPackage) -> str:
    """A row of the table."""
    gain = own.dice - plain.dice
    changed = gain != 0
    cells = [f"{own.dice.mean():.4f}", f"{gain.mean() * 100:+.2f}", f"{own.valid.mean():.1%}"]
    among = f" ({gain[changed].mean() * 100:+.2f} each)" if changed.any() else ""
    cells.append(f"{changed.sum()}{among}")
    flag = package.spec.trust
    if flag is None:
        cells += ["-", "-"]
    else:
        bad, flagged = own.dice < flag.dice_below, own.trust < flag.threshold
        found = f"{flagged[bad].mean():.0%}" if bad.any() else "none bad"
        cells += [f"{auroc(-own.trust, bad):.3f}", f"{found} at {flagged.mean():.0%}"]
    cells.append(f"{own.seconds / len(own.dice) * 1000:.1f}")
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--store", type=Path, help="its artifact store, if not beside it")
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS), default=tuple(METHODS))
    parser.add_argument("--batch", type=int, default=16, help="images per forward pass")
    arguments = parser.parse_args()
    runtime = start(RuntimeConfig(threads=1, batch_size=arguments.batch))
    package = load_package(package_folder(arguments.run), runtime)
    with CaseStore(target_store(arguments.run, arguments.store or arguments.run.parent / "store")) as store:
        indices = np.array([i for i in held_out(store) if store.has_label[i]], np.int64)
        print(f"{len(indices)} labelled test images of {arguments.run}\n")
        print(
            "| method | Dice | gain, points | valid | masks changed | AUROC of trust | flag finds | core-ms per image |"
        )
        print("|---|---|---|---|---|---|---|---|")
        plain = scored(package, store, indices, METHODS["plain"], runtime)
        for name in arguments.methods:
            own = plain if name == "plain" else scored(package, store, indices, METHODS[name], runtime)
            print(line(name, own, plain, package), flush=True)


if __name__ == "__main__":
    main()
