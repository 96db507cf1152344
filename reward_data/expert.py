"""What experts have said about cases, as synthesis and training read it.

A case that the expert accepts or corrects has a true mask from then on; one that is rejected is never accepted as
pseudo ground truth; one that is skipped stays what it was.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import h5py
import numpy as np
from pydantic import Field

from reward_data.atomic import atomic_hdf5
from reward_data.errors import ArtifactError, DataError
from reward_data.types import Config, UInt8

Decision = Literal["accept", "correct", "reject", "skip"]
DECISIONS: tuple[Decision, ...] = get_args(Decision)


class Judged(Config):
    """Provenance of an example: the policy's own prediction, held against the mask that the expert gave."""

    kind: Literal["expert"] = Field(default="expert", description="Says which record this is.")
    decision: Decision = Field(description="What the expert decided about the case.")


@dataclass(frozen=True)
class Expert:
    """All that experts have said so far: decisions by case id, and the true mask of every accepted or corrected case.

    ``truths``: case id -> mask on the network grid. Shape: (*S).
    """

    decisions: Mapping[str, Decision] = field(default_factory=dict)
    truths: Mapping[str, UInt8] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wanted = {case for case, word in self.decisions.items() if word in ("accept", "correct")}
        if wanted != set(self.truths):
            raise DataError(
                f"a review with masks of {sorted(self.truths)}, wanted one for every accepted or corrected case, "
                f"{sorted(wanted)}; import the review again"
            )

    @property
    def rejected(self) -> frozenset[str]:
        """Cases whose masks are never pseudo ground truth."""
        return frozenset(case for case, word in self.decisions.items() if word == "reject")

    def counts(self) -> dict[str, int]:
        """How many cases were accepted, corrected and rejected."""
        words = Counter(self.decisions.values())
        return {
            "accepted": words["accept"],
            "corrected": words["correct"],
            "rejected": words["reject"],
        }

    def digest(self) -> str:
        """sha256 of decisions and masks."""
        digest = hashlib.sha256(json.dumps(dict(self.decisions), sort_keys=True).encode())
        for case in sorted(self.truths):
            digest.update(self.truths[case].tobytes())
        return digest.hexdigest()

    @classmethod
    def together(cls, reviews: Sequence[Expert]) -> Expert:
        """Several reviews as one; the later word on a case counts, a skipped case keeps the earlier one."""
        decisions: dict[str, Decision] = {}
        truths: dict[str, UInt8] = {}
        for review in reviews:
            for case, word in review.decisions.items():
                if word == "skip" and case in decisions:
                    continue
                decisions[case] = word
                truths.pop(case, None)
                if case in review.truths:
                    truths[case] = review.truths[case]
        return cls(decisions, truths)

    def save(self, path: Path) -> None:
        """Write HDF5; equal reviews give equal bytes."""
        cases = sorted(self.truths)
        with atomic_hdf5(path) as (file, _):
            meta = {"decisions": dict(self.decisions), "cases": cases}
            file["meta"] = np.frombuffer(json.dumps(meta, sort_keys=True).encode(), np.uint8)
            for number, case in enumerate(cases):
                file.create_dataset(
                    f"truths/{number:06d}", data=self.truths[case], compression="gzip", compression_opts=1
                )

    @classmethod
    def load(cls, path: Path) -> Expert:
        """Read what `save` wrote.

        Raises:
            ArtifactError: there is no such file, or it is broken.
        """
        try:
            with h5py.File(path, "r") as file:
                meta = json.loads(file["meta"][:].tobytes())
                truths = {case: file[f"truths/{i:06d}"][()] for i, case in enumerate(meta["cases"])}
        except (OSError, KeyError, ValueError) as error:
            raise ArtifactError(f"{path}: no readable review ({error}); import it again") from error
        return cls(meta["decisions"], truths)
