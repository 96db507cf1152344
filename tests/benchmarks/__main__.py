"""All figures of the performance targets: ``python -m tests.benchmarks``."""

from __future__ import annotations

import subprocess
import sys

MODULES = (
    "bench_anatomy",
    "bench_reward_store",
    "bench_synthesis",
    "bench_metrics",
    "bench_networks",
    "bench_ppo",
)


def main() -> int:
    """Each benchmark in a process of its own, one thread; the worst exit code."""
    codes = []
    for name in MODULES:
        print(f"\n## {name}", flush=True)
        codes.append(
            subprocess.run([sys.executable, "-m", f"tests.benchmarks.{name}"], check=False).returncode
        )
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
