"""A policy as TorchScript: ``model.ts`` runs wherever libtorch does."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from rl4seg.export.details import ExportDetails
from rl4seg.export.graph import GraphFormat, export_graph
from rl4seg.export.verification import Verification, compare, probe_images
from rl4seg.package import PACKAGE, ModelPackage
from rl4seg.policies import Model

USE = """```python
import torch

policy = torch.jit.load("model.ts").eval()
logits = policy(images)  # (B, C, *S) -> (B, K, *S)
```

`package.json` is also inside the file: `found = {"package.json": ""}`, then
`torch.jit.load("model.ts", _extra_files=found)`."""


def _write(model: Model, path: Path, spec: str) -> Verification:
    images = probe_images(model.spec.in_channels, model.spec.shape)
    network = model.network.eval()
    with torch.no_grad(), warnings.catch_warnings():
        # the tracer warns of every shape that it takes as constant: all are, but for the batch, which is verified
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(network, torch.from_numpy(images[:2]), check_trace=False)
        torch.jit.save(traced, str(path), _extra_files={PACKAGE: spec})
        written = torch.jit.load(str(path)).eval()
    # optimised, each batch size would be compiled, which takes longer than running it
    with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
        return compare(network, written, images, path.name)


FORMAT = GraphFormat("TorchScript", "model.ts", "reward.ts", USE, _write)


def export_torchscript(package: ModelPackage, folder: Path, details: ExportDetails) -> Verification:
    """Write ``model.ts`` and ``reward.ts``; see `rl4seg.export.graph.export_graph`."""
    return export_graph(package, folder, details, FORMAT)
