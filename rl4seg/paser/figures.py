"""What is known about a router, as plain records: costs, budgets, figures, times. Free of torch.

Methods of the tables have one name everywhere; those of the nets are the user's.
"""

from __future__ import annotations

import math

import numpy as np
from pydantic import Field

from reward_data.errors import ConfigError
from reward_data.types import Config, Float64
from rl4seg.configs.paser import CostKind, RoutingConfig

POLICY, TRAINED, CASCADE, RANDOM, ORACLE = (
    "policy",
    "policy as trained",
    "entropy cascade",
    "random",
    "oracle",
)
BARE = f"{POLICY}, decisions given"
EVERY = "on every patch"  # behind the name of the largest net: what a policy comes to that spends everything


def too_small(budget: float, least: float) -> ConfigError:
    """What is said of a budget that no routing keeps."""
    remedy = f"give {math.ceil(1e3 * least) / 1e3:.3f} or more"
    if least > 1:
        remedy = "take nets of more different sizes, or a smaller routing.passes: there is nothing to save"
    return ConfigError(
        f"budget={budget:g}: the smallest net, its uncertainty and the policy cost {least:.3f} of the largest net "
        f"already; {remedy}"
    )


class Costs(Config):
    """Of each net, the smallest first. Multiply-adds are half of the floating-point operations (GFLOP)."""

    parameters: tuple[int, ...] = Field(description="Weights.")
    patch_macs: tuple[int, ...] = Field(description="Multiply-adds on one patch as it is cut.")
    whole_macs: tuple[int, ...] = Field(description="Multiply-adds on a whole image in one piece.")
    policy_macs: int = Field(description="Multiply-adds of the policy on a whole image.")
    patch_ms: tuple[float, ...] | None = Field(
        default=None,
        description="Measured time on one patch in a batch of all of an image, ms; null: not measured.",
    )

    def shares(self, kind: CostKind) -> tuple[float, ...]:
        """cost(a) of the reward: a net's share of the sum over all; the smallest, which always runs, is free.

        By parameters of 16.6 k, 1.08 M and 17.3 M these are the published 0, .059 and .940.
        """
        amounts = {"parameters": self.parameters, "macs": self.patch_macs, "latency": self.patch_ms}[kind]
        if amounts is None:
            raise ValueError("latency was not measured")
        total = float(sum(amounts))
        return (0.0, *(amount / total for amount in amounts[1:]))

    def overhead_gflop(self, passes: int, policy: bool = True) -> float:
        """GFLOP per image of dropout passes and policy."""
        return 2e-9 * (passes * self.whole_macs[0] + (self.policy_macs if policy else 0))

    def gflop(self, counts: np.ndarray) -> Float64:
        """GFLOP of routed images without overhead: the smallest net on the whole, others on their patches.

        Shape: number of patches by net (..., N) -> (...).
        """
        larger = np.asarray(counts, np.float64)[..., 1:] @ np.asarray(self.patch_macs[1:], np.float64)
        total: Float64 = 2e-9 * (self.whole_macs[0] + larger)
        return total

    def check_budget(self, routing: RoutingConfig, budget: float) -> None:
        """Refuse a budget, a share of the largest net's GFLOP, that the smallest net and the policy exceed.

        Raises:
            ConfigError: it is too small.
        """
        whole = [self.alone_gflop(net) for net in range(len(self.whole_macs))]
        if max(whole) > whole[-1]:
            amounts = ", ".join(f"{amount:.3g}" for amount in whole)
            raise ConfigError(
                f"nets: {amounts} GFLOP per image, wanted the last to cost the most; list them by cost, "
                "the smallest first"
            )
        least = (whole[0] + self.overhead_gflop(routing.passes)) / whole[-1]
        if budget < least - 1e-9:
            raise too_small(budget, least)

    def alone_gflop(self, net: int) -> float:
        """GFLOP of one net on a whole image in one piece."""
        return 2e-9 * self.whole_macs[net]


class Point(Config):
    """One routing of all images: means over them."""

    setting: float = Field(description="Threshold, lambda or share that makes it.")
    iou: float = Field(description="Mean IoU of whole images.")
    gflop: float = Field(description="GFLOP per image, all overhead included.")
    bare_gflop: float = Field(description="Without dropout passes and policy.")
    patches: tuple[float, ...] = Field(description="Share of the patches by net.")


class BudgetCurve(Config):
    """Threshold against cost and IoU on the calibration images, cheapest first.

    A share is of the GFLOP of the largest net on the whole image; dropout passes and policy are included.
    """

    thresholds: tuple[float, ...] = Field(
        min_length=1, description="Threshold of `rl4seg.paser.policy.choices`."
    )
    shares: tuple[float, ...] = Field(description="What the routed images cost with it, ascending.")
    iou: tuple[float, ...] = Field(description="Mean IoU of the images with it.")
    images: int = Field(ge=1, description="How many images.")
    basis: str = Field(description="Which images these are, in words.")

    def threshold(self, budget: float) -> float:
        """The threshold that spends the most within a budget, a share of the largest net's cost.

        Raises:
            ConfigError: even the smallest net alone costs more.
        """
        inside = [t for t, share in zip(self.thresholds, self.shares) if share <= budget + 1e-9]
        if not inside:
            raise too_small(budget, self.shares[0])
        return inside[-1]


class RouterSpec(Config):
    """What a router says about itself besides its weights."""

    format: int = Field(default=1, ge=1, le=1)
    names: tuple[str, ...] = Field(min_length=2, description="Names of the nets, the smallest first.")
    routing: RoutingConfig = Field(description="Patches, passes, what the policy reads.")
    shares: tuple[float, ...] = Field(description="cost of each net in the reward.")
    costs: Costs = Field(description="What the nets cost.")
    curve: BudgetCurve | None = Field(default=None, description="Threshold by budget; null: not calibrated.")
    threshold: float = Field(default=0.0, description="Where the policy stands unless a budget is given.")


class RoutingFigures(Config):
    """All that one router of one seed was measured to do."""

    split: str = Field(description="Which images.")
    images: int = Field(description="How many of them.")
    nets: tuple[str, ...] = Field(description="Names, the smallest first.")
    budget: float = Field(description="The budget asked for, a share of the largest net's GFLOP.")
    overhead_gflop: float = Field(description="Dropout passes and policy, per image.")
    rows: dict[str, Point] = Field(
        description="One point of every method, those of routings at equal cost; nets alone see whole images."
    )
    curves: dict[str, tuple[Point, ...]] = Field(
        description="Whole curves of policy, cascades, chance, oracle."
    )
    over_cascade: tuple[tuple[float, float], ...] = Field(
        description="(GFLOP, IoU of the policy less that of the best cascade at no more cost) along the curve."
    )


class Latency(Config):
    """Milliseconds per image on one machine."""

    device: str = Field(description="cpu or cuda.")
    threads: int = Field(description="CPU threads.")
    images: int = Field(description="Images that were timed, one at a time.")
    ms: dict[str, float] = Field(description="By method: median over the turns of the mean over the images.")
    curve: tuple[tuple[float, float, float], ...] = Field(
        description="(ms, IoU, GFLOP) of the policy along its curve."
    )
    cascade: tuple[tuple[float, float, float], ...] = Field(
        description="(ms, IoU, GFLOP) of cascades along theirs."
    )
