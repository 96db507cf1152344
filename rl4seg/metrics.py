"""Segmentation, calibration and ranking metrics as pure numpy functions; per image, never pooled over a batch.

Conventions for empty masks, stated once: a structure absent from both masks scores Dice 1 and distance 0; absent
from one of them it scores Dice 0 and the worst possible distance, the image diagonal, so that a lost structure is
punished rather than dropped from the mean (Maier-Hein et al. 2024, Metrics reloaded, arXiv 2206.01653).

Conventions for ranking: ties count as if broken at random, in the mean over all orders; what is not defined (a
correlation with a constant, an AUROC of one class, anything of no images) is NaN, never an error. The calibration
errors of no pixels at all are 0; look at ``counts`` to tell this from a perfect score.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import KDTree
from scipy.stats import rankdata

from reward_data.types import Bool, Float64, Int64

Labels = npt.NDArray[np.integer[Any]]
Floats = npt.NDArray[np.floating[Any]]


def dice(a: Bool, b: Bool) -> float:
    """2 |A n B| / (|A| + |B|) of two boolean masks of one shape (*S)."""
    size = int(a.sum()) + int(b.sum())
    return 1.0 if size == 0 else 2.0 * int((a & b).sum()) / size


def dice_per_class(a: Labels, b: Labels, num_classes: int) -> Float64:
    """Dice of each foreground class. Shape: (*S), (*S) -> (K - 1,)."""
    return np.array([dice(a == k, b == k) for k in range(1, num_classes)])


def border_points(mask: Bool, spacing_mm: tuple[float, ...]) -> Float64:
    """Centres of the border pixels in mm; a pixel on the image edge is border too. Shape: (*S) -> (n, dims)."""
    inside = ndimage.binary_erosion(mask, border_value=0)
    points: Float64 = np.argwhere(mask & ~inside) * np.asarray(spacing_mm)
    return points


class SurfaceDistances(NamedTuple):
    """Hausdorff distance and its 95th percentile, in mm."""

    hd: float
    hd95: float


def surface_distances(a: Bool, b: Bool, spacing_mm: tuple[float, ...]) -> SurfaceDistances:
    """Symmetric border distances of two masks.

    HD is the largest distance from a border pixel of one mask to the nearest border pixel of the other; HD95 the
    larger of the two directed 95th percentiles (the convention of MONAI's compute_hausdorff_distance).
    """
    if not a.any() and not b.any():
        return SurfaceDistances(0.0, 0.0)
    if not a.any() or not b.any():
        diagonal = float(np.linalg.norm(np.asarray(a.shape) * np.asarray(spacing_mm)))
        return SurfaceDistances(diagonal, diagonal)
    points_a, points_b = border_points(a, spacing_mm), border_points(b, spacing_mm)
    forward, backward = KDTree(points_b).query(points_a)[0], KDTree(points_a).query(points_b)[0]
    hd95 = max(float(np.percentile(forward, 95)), float(np.percentile(backward, 95)))
    return SurfaceDistances(max(float(forward.max()), float(backward.max())), hd95)


class Reliability(NamedTuple):
    """Binned confidence against accuracy. All arrays have one entry per bin; empty bins hold 0."""

    confidence: Float64
    accuracy: Float64
    counts: Int64

    @property
    def ece(self) -> float:
        """Expected calibration error: count-weighted mean |accuracy - confidence| (Guo et al. 2017, eq. 3)."""
        gaps = np.abs(self.accuracy - self.confidence)
        return float((gaps * self.counts).sum() / max(int(self.counts.sum()), 1))

    @property
    def ace(self) -> float:
        """Average calibration error: the plain mean of the gaps over the non-empty bins."""
        used = self.counts > 0
        return float(np.abs(self.accuracy - self.confidence)[used].mean()) if used.any() else 0.0

    @property
    def mce(self) -> float:
        """Maximum calibration error over the bins."""
        return float(np.abs(self.accuracy - self.confidence).max())

    def to_json(self) -> dict[str, Any]:
        """Curve and figures as plain numbers."""
        curve = {"confidence": self.confidence.tolist(), "accuracy": self.accuracy.tolist()}
        return {**curve, "counts": self.counts.tolist(), "ece": self.ece, "ace": self.ace, "mce": self.mce}


def reliability(confidence: Floats, correct: Bool, bins: int = 20) -> Reliability:
    """Equal-width bins over [0, 1]; a confidence of exactly 1.0 belongs to the last bin. Flat or any equal shapes."""
    flat = np.asarray(confidence, np.float64).ravel()
    hit = np.asarray(correct).ravel()
    if flat.shape != hit.shape:
        raise ValueError(f"confidence has {flat.shape} values, correct has {hit.shape}")
    which = np.clip((flat * bins).astype(np.int64), 0, bins - 1)
    counts = np.bincount(which, minlength=bins).astype(np.int64)
    safe = np.maximum(counts, 1)
    return Reliability(
        np.bincount(which, weights=flat, minlength=bins) / safe,
        np.bincount(which, weights=hit.astype(np.float64), minlength=bins) / safe,
        counts,
    )


def auroc(score: Floats, positive: Bool) -> float:
    """Probability that a positive scores above a negative, ties counted half; NaN where one class is absent."""
    flat, truth = np.asarray(score, np.float64).ravel(), np.asarray(positive).ravel()
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        return float("nan")
    _, inverse, counts = np.unique(flat, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    return float((ranks[inverse][truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))


# --- does a score rank the images? -----------------------------------------------------------------------------------


def pearson(a: Floats, b: Floats) -> float:
    """Pearson's r of two (n,) arrays; NaN for fewer than two values or where one of them is constant."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"got shapes {x.shape} and {y.shape}, wanted two equal (n,)")
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip((x @ y) / np.sqrt((x @ x) * (y @ y)), -1, 1))


