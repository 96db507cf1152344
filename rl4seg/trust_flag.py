"""The trust flag: which threshold on the trust of a mask finds the bad ones, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import bdtr

from reward_data.case_store import CaseStore
from reward_data.errors import DataError
from reward_data.types import Float64, Progress, no_progress
from rl4seg.configs.trust import TrustConfig
from rl4seg.package import ModelPackage, TrustFlag
from rl4seg.runtime import Runtime
from rl4seg.trust_views import Scored, judging_cases, scored_views

SHARE_OF_CLEAN = 0.75  # of the mean Dice on clean images: the limit below which a mask is bad


class CurvePoint(NamedTuple):
    """What a threshold does: share of all images flagged, and share of the bad ones among them found."""

    threshold: float
    flagged: float
    found: float


def choose_flag(
    trust: Float64,
    dice: Float64,
    dice_below: float,
    sensitivity: float,
    basis: str,
    confidence: float | None = None,
) -> TrustFlag:
    """The threshold that flags the fewest images and finds at least the share ``sensitivity`` of the bad ones.

    A mask is bad if its Dice is below ``dice_below`` and flagged if its trust is below the threshold, which lies
    halfway between the last trust that has to be flagged and the next one above. Without a bad mask it is the smallest
    trust seen: flagged is what is trusted less than all of these. ``trust``, ``dice`` Shape: (n,) in [0, 1].
    ``confidence``: see `to_be_found`.

    Raises:
        DataError: there is no image.
    """
    if len(trust) == 0 or len(trust) != len(dice):
        raise DataError(
            f"a trust flag of {len(trust)} trusts and {len(dice)} Dice values; wanted as many of both, and one at least"
        )
    bad = dice < dice_below
    threshold = float(trust.min())
    if bad.any():
        threshold = _threshold(trust, trust[bad], to_be_found(int(bad.sum()), sensitivity, confidence))
    flagged = trust < threshold
    return TrustFlag(
        threshold=threshold,
        dice_below=dice_below,
        sensitivity=sensitivity,
        confidence=confidence,
        images=len(trust),
        bad=int(bad.sum()),
        found=float(flagged[bad].mean()) if bad.any() else None,
        flagged=float(flagged.mean()),
        basis=basis,
    )


def to_be_found(bad: int, sensitivity: float, confidence: float | None) -> int:
    """How many of the bad masks at hand a threshold has to find.

    With a ``confidence``: so many that, whatever the trusts are like, the threshold finds the share ``sensitivity`` of
    all such masks with this probability (upper confidence limit of a quantile: Hahn and Meeker, Statistical Intervals,
    1991, section 5.2: the smallest k with P(Binomial(bad, sensitivity) < k) >= confidence); all, where there are too
    few for that. Without: that share of those at hand.
    """
    if confidence is None:
        return math.ceil(sensitivity * bad - 1e-9)
    enough = (k for k in range(1, bad + 1) if bdtr(k - 1, bad, sensitivity) >= confidence)
    return next(enough, bad)


def _threshold(trust: Float64, of_bad: Float64, wanted: int) -> float:
    last = float(np.sort(of_bad)[wanted - 1])
    above = trust[trust > last]
    return (last + float(above.min() if len(above) else 1.0)) / 2


def true_curve(trust: Float64, dice: Float64, dice_below: float) -> list[CurvePoint]:
    """What every threshold would do on labelled images, from flagging none to flagging all. Shape: (n,) both.

    One point per distinct trust; ``found`` is 0 throughout where no image is bad.
    """
    bad = dice < dice_below
    total = max(int(bad.sum()), 1)
    thresholds = [*np.unique(trust).tolist(), math.nextafter(float(trust.max()), 2.0)]
    points = []
    for threshold in thresholds:
        flagged = trust < threshold
        points.append(CurvePoint(threshold, float(flagged.mean()), float((flagged & bad).sum() / total)))
    return points


def found_at(curve: Sequence[CurvePoint], flagged: float) -> float:
    """Largest share of the bad images that can be found with no more than the share ``flagged`` of all flagged."""
    return max(point.found for point in curve if point.flagged <= flagged + 1e-12)


def flagged_for(curve: Sequence[CurvePoint], found: float) -> float:
    """Smallest share of all images that has to be flagged to find the share ``found`` of the bad ones.

    1 where there is no bad one.
    """
    return min((point.flagged for point in curve if point.found >= found - 1e-12), default=1.0)


def chosen_flag(
    package: ModelPackage,
    source: CaseStore,
    config: TrustConfig,
    seed: int,
    runtime: Runtime,
    progress: Progress = no_progress,
) -> TrustFlag | None:
    """The flag of a package, chosen on labelled source cases; None where there is none.

    Clean images first, then worse and worse views of them, until ``config.bad`` masks are bad or no strength is left.
    The limit of a bad mask is the config's, else a share of the mean Dice on the clean images.
    """
    indices, words = judging_cases(source)
    if len(indices) == 0:
        return None
    limit = config.dice_below
    seen: list[Scored] = []
    for scored in scored_views(package, source, indices, config, seed, runtime, progress):
        seen.append(scored)
        if limit is None:
            limit = round(SHARE_OF_CLEAN * float(scored.dice.mean()), 3)
        if sum(int((part.dice < limit).sum()) for part in seen) >= config.bad:
            break
    assert limit is not None
    trust, dice = (np.concatenate([getattr(part, name) for part in seen]) for name in ("trust", "dice"))
    bad = int((dice < limit).sum())
    basis = basis_of(words, [part.strength for part in seen[1:]], bad, config)
    return choose_flag(trust, dice, limit, config.sensitivity, basis, config.confidence)


def basis_of(words: str, strengths: Sequence[float], bad: int, config: TrustConfig) -> str:
    """What a flag was chosen on; that there was too little, where there was."""
    text = words
    if strengths:
        listed = ", ".join(f"{strength:g}" for strength in strengths)
        several = f"strengths {listed}" if len(strengths) > 1 else f"strength {listed}"
        text += f", each clean and in {config.views} degraded views of {several}"
    if bad < config.bad:
        text += f"; {bad} bad masks are fewer than the {config.bad} wanted, so the threshold rests on little"
    return text
