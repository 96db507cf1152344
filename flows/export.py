"""`rl4seg export`: a run's policy as a MONAI Bundle, TorchScript or ONNX."""

from __future__ import annotations

from pathlib import Path

from flows.console import console
from rl4seg.export import TOLERANCE, ExportDetails, Verification, export_package


def export_run(run: Path, out: Path, form: str, force: bool, details: dict[str, str | None]) -> Verification:
    """Export, and print how far it lies from the policy; ``details`` are those of `ExportDetails` that are given.

    Raises:
        ConfigError, ArtifactError: see `rl4seg.export.export_package`.
    """
    given = ExportDetails(**{name: value for name, value in details.items() if value is not None})
    found = export_package(run, out, form, force, given)
    console().print(
        f"{found.images} images: largest difference of a logit {found.logits:.2g}, of a probability "
        f"{found.probabilities:.2g} (allowed {TOLERANCE:g}); {found.pixels} pixels with another label",
        highlight=False,
        soft_wrap=True,
    )
    if found.files:
        console().print(
            f"{found.files} image files, from reading to the written mask: equal", highlight=False
        )
    console().print(f"{form}: {out}", highlight=False, soft_wrap=True)
    return found
