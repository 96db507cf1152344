"""From predictions to a reward dataset: judge every mask, accept, correct, and make bad partners for the good ones.

A prediction is accepted when it breaks no anatomical rule and agrees, in every class, with its reconstruction by the
shape prior (RL4Seg, arXiv 2406.17902, section 2.2). Resumable: each chunk of predictions is a part file of its own,
written atomically; nothing depends on the order of execution, so the merged file is the same after any interruption.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from reward_data.anatomy import RuleSet, violations
from reward_data.atomic import atomic_file
from reward_data.case_store import CaseStore
from reward_data.correction import Correction, CorrectionConfig, agrees, correct
from reward_data.distortions import (
    Contrast,
    Distortion,
    DistortionConfig,
    Identity,
    Noise,
    Swap,
    WeightNoise,
    distort_image,
    predict_masks,
    sample_distortions,
    weight_noises,
)
from reward_data.errors import ArtifactError, DataError
from reward_data.expert import Expert, Judged
from reward_data.mask_damage import damage_mask
from reward_data.reward_store import ImageEntry, RewardStore, RewardStoreWriter, merge
from reward_data.shape_prior import ShapePrior
from reward_data.types import Config, Float32, Int64, Progress, Segmenter, UInt8, no_progress

Examples = list[tuple[Distortion | Correction | Judged, UInt8]]


class SynthesisConfig(Config):
    """How the reward dataset is made."""

    agreement: float = Field(
        default=0.93,
        ge=0,
        lt=1,
        description="Least Dice, in every class, with the shape prior's reconstruction; 0 = any.",
    )
    distortions: DistortionConfig = Field(
        default=DistortionConfig(), description="Partners of accepted masks, by family."
    )
    corrections: bool = Field(
        default=True,
        description="Pair masks that are not accepted with their correction, where there is one (paper).",
    )
    correction: CorrectionConfig = Field(default=CorrectionConfig(), description="How masks are corrected.")
    anchor_corrections: bool = Field(
        default=False, description="Let corrected masks be anchors of the fine-tuning as well."
    )
    validation_fraction: float = Field(
        default=0.2,
        gt=0,
        lt=1,
        description="Share of the groups (patients) whose examples calibrate the reward net.",
    )
    chunk: int = Field(default=64, ge=1, description="Predictions per part file, the unit of resuming.")


@dataclass(frozen=True)
class Verdict:
    """On one prediction: the rules that it breaks, and whether it agrees with the shape prior."""

    violated: tuple[str, ...]
    agreed: bool

    @property
    def accepted(self) -> bool:
        """Whether the prediction is its image's pseudo ground truth."""
        return self.agreed and not self.violated


