"""From the figures of cases to those of all of them, each with its 95 % bootstrap interval over patients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from reward_data.errors import DataError
from reward_data.types import Bool, Float64, Int64
from rl4seg.metrics import aurc, auroc, excess_aurc, risk_coverage
from rl4seg.package import TrustFlag
from rl4seg.scored_cases import ERROR_MAP, SOFTMAX, ScoredCase
from rl4seg.trust_flag import CurvePoint, flagged_for, found_at, true_curve
from rl4seg.uncertainty_statistics import calibration_figures, curve_of, interval, resamples

DRAWS = 1000
DICE_BELOW = 0.8
"""An image is bad if its mean Dice is below this, where the model has no flag that says otherwise."""

FOUND, FLAGGED = 0.8, 0.2  # what is hoped of trust: so many bad images found, so many of all flagged

Figure = dict[str, float | None]


class _Drawn:
    """A statistic on all cases and on every resample of patients."""

    def __init__(self, cases: Sequence[ScoredCase], draws: int, seed: int) -> None:
        self.all = np.arange(len(cases))
        generator = np.random.default_rng(seed)
        self._samples = resamples([case.group for case in cases], draws, generator)

    def figure(self, statistic: Callable[[Int64], float]) -> Figure:
        """``statistic``: of indices of cases; NaN where it is not defined."""
        found = interval(statistic(self.all), np.array([statistic(sample) for sample in self._samples]))
        return {"value": found.value, "low": found.low, "high": found.high}

    def mean(self, values: Float64) -> Figure:
        """Of one value per case, with its standard deviation over cases."""
        sd = float(values.std(ddof=1)) if len(values) > 1 else 0.0
        return self.figure(lambda chosen: float(values[chosen].mean())) | {"sd": sd}


def evaluation_figures(
    cases: Sequence[ScoredCase],
    classes: Sequence[str],
    flag: TrustFlag | None,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """All that `rl4seg evaluate` says of a data set, as plain numbers; what needs labels is None without them.

    Args:
        classes: foreground classes, over which ``dice_mean`` and its like are taken; unions are left out.
        flag: the model's, if any.
        draws: bootstrap resamples of patients; 0: no intervals.

    Raises:
        DataError: there is no case.
    """
    if not cases:
        raise DataError("nothing to evaluate: the dataset has no case")
    drawn = _Drawn(cases, draws, seed)
    labelled = [case for case in cases if case.labelled]
    found: dict[str, Any] = {
        "cases": len(cases),
        "patients": len({case.group for case in cases}),
        "labelled": len(labelled),
        "draws": draws,
        "validity": drawn.mean(np.array([not case.violated for case in cases], np.float64)),
        "violations": dict(Counter(rule for case in cases for rule in case.violated).most_common()),
        "trust": drawn.mean(np.array([case.trust for case in cases])),
        "flagged": None if flag is None else drawn.mean(np.array([float(bool(c.flagged)) for c in cases])),
        "flag": None if flag is None else flag.model_dump(mode="json"),
        "areas": _areas(cases, drawn, classes),
    }
    own = drawn if len(labelled) == len(cases) else _Drawn(labelled, draws, seed)
    return found | (_against_labels(labelled, classes, flag, own) if labelled else dict.fromkeys(_LABELLED))


_LABELLED = ("dice", "hd", "hd95", "dice_mean", "hd_mean", "hd95_mean", "calibration", "finding")


def _areas(cases: Sequence[ScoredCase], drawn: _Drawn, classes: Sequence[str]) -> dict[str, Figure] | None:
    if any(None in case.areas.values() for case in cases):
        return None
    return {name: drawn.mean(np.array([case.areas[name] for case in cases], np.float64)) for name in classes}


def _against_labels(
    cases: Sequence[ScoredCase], classes: Sequence[str], flag: TrustFlag | None, drawn: _Drawn
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("dice", "hd", "hd95"):
        tables = {key: np.array([getattr(case, name)[key] for case in cases]) for key in cases[0].dice}
        found[name] = {key: drawn.mean(values) for key, values in tables.items()}
        found[f"{name}_mean"] = drawn.mean(np.mean([tables[key] for key in classes], axis=0))
    found["calibration"] = {name: _calibration(cases, name, drawn) for name in (SOFTMAX, ERROR_MAP)}
    return found | {"finding": _finding(cases, classes, flag, drawn)}


def _calibration(cases: Sequence[ScoredCase], name: str, drawn: _Drawn) -> dict[str, Any]:
    bins = np.stack([case.bins[name] for case in cases])
    ece = drawn.figure(lambda chosen: calibration_figures(bins[chosen].sum(0))["ece"])
    return {"ece": ece, "curve": curve_of(bins.sum(0)).to_json()}


def _finding(
    cases: Sequence[ScoredCase], classes: Sequence[str], flag: TrustFlag | None, drawn: _Drawn
) -> dict[str, Any]:
    """Whether trust finds the images of low Dice."""
    dice = np.array([np.mean([case.dice[name] for name in classes]) for case in cases])
    trust = np.array([case.trust for case in cases])
    below = DICE_BELOW if flag is None else flag.dice_below
    bad = dice < below
    risk = risk_coverage(trust, 1 - dice)
    found: dict[str, Any] = {
        "dice_below": below,
        "bad": int(bad.sum()),
        "auroc": drawn.figure(lambda chosen: auroc(-trust[chosen], bad[chosen])),
        "aurc": drawn.figure(lambda chosen: aurc(trust[chosen], 1 - dice[chosen])),
        "excess_aurc": drawn.figure(lambda chosen: excess_aurc(trust[chosen], 1 - dice[chosen])),
        "risk": risk.tolist(),
        "oracle_risk": risk_coverage(dice, 1 - dice).tolist(),
        "found": None,
        "flagged": None,
        "curve": None,
    }
    if bad.any():
        found["curve"] = curve_content(true_curve(trust, dice, below))
    if flag is not None:
        marked = trust < flag.threshold
        found["found"] = drawn.figure(lambda chosen: _share(marked[chosen][bad[chosen]]))
        found["flagged"] = drawn.figure(lambda chosen: _share(marked[chosen]))
    return found


def curve_content(curve: Sequence[CurvePoint]) -> dict[str, Any]:
    """What every threshold on trust finds and flags; the best found at `FLAGGED`, the least flagged for `FOUND`."""
    return {
        **{name: [getattr(point, name) for point in curve] for name in CurvePoint._fields},
        "best_found": found_at(curve, FLAGGED),
        "least_flagged": flagged_for(curve, FOUND),
    }


def _share(marks: Bool) -> float:
    return float(marks.mean()) if len(marks) else float("nan")
