"""How a figure moves over the steps of a training: smoothed, as a straight line, and against another training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from reward_data.types import Float64


class Line(NamedTuple):
    """value = intercept + slope * step, with r2, the share of the variance that it explains."""

    slope: float
    intercept: float
    r2: float

    def at(self, steps: Sequence[float]) -> Float64:
        """Its values. Shape: (n,) -> (n,)."""
        values: Float64 = self.intercept + self.slope * np.asarray(steps, np.float64)
        return values


def regression_line(steps: Sequence[float], values: Sequence[float]) -> Line | None:
    """Least squares; None for fewer than two different steps. r2 is 1 where the values do not vary at all."""
    x, y = np.asarray(steps, np.float64), np.asarray(values, np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"got shapes {x.shape} and {y.shape}, wanted two equal (n,)")
    if len(x) < 2 or np.ptp(x) == 0:
        return None
    centred = x - x.mean()
    slope = float(centred @ (y - y.mean()) / (centred @ centred))
    intercept = float(y.mean() - slope * x.mean())
    variance = float(np.square(y - y.mean()).sum())
    rest = float(np.square(y - intercept - slope * x).sum())
    return Line(slope, intercept, 1 - rest / variance if variance > 0 else 1.0)


def exponential_mean(values: Sequence[float], keep: float = 0.7) -> Float64:
    """e_0 = v_0, e_i = keep e_{i-1} + (1 - keep) v_i. Shape: (n,) -> (n,)."""
    if not 0 <= keep < 1:
        raise ValueError(f"keep={keep}, wanted 0 <= keep < 1")
    out = np.array(values, np.float64)
    for i in range(1, len(out)):
        out[i] = keep * out[i - 1] + (1 - keep) * out[i]
    return out


def rolling_mean(values: Sequence[float], window: int = 5) -> Float64:
    """Mean of a value and of up to ``window`` - 1 before it. Shape: (n,) -> (n,)."""
    if window < 1:
        raise ValueError(f"window={window}, wanted 1 or more")
    total = np.concatenate([[0.0], np.cumsum(np.asarray(values, np.float64))])
    last = np.arange(1, len(total))
    first = np.maximum(last - window, 0)
    mean: Float64 = (total[last] - total[first]) / (last - first)
    return mean


def against(
    steps: Sequence[float], values: Sequence[float], other_steps: Sequence[float], other: Sequence[float]
) -> tuple[Float64, Float64]:
    """A training less another one, at the steps that both have. Shape: (n,) both."""
    known = dict(zip(other_steps, other, strict=True))
    shared = [(step, value - known[step]) for step, value in zip(steps, values, strict=True) if step in known]
    pairs = np.array(shared, np.float64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]
