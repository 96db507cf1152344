"""Export a model package: read it, write the form asked for, check it against the policy, and only then keep it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch

from reward_data.errors import ConfigError
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.export.bundle import export_bundle
from rl4seg.export.details import ExportDetails
from rl4seg.export.folder import MARK, export_folder
from rl4seg.export.onnx_graph import export_onnx, require_onnx
from rl4seg.export.torchscript import export_torchscript
from rl4seg.export.verification import TOLERANCE, Verification
from rl4seg.package import ModelPackage, load_package, package_folder
from rl4seg.paser.package import RoutedNetwork
from rl4seg.patchdrop.window_package import WindowedNetwork
from rl4seg.runtime import start

Exporter = Callable[[ModelPackage, Path, ExportDetails], Verification]
FORMATS: dict[str, Exporter] = {
    "bundle": export_bundle,
    "torchscript": export_torchscript,
    "onnx": export_onnx,
}


def export_package(
    source: Path, out: Path, form: str, force: bool = False, details: ExportDetails | None = None
) -> Verification:
    """Write ``out``, whole and checked, or nothing.

    Args:
        source: a run folder, a package folder or an exported bundle.
        form: bundle, torchscript or onnx.
        force: replace an earlier export in ``out``; what is no export is never replaced.

    Raises:
        ConfigError: the form is unknown, a package for it is not installed, ``out`` is taken, or the model is a router.
        ArtifactError: ``source`` holds no model package, ``out`` cannot be written, or the export predicts something
            else than the policy.
    """
    if form not in FORMATS:
        raise ConfigError(f"format {form!r}, wanted one of {', '.join(FORMATS)}")
    if form == "onnx":
        require_onnx()
    with export_folder(out, force) as folder:
        runtime = start(RuntimeConfig(device="cpu", precision="float32", threads=torch.get_num_threads()))
        package = load_package(package_folder(source), runtime)
        if isinstance(package.model.network, RoutedNetwork | WindowedNetwork):
            raise ConfigError(
                f"{source} is a PaSeR or PatchDrop model, which decides what to run while it runs: no single graph; "
                "use it by rl4seg predict, or export a run with one policy"
            )
        found = FORMATS[form](package, folder, details or ExportDetails())
        content = {
            "format": form,
            "name": package.spec.name,
            "iteration": package.spec.iteration,
            "tolerance": TOLERANCE,
            "verification": found.model_dump(),
        }
        (folder / MARK).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return found
