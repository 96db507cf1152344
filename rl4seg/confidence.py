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

from reward_data.case_store import CaseStore
from reward_data.types import Float32, Float64, UInt8
from rl4seg.calibration import calibrated_probability, fit_softmax_temperature
from rl4seg.configs.uncertainty import UncertaintyConfig
from rl4seg.networks import most_probable
from rl4seg.policies import Model
from rl4seg.reward_net import RewardModel
from rl4seg.runtime import Runtime
from rl4seg.sampled_predictions import Sampled, augmented, ensemble, trained_with_dropout, with_dropout

REWARD_RAW = "reward net, raw"
REWARD = "reward net, calibrated"
PRODUCT = "calibrated reward × softmax"
SOFTMAX = "maximum softmax"
SOFTMAX_T = "maximum softmax, temperature"
ENTROPY = "entropy"
ENTROPY_T = "entropy, temperature"
TTA = "test-time augmentation"
DROPOUT = "MC-dropout"
ENSEMBLE = "ensemble"
#: Methods whose time is that of another row: everything made from the same pass.
TIMED_BY = {REWARD_RAW: REWARD, PRODUCT: REWARD, SOFTMAX_T: SOFTMAX, ENTROPY: SOFTMAX, ENTROPY_T: SOFTMAX}
MOST_IMAGES = 256  # that a softmax temperature is fitted on


class Method(NamedTuple):
    """A row of the comparison; ``note`` says what a reader has to know of it."""

    name: str
    note: str


class SoftmaxTemperature(NamedTuple):
    """T of softmax(z / T), and the labelled source validation images that it was fitted on."""

    value: float
    images: int


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
        temperature: of the policy's softmax, if there is a labelled source to fit it on.
        seed: of the sampled methods.
    """

    policy: Model
    reward: RewardModel | None
    members: Sequence[Model]
    temperature: SoftmaxTemperature | None
    config: UncertaintyConfig
    seed: int
    runtime: Runtime
    seconds: dict[str, float] = field(default_factory=dict)

    def methods(self) -> tuple[Method, ...]:
        """The rows, in order of appearance."""
        return tuple(Method(name, note) for name, note in self._notes())

    def _notes(self) -> Iterator[tuple[str, str]]:
        config, temperature = self.config, self.temperature
        if self.reward is not None:
            yield REWARD_RAW, "sigma(z) of the run's reward net."
            own = f"T = {self.reward.temperature:.2f} as the run fitted it on held-back reward examples"
            yield REWARD, f"sigma(z / T), {own}."
            yield PRODUCT, f"{REWARD} times {SOFTMAX}."
        scaled = ""
        if temperature is not None:
            fitted = f"fitted on {temperature.images} labelled source validation images"
            scaled = f"softmax(z / T), T = {temperature.value:.2f} {fitted}"
        yield SOFTMAX, "The policy's largest class probability."
        if scaled:
            yield SOFTMAX_T, f"The largest class probability of {scaled}, where the mask is foreground."
        yield (
            ENTROPY,
            "1 - H / log K of the policy's K class probabilities: a score in [0, 1], no probability.",
        )
        if scaled:
            yield ENTROPY_T, f"1 - H / log K of {scaled}, where the mask is foreground."
        if config.augmentation_draws:
            drawn = f"{config.augmentation_draws} turned, shifted, zoomed and recoloured ones"
            yield TTA, f"The plain image and {drawn}; mean probability of the mask's class. No flips."
        if config.dropout_passes:
            passes = f"{config.dropout_passes} passes, {self._dropout()}"
            yield DROPOUT, f"{passes}; mean probability of the mask's class."
        if self.members:
            yield ENSEMBLE, f"{len(self.members) + 1} policies; mean probability of this run's mask's class."

    def _dropout(self) -> str:
        if trained_with_dropout(self.policy):
            return "dropout as in training"
        return (
            "training-free: the network was trained without dropout, "
            f"rate {self.config.dropout_rate:g} is put in after every activation at test time only"
        )

    @torch.no_grad()
    def judge(self, images: Float32, cases: Sequence[int]) -> Judged:
        """Masks of the images (B, C, *S) and every method's map of them; ``cases`` name the images for the draws."""
        batch = self.runtime.tensor(images)
        with self._clock("prediction"):
            logits = policy_logits(self.policy, batch, self.runtime)
            masks, probabilities = most_probable(logits), logits.softmax(1)
        maps = self._from_softmax(logits)
        if self.reward is not None:
            with self._clock(REWARD):
                z = self.reward.logits(batch, masks[:, None])[:, 0]
            maps[REWARD_RAW] = calibrated_probability(z, 1.0)
            maps[REWARD] = calibrated_probability(z, self.reward.temperature)
            maps[PRODUCT] = maps[REWARD] * maps[SOFTMAX]
        sampled = self._sampled(batch, cases)
        for name, result in sampled.items():
            maps[name] = result.probabilities.gather(1, masks[:, None])[:, 0]
        arrays = {name: value.float().cpu().numpy() for name, value in maps.items()}
        information = {name: result.information for name, result in sampled.items()}
        return Judged(masks.cpu().numpy().astype(np.uint8), probabilities.cpu().numpy(), arrays, information)

    def _from_softmax(self, logits: Tensor) -> dict[str, Tensor]:
        with self._clock(SOFTMAX):
            maps = {SOFTMAX: logits.softmax(1).amax(1), ENTROPY: certainty(logits.softmax(1))}
            if self.temperature is not None:
                scaled = (logits / self.temperature.value).softmax(1)
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


def policy_logits(policy: Model, images: Tensor, runtime: Runtime) -> Tensor:
    """The policy's logits, plain, in eval mode. Shape: (B, C, *S) -> (B, K, *S)."""
    policy.network.eval()
    with runtime.autocast():
        logits: Tensor = policy.network(images)
    return logits.float()


def certainty(probabilities: Tensor) -> Tensor:
    """1 - H / log K: 1 for one sure class, 0 for K equal ones. Shape: (B, K, *S) -> (B, *S)."""
    entropy = torch.special.entr(probabilities).sum(1)
    sure: Tensor = (1 - entropy / np.log(probabilities.shape[1])).clamp(0, 1)
    return sure


@torch.no_grad()
def softmax_temperature(policy: Model, source: CaseStore, runtime: Runtime) -> SoftmaxTemperature | None:
    """The temperature of the policy's softmax on the source's labelled validation images, where the mask is foreground.

    None where the source has no labelled validation image. At most `MOST_IMAGES` are read, evenly.
    """
    indices = source.indices("val", labelled=True)
    chosen = indices[:: max(1, -(-len(indices) // MOST_IMAGES))]
    if not len(chosen):
        return None
    parts = []
    for start in range(0, len(chosen), runtime.batch_size):
        batch = chosen[start : start + runtime.batch_size]
        logits = policy_logits(policy, runtime.tensor(source.images(batch)), runtime)
        inside = most_probable(logits) > 0
        labels = runtime.tensor(source.labels(batch), torch.long)
        parts.append((logits.movedim(1, -1)[inside].cpu(), labels[inside].cpu()))
    pixels, truth = (torch.cat(part) for part in zip(*parts, strict=True))
    return SoftmaxTemperature(fit_softmax_temperature(pixels, truth), len(chosen))
