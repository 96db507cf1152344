"""A config over several seeds: ``python -m tests.benchmarks.study [CONFIG] [--seeds 0 1 2] [key=value ...]``.

Prints mean and standard deviation over the seeds of each arm's last iteration, and the loop's gain over source-only.
Every seed is a run of its own under ``runs/study``; finished stages are reused. For the demo it ends with exit code 1
where the promised gains are missed: 10 points of validity, 1 point of mean Dice, .06 Dice below the upper bound.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

from flows.reporting.data import MAIN, SOURCE_ONLY, UPPER_BOUND
from flows.reporting.report import METRICS, Metrics, read_metrics

DEMO = "auto_iteration/demo"
Figures = dict[str, tuple[float, float, float]]  # arm -> mean Dice, validity, HD95


def run(config: str, seed: int, overrides: list[str]) -> Metrics:
    name = f"{Path(config).stem}-seed{seed}"
    command = [sys.executable, "-c", "from flows.cli import main; main()", "run", config]
    subprocess.run([*command, f"seed={seed}", f"name={name}", "output=runs/study", *overrides], check=True)
    return read_metrics(Path("runs/study") / name / METRICS)


def last_rows(metrics: Metrics) -> Figures:
    """Figures of the last iteration of every arm."""
    figures: Figures = {}
    for row in sorted(metrics.rows, key=lambda r: r.iteration):
        if row.dice_mean is not None and row.hd95 is not None and row.validity is not None:
            figures[row.arm] = (row.dice_mean.mean, row.validity, row.hd95.mean)
    return figures


def table(runs: list[Figures]) -> None:
    print(f"\n{'arm':<30}{'mean Dice':>16}{'validity':>16}{'HD95':>16}   (mean ± sd over {len(runs)} seeds)")
    for arm in runs[0]:
        values = np.array([figures[arm] for figures in runs])
        mean, sd = values.mean(0), values.std(0, ddof=1) if len(values) > 1 else np.zeros(3)
        cells = [f"{m:.3f} ± {s:.3f}" for m, s in zip(mean[:2], sd[:2], strict=True)]
        print(f"{arm:<30}{cells[0]:>16}{cells[1]:>16}{f'{mean[2]:.2f} ± {sd[2]:.2f}':>16}")


def main() -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", nargs="?", default=DEMO)
    parser.add_argument("overrides", nargs="*", default=[])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    runs = [last_rows(run(arguments.config, seed, arguments.overrides)) for seed in arguments.seeds]
    table(runs)
    gains = np.array([np.subtract(figures[MAIN], figures[SOURCE_ONLY]) for figures in runs])
    mean, sd = gains.mean(0), gains.std(0, ddof=1) if len(gains) > 1 else np.zeros(3)
    print(
        f"gain of the loop: Dice {mean[0]:+.3f} ± {sd[0]:.3f}, validity {mean[1] * 100:+.1f} ± {sd[1] * 100:.1f} points"
    )
    if arguments.config != DEMO:
        return 0
    room = float(np.mean([figures[UPPER_BOUND][0] - figures[SOURCE_ONLY][0] for figures in runs]))
    print(f"room between source-only and upper bound: {room:.3f} Dice (wanted at least .06)")
    return 0 if mean[0] >= 0.01 and mean[1] >= 0.10 and room >= 0.06 else 1


if __name__ == "__main__":
    sys.exit(main())
