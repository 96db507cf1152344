"""What an artifact is called and made of: the references that stages exchange, the manifest beside its files."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from flows.file_digests import tree_digest
from reward_data.errors import ArtifactError

MANIFEST = "manifest.json"


# --- references ------------------------------------------------------------------------------------------------------


class ArtifactRef(BaseModel):
    """What stages exchange: which artifact, never its contents.

    ``digest`` is the sha256 of its files' names and contents, ``size`` their bytes, ``made_from`` the digests of the
    artifacts that went in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str = ""
    key: str
    digest: str
    size: int
    made_from: tuple[str, ...] = ()


class CaseSet(ArtifactRef):
    """Preprocessed cases: a case store."""

    kind: Literal["CaseSet"] = "CaseSet"


class ShapePriorRef(ArtifactRef):
    """A shape prior fitted on masks."""

    kind: Literal["ShapePriorRef"] = "ShapePriorRef"


class Policy(ArtifactRef):
    """A segmentation policy: architecture and weights."""

    kind: Literal["Policy"] = "Policy"


class Predictions(ArtifactRef):
    """Masks that a policy predicted for a case set."""

    kind: Literal["Predictions"] = "Predictions"


class RewardSet(ArtifactRef):
    """A reward dataset."""

    kind: Literal["RewardSet"] = "RewardSet"


class RewardNet(ArtifactRef):
    """A calibrated reward net."""

    kind: Literal["RewardNet"] = "RewardNet"


class Evaluation(ArtifactRef):
    """The measured quality of a policy."""

    kind: Literal["Evaluation"] = "Evaluation"


class JudgementRef(ArtifactRef):
    """What the stop rule says after an iteration: label-free signals, alarm and choice."""

    kind: Literal["JudgementRef"] = "JudgementRef"


class PackageRef(ArtifactRef):
    """A model package: a policy with all that is needed to use it on files."""

    kind: Literal["PackageRef"] = "PackageRef"


class Report(ArtifactRef):
    """The report of a run."""

    kind: Literal["Report"] = "Report"


class Comparison(ArtifactRef):
    """What reports of several runs say about the arms: the comparison's page, figures and table."""

    kind: Literal["Comparison"] = "Comparison"


RefT = TypeVar("RefT", bound=ArtifactRef)


# --- the manifest ----------------------------------------------------------------------------------------------------


class FileRecord(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(frozen=True)

    sha256: str
    size: int


class Manifest(BaseModel):
    """What manifest.json says: the reference, every file, the build's seconds and its end (seconds since the epoch)."""

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    kind: str
    key: str
    digest: str
    size: int
    made_from: tuple[str, ...] = ()
    files: dict[str, FileRecord]
    seconds: float | None = None
    committed: float | None = None

    @classmethod
    def parse(cls, content: bytes, key: str) -> Manifest:
        """Read a manifest that may come from elsewhere.

        Raises:
            ValueError: it is no manifest, or of another key, or in contradiction with itself, or names files that would
                lie outside of the artifact's folder.
        """
        manifest = cls.model_validate_json(content)
        listed = {name: (file.sha256, file.size) for name, file in manifest.files.items()}
        if manifest.key != key or tree_digest(listed) != manifest.digest:
            raise ValueError("a manifest that contradicts itself")
        for name in manifest.files:
            path = PurePosixPath(name)
            if name == MANIFEST or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
                raise ValueError(f"a manifest with a file of the forbidden name {name!r}")
        return manifest

    def ref(self, type_: type[RefT], place: str) -> RefT:
        """The reference to the artifact, which lies in ``place``.

        Raises:
            ArtifactError: it is of another kind.
        """
        wanted = type_.model_fields["kind"].default
        if wanted and self.kind != wanted:
            raise ArtifactError(f"artifact {self.key[:12]} in {place}: got a {self.kind}, wanted a {wanted}")
        return type_.model_validate({name: getattr(self, name) for name in type_.model_fields})
