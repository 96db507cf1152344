"""A policy as ONNX: ``model.onnx`` runs in onnxruntime and what else reads ONNX. Needs the extra ``onnx``."""

from __future__ import annotations

import importlib.util
import io
import logging
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch
from torch import Tensor

from reward_data.errors import ConfigError
from rl4seg.export.details import ExportDetails
from rl4seg.export.graph import GraphFormat, export_graph
from rl4seg.export.verification import Verification, compare, probe_images
from rl4seg.package import PACKAGE, ModelPackage
from rl4seg.policies import Model

NEEDED = ("onnx", "onnxscript", "onnxruntime")
OPSET = 18

USE = """```python
import onnxruntime

policy = onnxruntime.InferenceSession("model.onnx")
(logits,) = policy.run(None, {"image": images})  # (B, C, *S) -> (B, K, *S)
```"""


def require_onnx() -> None:
    """Raises: ConfigError where a package of the extra is missing; called before anything is read or written."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"ONNX export needs {', '.join(missing)}; install the extra: pip install 'rl4seg[onnx]'"
        )


def _write(model: Model, path: Path, spec: str) -> Verification:
    onnx, onnxruntime = importlib.import_module("onnx"), importlib.import_module("onnxruntime")
    images = probe_images(model.spec.in_channels, model.spec.shape)
    network = model.network.eval()
    _trace(network, torch.from_numpy(images[:2]), path)
    graph = onnx.load(str(path))
    onnx.helper.set_model_props(graph, {PACKAGE: spec})
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(batch: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"image": batch.numpy()})[0])

    return compare(network, run, images, path.name)


def _trace(network: torch.nn.Module, images: Tensor, path: Path) -> None:
    """Write the graph, weights inside the file; the exporter's own talk is not the user's."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (images,),
            str(path),
            input_names=["image"],
            output_names=["logits"],
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            external_data=False,
        )


FORMAT = GraphFormat("ONNX", "model.onnx", "reward.onnx", USE, _write)


def export_onnx(package: ModelPackage, folder: Path, details: ExportDetails) -> Verification:
    """Write ``model.onnx`` and ``reward.onnx``; see `rl4seg.export.graph.export_graph`.

    Raises:
        ConfigError: the extra is not installed.
        ArtifactError: as `export_graph`; it is onnxruntime that is compared.
    """
    require_onnx()
    return export_graph(package, folder, details, FORMAT)
