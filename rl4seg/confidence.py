"""Every way to say how sure one is of the same masks, side by side: the panel.

A confidence map holds, for every pixel, a number in [0, 1] that wants to be the probability that the given mask is
right there. All methods judge the masks of one policy, so that they are paired.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from reward_data.types import Float32, Float64, UInt8
from rl4seg.calibration import calibrated_probability
from rl4seg.configs.uncertainty import UncertaintyConfig
from rl4seg.policies import Model
from rl4seg.reward_net import RewardModel
from rl4seg.runtime import Runtime
from rl4seg.sampled_predictions import Sampled, augmented, ensemble, trained_with_dropout, with_dropout
from rl4seg.source_maps import LogisticMap, log_odds

REWARD_RAW = "reward net, raw"
REWARD = "reward net, calibrated"
REWARD_MAP = "reward net, source map"
PRODUCT = "calibrated reward × softmax"
SOFTMAX = "maximum softmax"
SOFTMAX_T = "maximum softmax, temperature"
SOFTMAX_MAP = "maximum softmax, source map"
ENTROPY = "entropy"
ENTROPY_T = "entropy, temperature"
BOTH_MAP = "reward and softmax, source map"
TTA = "test-time augmentation"
DROPOUT = "MC-dropout"
ENSEMBLE = "ensemble"


class Method(NamedTuple):
    """A row of the comparison; ``note`` says what a reader has to know of it."""

    name: str
    note: str


@dataclass(frozen=True)
class SourceMaps:
    """What was fitted on labelled source validation images (and, for the rates, unlabelled target images).

    ``maps``: method -> its map, already at the target's rate; ``source_cases``, ``target_cases``: images used.
    """

    temperature: float
    maps: dict[str, LogisticMap]
    source_rate: float
    source_cases: int
    target_cases: int


class Judged(NamedTuple):
    """A batch judged: masks (B, *S), the policy's probabilities (B, K, *S), maps (B, *S) by method, mutual information
    (B, *S) by sampled method."""

    masks: UInt8
    probabilities: Float32
    confidence: dict[str, Float32]
    information: dict[str, Float64]


@dataclass
class Panel:
    """The methods that can judge the masks of ``policy``; those whose means are missing are left out.

    Args:
        policy: whose argmax masks are judged.
        reward: the reward net, if any.
        members: policies of other seeds, for the ensemble.
        maps: what was fitted on the source, if there is one.
        seed: of the sampled methods.
    """

    policy: Model
    reward: RewardModel | None
    members: Sequence[Model]
    maps: SourceMaps | None
    config: UncertaintyConfig
    seed: int
    runtime: Runtime
    seconds: dict[str, float] = field(default_factory=dict)

    def methods(self) -> tuple[Method, ...]:
        """The rows, in order of appearance."""
        return tuple(Method(name, note) for name, note in self._notes() if name in self._available())

    def _available(self) -> set[str]:
        names = {SOFTMAX, ENTROPY}
        if self.reward is not None:
            names |= {REWARD_RAW, REWARD, PRODUCT}
        if self.maps is not None:
            names |= {SOFTMAX_T, ENTROPY_T, *self.maps.maps}
        if self.config.augmentation_draws:
            names.add(TTA)
        if self.config.dropout_passes:
            names.add(DROPOUT)
        if self.members:
            names.add(ENSEMBLE)
        return names

    def _notes(self) -> Iterator[tuple[str, str]]:
        config, maps = self.config, self.maps
        images = f"{maps.source_cases} labelled source validation images" if maps else ""
        rates = {name: f"{map_.rate:.2f}" for name, map_ in maps.maps.items()} if maps else {}

        def at_rate(name: str) -> str:
            return (
                f"Logistic map fitted on {images} under this policy ({maps.source_rate if maps else 0:.2f} of the "
                "mask's foreground pixels right), moved to the share of right pixels that expectation maximisation "
                f"guesses on {maps.target_cases if maps else 0} unlabelled target images ({rates.get(name)}). "
                "No target label."
            )

        temperature = self.reward.temperature if self.reward else 1.0
        yield REWARD_RAW, "sigma(z) of the run's reward net."
        yield (
            REWARD,
            f"sigma(z / T), T = {temperature:.2f} as the run fitted it on held-back reward examples.",
        )
        yield REWARD_MAP, at_rate(REWARD_MAP)
        yield PRODUCT, "The product of the two."
        yield SOFTMAX, "The policy's largest class probability."
        scaled = f"softmax(z / T), T = {maps.temperature:.2f} fitted on {images}." if maps else ""
        yield SOFTMAX_T, scaled
        yield SOFTMAX_MAP, at_rate(SOFTMAX_MAP)
        yield (
            ENTROPY,
            "1 - H / log K of the policy's K class probabilities: a score in [0, 1], no probability.",
        )
        yield ENTROPY_T, f"1 - H / log K of {scaled}"
        yield BOTH_MAP, "Both as features. " + at_rate(BOTH_MAP)
        yield (
            TTA,
            (
                f"The plain image and {config.augmentation_draws} turned, shifted, zoomed and recoloured ones; mean "
                "probability of the mask's class. No flips."
            ),
        )
        kind = (
            "dropout as in training"
            if trained_with_dropout(self.policy)
            else f"training-free: the network was trained without dropout, rate {config.dropout_rate:g} is put in "
            "after every activation at test time only"
        )
        yield DROPOUT, f"{config.dropout_passes} passes, {kind}; mean probability of the mask's class."
        yield ENSEMBLE, f"{len(self.members) + 1} policies; mean probability of this run's mask's class."

    @torch.no_grad()
    def judge(self, images: Float32, cases: Sequence[int]) -> Judged:
        """Masks of the images (B, C, *S) and every method's map of them; ``cases`` name the images for the draws."""
        batch = self.runtime.tensor(images)
        with self._clock("prediction"):
            logits = self.logits(batch)
            masks, probabilities = logits.argmax(1), logits.softmax(1)
        maps, features = (
            self._from_softmax(logits),
            {"softmax": log_odds(probabilities.amax(1).cpu().numpy())},
        )
        if self.reward is not None:
            with self._clock(REWARD):
                z = self.reward.logits(batch, masks[:, None])[:, 0]
            maps |= {REWARD_RAW: calibrated_probability(z, 1.0), REWARD: self._calibrated(z)}
            maps[PRODUCT] = maps[REWARD] * maps[SOFTMAX]
            features["reward"] = z.double().cpu().numpy()
        sampled = self._sampled(batch, cases)
        for name, result in sampled.items():
            maps[name] = result.probabilities.gather(1, masks[:, None])[:, 0]
        arrays = {name: value.float().cpu().numpy() for name, value in maps.items()}
        if self.maps is not None:
            for name, map_ in self.maps.maps.items():
                arrays[name] = map_(stacked(name, features)).astype(np.float32)
        information = {name: result.information for name, result in sampled.items()}
        return Judged(masks.cpu().numpy().astype(np.uint8), probabilities.cpu().numpy(), arrays, information)

    def logits(self, images: Tensor) -> Tensor:
        """The policy's logits, plain, in eval mode. Shape: (B, C, *S) -> (B, K, *S)."""
        self.policy.network.eval()
        with self.runtime.autocast():
            logits: Tensor = self.policy.network(images)
        return logits.float()

    def _calibrated(self, z: Tensor) -> Tensor:
        assert self.reward is not None
        return calibrated_probability(z, self.reward.temperature)

    def _from_softmax(self, logits: Tensor) -> dict[str, Tensor]:
        with self._clock(SOFTMAX):
            maps = {SOFTMAX: logits.softmax(1).amax(1), ENTROPY: certainty(logits.softmax(1))}
            if self.maps is not None:
                scaled = (logits / self.maps.temperature).softmax(1)
                maps |= {SOFTMAX_T: scaled.amax(1), ENTROPY_T: certainty(scaled)}
        return maps

    def _sampled(self, images: Tensor, cases: Sequence[int]) -> dict[str, Sampled]:
        config, found = self.config, dict[str, Sampled]()
        if config.augmentation_draws:
            with self._clock(TTA):
                found[TTA] = augmented(
                    self.policy, images, cases, config.augmentation, config.augmentation_draws, self.seed, self.runtime
                )  # fmt: skip
        if config.dropout_passes:
            with self._clock(DROPOUT):
                found[DROPOUT] = with_dropout(
                    self.policy, images, cases, config.dropout_passes, config.dropout_rate, self.seed, self.runtime
                )  # fmt: skip
        if self.members:
            with self._clock(ENSEMBLE):
                found[ENSEMBLE] = ensemble([self.policy, *self.members], images, self.runtime)
        return found

    @contextmanager
    def _clock(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        if self.runtime.device.type == "cuda":
            torch.cuda.synchronize(self.runtime.device)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


def certainty(probabilities: Tensor) -> Tensor:
    """1 - H / log K: 1 for one sure class, 0 for K equal ones. Shape: (B, K, *S) -> (B, *S)."""
    entropy = torch.special.entr(probabilities).sum(1)
    sure: Tensor = (1 - entropy / np.log(probabilities.shape[1])).clamp(0, 1)
    return sure


def stacked(name: str, features: dict[str, Float64]) -> Float64:
    """The features that a source map reads, last. Shape: (...) each -> (..., F)."""
    wanted = {REWARD_MAP: ("reward",), SOFTMAX_MAP: ("softmax",), BOTH_MAP: ("reward", "softmax")}
    return np.stack([features[key] for key in wanted[name]], -1)


def map_names(with_reward: bool) -> tuple[str, ...]:
    """The methods that need a source map."""
    return (REWARD_MAP, SOFTMAX_MAP, BOTH_MAP) if with_reward else (SOFTMAX_MAP,)


#: Methods whose time is that of another row: everything made from the same pass.
TIMED_BY = {
    REWARD_RAW: REWARD, REWARD_MAP: REWARD, PRODUCT: REWARD, BOTH_MAP: REWARD, SOFTMAX_T: SOFTMAX,
    SOFTMAX_MAP: SOFTMAX, ENTROPY: SOFTMAX, ENTROPY_T: SOFTMAX,
}  # fmt: skip
