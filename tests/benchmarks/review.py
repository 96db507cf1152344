"""What 10 reviewed cases of 300 give: the least trusted ones against random ones and against none.

    python -m tests.benchmarks.review [FOLDER] [key=value ...]

The loop's own stages on the phantom, whose exact masks stand for the expert. Prints the target Dice of the last
iteration per seed and arm, mean ± sd over seeds, and paired differences over the cases of all seeds with the interval
of a bootstrap. Runs of a FOLDER are continued.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from pathlib import Path

import numpy as np

from flows.config import AutoIterationConfig
from flows.config_loader import load_config
from reward_data.types import Float64

SEEDS = (0, 1, 2)
ARMS: dict[str, list[str]] = {
    "none": [],
    "random": ["review.enabled=true", "review.by=random"],
    "trust": ["review.enabled=true", "review.by=trust"],
}
BASE = [
    "iterations=2", "target.phantom.cases=455", "preprocess.shape=[48,48]", "rivals.ppo_off=false",
    "rivals.logit_bias=false", "rivals.upper_bound=false", "review.cases=10",
]  # fmt: skip
DRAWS = 10_000


def run(folder: Path, arm: str, seed: int, overrides: list[str]) -> Path:
    """One run, its review answered by the true masks; returns its run folder."""
    from flows.auto_iteration import adaptation
    from flows.review_wait import Waiting
    from flows.run_environment import run_environment

    name = f"{arm}-{seed}"
    own = [
        f"name={name}",
        f"output={folder}",
        f"seed={seed}",
        f"source.phantom.seed={10 * seed + 1}",
        f"target.phantom.seed={10 * seed + 2}",
    ]
    config = load_config("auto_iteration/demo", [*BASE, *own, *ARMS[arm], *overrides], AutoIterationConfig)
    while True:
        with run_environment(config) as here:
            try:
                here.publish(adaptation(config))
            except Waiting:
                answer(config)
            else:
                return config.run_folder


def answer(config: AutoIterationConfig) -> None:
    """Do what a perfect expert does: every exported case gets its true mask."""
    from flows.review_folder import counts, reviews_of
    from reward_data.readers import read_cases
    from reward_data.review import MASKS, Answers
    from reward_data.review_files import write_volume

    review = reviews_of(config.run_folder)[-1]
    asked = {case.case: case for case in review.export.cases}
    for case in read_cases(config.target):
        if case.id in asked and case.label is not None:
            path = review.path / MASKS / f"{asked[case.id].file}.nii.gz"
            write_volume(path, case.label, case.spacing_mm, case.affine)
    print(config.name, counts(review.take(review.path, Answers(accept_all=True))), flush=True)


def final_dice(run_folder: Path) -> tuple[Float64, float]:
    """Dice per held-out case of the loop's last iteration, by case id; and its validity."""
    import json

    rows = json.loads((run_folder / "metrics.json").read_text())["rows"]
    last = max(
        (row for row in rows if row["arm"].startswith("RL4Seg")), key=lambda row: int(row["iteration"])
    )
    return np.array([last["case_dice"][case] for case in sorted(last["case_dice"])]), float(last["validity"])


def interval(differences: list[Float64], rng: np.random.Generator) -> tuple[float, float]:
    """95 % percentile interval of the mean over seeds and cases, both drawn anew."""
    means = []
    for _ in range(DRAWS):
        seeds = rng.integers(len(differences), size=len(differences))
        means.append(np.mean([rng.choice(differences[s], len(differences[s])).mean() for s in seeds]))
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def main() -> int:
    """Run all arms and seeds and print the table."""
    arguments = sys.argv[1:]
    folder = Path(arguments.pop(0)) if arguments and "=" not in arguments[0] else Path(tempfile.mkdtemp())
    dice: dict[str, list[Float64]] = {arm: [] for arm in ARMS}
    rows = []
    for seed in SEEDS:
        for arm in ARMS:
            found, valid = final_dice(run(folder, arm, seed, arguments))
            dice[arm].append(found)
            rows.append((seed, arm, found.mean(), valid))
            print(f"seed {seed}  {arm:7s} Dice {found.mean():.4f}  validity {valid:.3f}", flush=True)
    with (folder / "review.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("seed", "arm", "dice", "validity"), *rows])
    for arm, found in dice.items():
        means = [values.mean() for values in found]
        print(f"{arm:7s} Dice {np.mean(means):.4f} ± {np.std(means, ddof=1):.4f}")
    for better, worse in (("trust", "random"), ("trust", "none"), ("random", "none")):
        differences = [a - b for a, b in zip(dice[better], dice[worse], strict=True)]
        low, high = interval(differences, np.random.default_rng(0))
        mean = np.mean([d.mean() for d in differences])
        print(f"{better} - {worse}: {mean:+.4f} [{low:+.4f}, {high:+.4f}]")
    return 0


if __name__ == "__main__":
    sys.exit(main())