def spearman(a: Floats, b: Floats) -> float:
    """Spearman's r: Pearson's of the ranks, ties at their mean rank; NaN as `pearson`."""
    return pearson(rankdata(a), rankdata(b))


def risk_coverage(score: Floats, risk: Floats) -> Float64:
    """Mean risk of the k images with the highest scores, k = 1..n. Shape: (n,), (n,) -> (n,), coverage (1..n) / n.

    The risk-coverage curve of selective prediction (Geifman & El-Yaniv 2017, arXiv 1705.08500, eq. 2); for a
    segmentation the risk is 1 - Dice. Among equal scores every image has the mean risk of its peers.
    """
    losses = np.asarray(risk, np.float64)
    _, group, counts = np.unique(-np.asarray(score, np.float64), return_inverse=True, return_counts=True)
    group = group.ravel()
    shared = np.bincount(group, weights=losses, minlength=len(counts)) / np.maximum(counts, 1)
    ordered = shared[np.sort(group)]
    curve: Float64 = np.cumsum(ordered) / np.arange(1, len(ordered) + 1)
    return curve


def aurc(score: Floats, risk: Floats) -> float:
    """Area under the risk-coverage curve, the mean of its n values; lower is better, NaN for no images.

    A score that knows nothing reaches the mean risk; see `excess_aurc` for the part that a better score could save.
    """
    curve = risk_coverage(score, risk)
    return float(curve.mean()) if len(curve) else float("nan")


def excess_aurc(score: Floats, risk: Floats) -> float:
    """AURC less that of the oracle, which ranks by the risk itself (Geifman et al. 2019, arXiv 1805.08206)."""
    return aurc(score, risk) - aurc(-np.asarray(risk, np.float64), risk)


# --- what sampled predictions disagree about -------------------------------------------------------------------------


def class_entropy(probabilities: Floats, axis: int = 1) -> Float64:
    """-sum p log p in nats over the class axis, 0 log 0 = 0. Shape: (B, K, *S) -> (B, *S)."""
    p = np.asarray(probabilities, np.float64)
    entropy: Float64 = -np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(axis)
    return entropy


def mutual_information(mean_probabilities: Floats, mean_entropy: Floats) -> Float64:
    """H(mean p) - mean H(p) in nats: what samples of the model disagree about, not what each is unsure of.

    Houlsby et al. 2011 (BALD), arXiv 1112.5745, eq. 2. Negative rounding errors become 0.
    Shape: (B, K, *S), (B, *S) -> (B, *S).
    """
    information: Float64 = np.maximum(class_entropy(mean_probabilities) - mean_entropy, 0)
    return information