@dataclass
class Synthesis:
    """One synthesis; see `synthesize`. A row is a place in ``indices`` and ``masks``.

    ``truths``: the masks, and in their place those that the expert has given. Shape: (n, *S).
    """

    store: CaseStore
    indices: Int64
    masks: UInt8
    segmenter: Segmenter
    rules: RuleSet
    prior: ShapePrior | None
    config: SynthesisConfig
    seed: int
    progress: Progress
    expert: Expert = field(default_factory=Expert)

    def __post_init__(self) -> None:
        if len(self.indices) == 0 or self.masks.shape != (len(self.indices), *self.store.shape):
            raise DataError(
                f"synthesis: masks of shape {self.masks.shape} for {len(self.indices)} cases on a grid of "
                f"{self.store.shape}; wanted one mask per case and at least one case: predict the target cases first"
            )
        rows = {case: row for row, case in enumerate(self._ids())}
        missing = sorted(set(self.expert.truths) - set(rows))
        if missing:
            raise DataError(
                f"synthesis: the reviewed cases {missing[:5]} are not among the {len(rows)} predicted ones; wanted "
                "cases of the same target: import the review into the run that exported it"
            )
        self.truths = self.masks.copy() if self.expert.truths else self.masks
        for case, truth in self.expert.truths.items():
            self.truths[rows[case]] = truth

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """Of every prediction."""
        verdicts = []
        for row, mask in enumerate(self.masks):
            broken = violations(mask, self.rules, self.store.spacing_mm(int(self.indices[row])))
            agreed = agrees(mask, self.prior, self.config.agreement)
            verdicts.append(Verdict(tuple(item.rule for item in broken), agreed))
            if (row + 1) % self.config.chunk == 0:
                self.progress(row + 1, 2 * len(self.masks))
        return verdicts

    @cached_property
    def accepted(self) -> dict[str, int]:
        """Rows of the accepted predictions by case id, in the order of the ids, not of the predictions.

        Those that the expert has given a mask for are accepted, those that he has rejected are not.
        """
        ids, known, rejected = self._ids(), self.expert.truths, self.expert.rejected
        rows = [row for row, verdict in enumerate(self.verdicts) if verdict.accepted or ids[row] in known]
        return dict(sorted((ids[row], row) for row in rows if ids[row] not in rejected))

    def _ids(self) -> list[str]:
        return [self.store.ids[int(i)] for i in self.indices]

    @cached_property
    def noisy(self) -> list[tuple[WeightNoise, Segmenter]]:
        """The policies with noisy weights, made once for all images."""
        records = weight_noises(self.config.distortions.model, self.seed)
        return [(record, self.segmenter.perturbed(record.sigma, record.seed)) for record in records]

    @cached_property
    def validation_groups(self) -> frozenset[str]:
        """Patients of the validation split: the first by hash, the same ones in every iteration."""
        groups = sorted({self.store.groups[int(i)] for i in self.indices}, key=_hash)
        return frozenset(groups[: max(1, round(self.config.validation_fraction * len(groups)))])

    def write_part(self, rows: Sequence[int], path: Path) -> None:
        """All examples of some predictions, written atomically; possibly none."""
        images = self.store.images([int(self.indices[row]) for row in rows])
        accepted = set(self.accepted.values())
        kept = [place for place, row in enumerate(rows) if row in accepted]
        distorted = self._distorted([rows[place] for place in kept], images[kept])
        with RewardStoreWriter(path, self.store.channels, self.store.shape) as writer:
            for row, image in zip(rows, images, strict=True):
                if row in distorted:
                    examples = [*self._judged(row), *distorted[row]]
                    writer.add(self._entry(row, image, self.truths[row], True), examples)
                elif (corrected := self._corrected(row)) is not None:
                    truth, record = corrected
                    entry = self._entry(row, image, truth, self.config.anchor_corrections)
                    writer.add(entry, [(record, self.masks[row])])

    def _corrected(self, row: int) -> tuple[UInt8, Correction] | None:
        if not self.config.corrections or self._id(row) in self.expert.rejected:
            return None
        spacing, config = self.store.spacing_mm(int(self.indices[row])), self.config
        return correct(self.masks[row], self.prior, self.rules, spacing, config.correction, config.agreement)

    def _id(self, row: int) -> str:
        return self.store.ids[int(self.indices[row])]

    def _judged(self, row: int) -> Examples:
        """The prediction itself, where the expert has given the truth: an error as this policy really makes it."""
        case = self._id(row)
        if case not in self.expert.truths:
            return []
        return [(Judged(decision=self.expert.decisions[case]), self.masks[row])]

    def _entry(self, row: int, image: Float32, truth: UInt8, anchor: bool) -> ImageEntry:
        case = int(self.indices[row])
        split: Literal["train", "val"] = (
            "val" if self.store.groups[case] in self.validation_groups else "train"
        )
        grey = np.rint(image * 255).astype(np.uint8)
        return ImageEntry(
            self.store.ids[case], split, anchor, grey, truth, self.store.ids[case] in self.expert.truths
        )

    def _distorted(self, rows: list[int], images: Float32) -> dict[int, Examples]:
        """Examples of accepted predictions by row; the policies see many images at once."""
        examples: dict[int, Examples] = {row: [] for row in rows}
        if not rows:
            return examples
        for record, noisy in self.noisy:
            for row, mask in zip(rows, predict_masks(noisy, images), strict=True):
                examples[row].append((record, mask))
        asked: list[tuple[int, Contrast | Noise, Float32]] = []
        for row, image in zip(rows, images, strict=True):
            for drawn in self._records(row):
                if isinstance(drawn, Contrast | Noise):
                    asked.append((row, drawn, image))
                else:
                    examples[row].append((drawn, self._from_masks(drawn, self.truths[row])))
        for start in range(0, len(asked), self.config.chunk):
            batch = asked[start : start + self.config.chunk]
            inputs = np.stack([distort_image(drawn, image) for _, drawn, image in batch])
            for (row, drawn, _), mask in zip(batch, predict_masks(self.segmenter, inputs), strict=True):
                examples[row].append((drawn, mask))
        return examples

    def _records(self, row: int) -> tuple[Distortion, ...]:
        """Drawn from the seed and the case's id alone, whatever else is processed."""
        own = self.store.ids[int(self.indices[row])]
        others = [case_id for case_id in self.accepted if case_id != own]
        rng = np.random.default_rng([self.seed, int(_hash(own)[:16], 16)])
        return sample_distortions(self.config.distortions, self.store.num_classes, others, rng)

    def _from_masks(self, record: Distortion, mask: UInt8) -> UInt8:
        if isinstance(record, Identity):
            return mask
        if isinstance(record, Swap):
            swapped: UInt8 = self.truths[self.accepted[record.other_id]]
            return swapped
        assert not isinstance(record, WeightNoise | Contrast | Noise)
        return damage_mask(record, mask)

    def fingerprint(self) -> str:
        """Of all inputs but the policy, whose predictions are among them."""
        digest = hashlib.sha256(f"{self.config.model_dump_json()} {self.rules.model_dump_json()}".encode())
        digest.update(repr([self.seed, *(self.store.ids[int(i)] for i in self.indices)]).encode())
        prior = () if self.prior is None else (self.prior.mean, self.prior.components, self.prior.deviations)
        for array in (self.masks, *prior):
            digest.update(array.tobytes())
        digest.update(self.expert.digest().encode())
        return digest.hexdigest()

    def summary(self, rewards: RewardStore) -> dict[str, Any]:
        """What became of the predictions, and what the dataset holds. Shares are of all predictions."""
        count, kinds = len(self.verdicts), rewards.kinds()
        broken = Counter(rule for verdict in self.verdicts for rule in verdict.violated)
        return {
            "images": count,
            "valid": sum(not verdict.violated for verdict in self.verdicts) / count,
            "agreed": sum(verdict.agreed for verdict in self.verdicts) / count,
            "accepted": len(self.accepted) / count,
            "corrected": kinds.get("correction", 0) / count,
            "reviewed": self.expert.counts(),
            "examples": kinds,
            "mean_error": rewards.mean_errors(),
            "violated": {rule: number / count for rule, number in sorted(broken.items())},
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
    expert: Expert | None = None,
) -> dict[str, Any]:
    """Make the reward dataset ``out`` from the predictions ``masks`` (n, *S) of the cases ``indices`` (n,).

    Args:
        segmenter: the policy that made the predictions; weight noise and distorted images ask it again.
        prior: shape prior; None accepts on the rules alone.
        checkpoint: folder that survives a kill; holds finished parts. Parts of other inputs are thrown away.
        progress: one half of the units is judging, the other making examples.
        expert: what experts have said; their masks are the truths of these cases, rejected ones give no example.

    Returns:
        Numbers and shares: images, valid, agreed, accepted, corrected, reviewed, examples and mean_error by kind,
        violated.

    Raises:
        DataError: no prediction was accepted or could be corrected; says which rules failed most.
    """
    synthesis = Synthesis(
        store, indices, masks, segmenter, rules, prior, config, seed, progress, expert or Expert()
    )
    _keep_matching_parts(checkpoint, synthesis.fingerprint())
    total = len(indices)
    parts = []
    for number, start in enumerate(range(0, total, config.chunk)):
        rows = range(start, min(start + config.chunk, total))
        parts.append(checkpoint / f"part-{number:05d}.h5")
        if not _is_whole(parts[-1]):
            synthesis.write_part(rows, parts[-1])
        progress(total + rows.stop, 2 * total)
    if not any(_examples(parts)):
        raise DataError(_nothing_usable(synthesis.verdicts))
    merge(parts, out)
    with RewardStore(out) as rewards:
        return synthesis.summary(rewards)


def _keep_matching_parts(checkpoint: Path, fingerprint: str) -> None:
    mark = checkpoint / "inputs.sha256"
    if mark.exists() and mark.read_text() == fingerprint:
        return
    for part in checkpoint.glob("part-*.h5"):
        part.unlink()
    with atomic_file(mark) as temporary:
        temporary.write_text(fingerprint)


def _is_whole(part: Path) -> bool:
    try:
        with RewardStore(part):
            return True
    except ArtifactError:
        return False


def _examples(parts: Sequence[Path]) -> Iterable[int]:
    for part in parts:
        with RewardStore(part) as store:
            yield len(store)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _nothing_usable(verdicts: list[Verdict]) -> str:
    broken = Counter(rule for verdict in verdicts for rule in verdict.violated).most_common(3)
    most = ", ".join(f"{rule} ({count} of {len(verdicts)})" for rule, count in broken)
    return (
        f"none of {len(verdicts)} predictions on the target is acceptable or can be corrected; rules broken most: "
        f"{most or 'none, but no mask agrees with the shape prior'}. Check rules and labels against the source masks "
        "(rl4seg anatomy check), lower synthesis.agreement, or start from a better source policy"
    )
