"""From predictions to a reward dataset: judge every mask, accept, correct, and make bad partners for the good ones.

A prediction is accepted when it breaks no anatomical rule and agrees, in every class, with its reconstruction by the
shape prior (RL4Seg, arXiv 2406.17902, section 2.2). Resumable: each chunk of images is a part file of its own, written
atomically; nothing depends on the order of execution, so the merged file is the same after any interruption.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from reward_data.anatomy import RuleSet, is_valid, violations
from reward_data.case_store import CaseStore
from reward_data.correction import SHAPE_PRIOR, Correction, CorrectionConfig, agrees, correct
from reward_data.distortions import (
    Contrast,
    DistortionConfig,
    Identity,
    Noise,
    Swap,
    WeightNoise,
    distort_image,
    predict_masks,
    sample_mask_damage,
)
from reward_data.errors import DataError
from reward_data.mask_damage import damage_mask
from reward_data.reward_store import ImageEntry, RewardStore, RewardStoreWriter, merge
from reward_data.shape_prior import ShapePrior
from reward_data.types import Config, Float32, Int64, Progress, Segmenter, UInt8, no_progress


class SynthesisConfig(Config):
    """How the reward dataset is made."""

    agreement: float = Field(
        default=0.93,
        ge=0,
        le=1,
        description="Least Dice, in every class, with the shape prior's reconstruction; 0 = any.",
    )
    distortions: DistortionConfig = Field(
        default=DistortionConfig(), description="Bad partners of accepted masks."
    )
    corrections: bool = Field(
        default=True, description="Pair rejected masks with their correction, where there is one."
    )
    correction: CorrectionConfig = Field(default=CorrectionConfig(), description="How masks are corrected.")
    anchor_corrections: bool = Field(
        default=False, description="Let corrected masks be anchors of the fine-tuning as well."
    )
    validation_fraction: float = Field(
        default=0.2, gt=0, lt=1, description="Share of the patients whose examples calibrate the reward net."
    )
    chunk: int = Field(default=64, ge=1, description="Images per part file, the unit of resuming.")


@dataclass(frozen=True)
class Judgement:
    """What became of one prediction: accepted, corrected (``truth`` is the correction), or neither (``truth`` None)."""

    case: int
    accepted: bool
    truth: UInt8 | None
    correction: Correction | None
    violated: tuple[str, ...]


@dataclass
class Synthesis:
    """One synthesis; see `synthesize`."""

    store: CaseStore
    indices: Int64
    masks: UInt8
    segmenter: Segmenter
    rules: RuleSet
    prior: ShapePrior | None
    config: SynthesisConfig
    seed: int

    def judge(self, row: int) -> Judgement:
        """Accept, correct or set aside prediction number ``row``."""
        mask, case = self.masks[row], int(self.indices[row])
        spacing = self.store.spacing_mm(case)
        broken = tuple(item.rule for item in violations(mask, self.rules, spacing))
        agreed = self.prior is None or agrees(mask, self.prior, self.store.num_classes, self.config.agreement)
        if not broken and agreed:
            return Judgement(case, True, mask, None, ())
        if not self.config.corrections:
            return Judgement(case, False, None, None, broken)
        if broken:
            corrected = correct(mask, self.prior, self.rules, spacing, self.config.correction)
        else:
            corrected = self._projected(mask, spacing)
        truth, record = corrected or (None, None)
        return Judgement(case, False, truth, record, broken)

    def _projected(self, mask: UInt8, spacing_mm: tuple[float, ...]) -> tuple[UInt8, Correction] | None:
        """A valid mask of unusual shape: its projection on the prior, where that is valid too."""
        assert self.prior is not None
        shape = self.prior.reconstruct(mask)
        return (shape, Correction(steps=(SHAPE_PRIOR,))) if is_valid(shape, self.rules, spacing_mm) else None

    @cached_property
    def judgements(self) -> list[Judgement]:
        """Of every prediction, in the order of ``indices``."""
        return [self.judge(row) for row in range(len(self.indices))]

    @cached_property
    def accepted(self) -> dict[str, UInt8]:
        """Accepted masks by case id."""
        return {
            self.store.ids[j.case]: j.truth for j in self.judgements if j.accepted and j.truth is not None
        }

    @cached_property
    def noisy(self) -> list[tuple[WeightNoise, Segmenter]]:
        """One perturbed policy per sigma, for all images."""
        records = [WeightNoise(sigma=s, seed=self.seed) for s in self.config.distortions.weight_noise]
        return [(record, self.segmenter.perturbed(record.sigma, record.seed)) for record in records]

    @cached_property
    def validation_groups(self) -> frozenset[str]:
        """Patients of the validation split: the first by hash, the same ones in every iteration."""
        groups = sorted({self.store.groups[int(i)] for i in self.indices}, key=_hash)
        return frozenset(groups[: max(1, round(self.config.validation_fraction * len(groups)))])

    def rng(self, case: int) -> np.random.Generator:
        """The random numbers of one case, whatever else is processed."""
        return np.random.default_rng([self.seed, int(_hash(self.store.ids[case])[:8], 16)])

    def write_part(self, judgements: list[Judgement], path: Path) -> None:
        """All examples of some images, written atomically."""
        temporary = path.with_suffix(".tmp")
        images = self.store.images([j.case for j in judgements])
        kept = [row for row, j in enumerate(judgements) if j.accepted]
        predicted = self._predicted(images[kept], [judgements[row] for row in kept])
        with RewardStoreWriter(temporary, self.store.channels, self.store.shape) as writer:
            for row, judgement in enumerate(judgements):
                number = writer.add_image(self._entry(judgement, images[row]))
                examples = self._masks_of(judgement) + predicted.get(judgement.case, [])
                for record, proposed in examples:
                    writer.add_example(number, proposed, record)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)

    def _entry(self, judgement: Judgement, image: Float32) -> ImageEntry:
        assert judgement.truth is not None
        split = "val" if self.store.groups[judgement.case] in self.validation_groups else "train"
        anchor = judgement.accepted or self.config.anchor_corrections
        pixels = np.rint(image * 255).astype(np.uint8)
        return ImageEntry(self.store.ids[judgement.case], split, anchor, pixels, judgement.truth)

    def _masks_of(self, judgement: Judgement) -> list[tuple[Any, UInt8]]:
        """Examples made from masks alone."""
        assert judgement.truth is not None
        if not judgement.accepted:
            row = int(np.flatnonzero(self.indices == judgement.case)[0])
            return [(judgement.correction, self.masks[row])]
        config, rng, own = self.config.distortions, self.rng(judgement.case), self.store.ids[judgement.case]
        examples: list[tuple[Any, UInt8]] = [(Identity(), judgement.truth)] if config.identity else []
        others = [case_id for case_id in self.accepted if case_id != own]
        for _ in range(config.swap if others else 0):
            other = others[int(rng.integers(len(others)))]
            examples.append((Swap(other_id=other), self.accepted[other]))
        for record in sample_mask_damage(config.mask, self.store.num_classes, rng):
            examples.append((record, damage_mask(record, judgement.truth)))
        return examples

    def _predicted(self, images: Float32, judgements: list[Judgement]) -> dict[int, list[tuple[Any, UInt8]]]:
        """Examples that ask a policy: noisy weights on clean images, then the clean policy on distorted images."""
        examples: dict[int, list[tuple[Any, UInt8]]] = {j.case: [] for j in judgements}
        if not judgements:
            return examples
        for noise_record, noisy in self.noisy:
            for judgement, mask in zip(judgements, predict_masks(noisy, images), strict=True):
                examples[judgement.case].append((noise_record, mask))
        config = self.config.distortions
        for contrast in config.contrast:
            self._on_distorted(images, [(j, Contrast(factor=contrast)) for j in judgements], examples)
        for sigma in config.noise:
            records = [
                (j, Noise(sigma=sigma, seed=int(self.rng(j.case).integers(2**31)))) for j in judgements
            ]
            self._on_distorted(images, records, examples)
        return examples

    def _on_distorted(
        self,
        images: Float32,
        records: list[tuple[Judgement, Any]],
        examples: dict[int, list[tuple[Any, UInt8]]],
    ) -> None:
        distorted = np.stack(
            [distort_image(record, image) for image, (_, record) in zip(images, records, strict=True)]
        )
        for (judgement, record), mask in zip(records, predict_masks(self.segmenter, distorted), strict=True):
            examples[judgement.case].append((record, mask))

    def summary(self, out: Path) -> dict[str, Any]:
        """What became of the predictions, and what the dataset holds."""
        judged = self.judgements
        count = len(judged)
        broken = Counter(rule for j in judged for rule in j.violated)
        with RewardStore(out) as rewards:
            errors: dict[str, list[float]] = {}
            for example in range(len(rewards)):
                kind = rewards.provenance(example).kind
                errors.setdefault(kind, []).append(float(rewards.errors(np.array([example])).mean()))
            return {
                "images": count,
                "valid": sum(not j.violated for j in judged) / count,
                "accepted": sum(j.accepted for j in judged) / count,
                "corrected": sum(j.correction is not None for j in judged) / count,
                "examples": rewards.kinds(),
                "mean_error": {kind: float(np.mean(values)) for kind, values in sorted(errors.items())},
                "violated": {rule: n / count for rule, n in sorted(broken.items())},
            }


def synthesize(
    store: CaseStore,
    indices: Int64,
    masks: UInt8,
    segmenter: Segmenter,
    rules: RuleSet,
    prior: ShapePrior | None,
    config: SynthesisConfig,
    seed: int,
    out: Path,
    checkpoint: Path,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Make the reward dataset ``out`` from the predictions ``masks`` (n, *S) of the cases ``indices`` (n,).

    Args:
        segmenter: the policy that made the predictions; weight noise and distorted images ask it again.
        prior: shape prior; None accepts on the rules alone.
        checkpoint: folder that survives a kill; holds finished parts.

    Raises:
        DataError: no prediction was accepted or could be corrected; says which rules failed most.
    """
    synthesis = Synthesis(store, indices, masks, segmenter, rules, prior, config, seed)
    usable = [j for j in synthesis.judgements if j.truth is not None]
    if not usable:
        raise DataError(_nothing_usable(synthesis.judgements))
    checkpoint.mkdir(parents=True, exist_ok=True)
    parts = []
    for number, start in enumerate(range(0, len(usable), config.chunk)):
        parts.append(checkpoint / f"part-{number:05d}.h5")
        if not parts[-1].exists():
            synthesis.write_part(usable[start : start + config.chunk], parts[-1])
        progress(min(start + config.chunk, len(usable)), len(usable))
    merge(parts, out) if len(parts) > 1 else shutil.copyfile(parts[0], out)
    return synthesis.summary(out)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _nothing_usable(judgements: list[Judgement]) -> str:
    broken = Counter(rule for j in judgements for rule in j.violated).most_common(3)
    most = ", ".join(f"{rule} ({count} of {len(judgements)})" for rule, count in broken)
    return (
        f"none of {len(judgements)} predictions on the target is acceptable or can be corrected; rules broken most: "
        f"{most or 'none, but no mask agrees with the shape prior'}. Check rules and labels against the source masks "
        "(rl4seg anatomy check), lower synthesis.agreement, or start from a better source policy"
    )
