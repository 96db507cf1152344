"""A model package in a form that others run: a MONAI Bundle, TorchScript or ONNX, checked against the policy.

`export_package` is the whole of it; see `rl4seg.export.bundle`, `torchscript` and `onnx_graph` for what each writes.
"""

from rl4seg.export.details import ExportDetails
from rl4seg.export.package_export import FORMATS, export_package
from rl4seg.export.verification import TOLERANCE, Verification

__all__ = ["FORMATS", "TOLERANCE", "ExportDetails", "Verification", "export_package"]
