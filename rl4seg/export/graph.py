"""What TorchScript and ONNX have in common: policy and reward net as one file each, with all that is to be known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rl4seg.export.details import ExportDetails
from rl4seg.export.graph_readme import write_readme
from rl4seg.export.verification import Verification
from rl4seg.package import PACKAGE, ModelPackage
from rl4seg.policies import Model


class GraphFormat(NamedTuple):
    """A form of graph: its name, the files of policy and reward net, Python that runs it, and what writes one.

    ``write`` puts a model and the text of `package.json` into a file, and compares it with the model.
    """

    name: str
    model: str
    reward: str
    use: str
    write: Callable[[Model, Path, str], Verification]


def export_graph(
    package: ModelPackage, folder: Path, details: ExportDetails, form: GraphFormat
) -> Verification:
    """Write the policy, and the reward net where there is one, each with ``package.json`` inside; and a README.

    Shape: ``image`` (B, C, *S) in [0, 1] -> logits (B, K, *S), B free, S the package's. The reward net takes C + K
    channels. Returns how far the policy's file is from the policy.

    Raises:
        ArtifactError: a written file predicts something else.
    """
    spec = package.spec.model_dump_json(indent=1)
    found = form.write(package.model, folder / form.model, spec)
    if package.reward is not None:
        form.write(package.reward.model, folder / form.reward, spec)
    (folder / PACKAGE).write_text(spec + "\n", encoding="utf-8")
    write_readme(package, folder, details, form.name, (form.model, form.reward), form.use)
    return found
