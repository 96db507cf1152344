"""``configs/metadata.json`` of a MONAI Bundle: what the model is, takes and gives.

The keys are those of the MONAI Bundle Specification (docs.monai.io, mb_specification); keys of our own come after them.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any

from rl4seg.export.details import NOT_STATED, ExportDetails, preparation
from rl4seg.package import ModelPackage

SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
)
VERSION = "1.0.0"
REQUIRED = ("nibabel", "safetensors", "scipy", "fire")
REFERENCES = [
    "Judge et al. Domain Adaptation of Echocardiography Segmentation Via Reinforcement Learning. 2024. arXiv 2406.17902"
]


def metadata(package: ModelPackage, details: ExportDetails) -> dict[str, Any]:
    """The content of ``metadata.json``."""
    spec = package.spec
    names = ", ".join(spec.labels.names[1:])
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "changelog": {VERSION: f"exported from {spec.name}, iteration {spec.iteration}"},
        "monai_version": _version("monai"),
        "pytorch_version": _version("torch"),
        "numpy_version": _version("numpy"),
        "required_packages_version": required_packages(package),
        "optional_packages_version": {},
        "name": spec.name,
        "task": f"Segmentation of {names}",
        "description": f"A {len(spec.preprocess.shape)}-D segmentation policy for {names}, adapted to unlabelled "
        f"target images by reinforcement learning (RL4Seg); iteration {spec.iteration} of {spec.name}.",
        "authors": details.authors,
        "copyright": details.authors if details.authors == NOT_STATED else f"Copyright (c) {details.authors}",
        "license": details.licence,
        "data_type": "nifti",
        "image_classes": f"{package.model.spec.in_channels} channel(s), intensity scaled to [0, 1]",
        "label_classes": _classes(package),
        "pred_classes": _classes(package),
        "eval_metrics": figures(spec.training.get("figures", {})),
        "intended_use": details.intended_use,
        "references": REFERENCES,
        "network_data_format": _data_format(package, details),
        "labels": {str(value): name for value, name in enumerate(spec.labels.names)},
        "preprocessing": spec.preprocess.model_dump(mode="json"),
        "preprocessing_steps": preparation(package),
        "spacing_mm": spec.preprocess.spacing_mm,
        "spacing_known": spec.spacing_known,
        "training_data": spec.training,
        "trust_flag": None if spec.trust is None else spec.trust.model_dump(mode="json"),
        "reward_temperature": None if package.reward is None else package.reward.temperature,
        "made_with": spec.made_with,
    }


def figures(measured: Any, prefix: str = "") -> dict[str, float]:
    """The numbers of a summary, by the path to them; a pair is mean and standard deviation over cases.

    {"dice": {"lv": [.8, .1]}, "validity": .9} -> {"dice.lv": .8, "dice.lv.sd": .1, "validity": .9}
    """
    if isinstance(measured, dict):
        parts = [figures(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in measured.items()]
        return {name: value for part in parts for name, value in part.items()}
    if isinstance(measured, list | tuple) and len(measured) == 2:
        return figures(measured[0], prefix) | figures(measured[1], f"{prefix}.sd")
    is_number = isinstance(measured, int | float) and not isinstance(measured, bool)
    return {prefix: measured} if is_number else {}


def required_packages(package: ModelPackage) -> dict[str, str]:
    """What must be installed beside monai, torch and numpy, with the version that was tried."""
    needed = (*REQUIRED, "scikit-image") if package.spec.preprocess.clahe_clip is not None else REQUIRED
    return {name: _version(name) for name in needed}


def _classes(package: ModelPackage) -> str:
    return "; ".join(f"{value} is {name}" for value, name in enumerate(package.spec.labels.names))


def _data_format(package: ModelPackage, details: ExportDetails) -> dict[str, Any]:
    spec, channels = package.model.spec, package.model.spec.in_channels
    both = {"type": "image", "spatial_shape": list(spec.shape), "dtype": "float32", "is_patch_data": False}
    image = {
        **both,
        "format": "magnitude",
        "modality": details.modality,
        "num_channels": channels,
        "value_range": [0, 1],
        "channel_def": {str(channel): "image" for channel in range(channels)},
    }
    pred = {
        **both,
        "format": "segmentation",
        "modality": "n/a",
        "num_channels": len(spec.class_names),
        "value_range": [],
        "channel_def": {str(value): name for value, name in enumerate(spec.class_names)},
    }
    return {"inputs": {"image": image}, "outputs": {"pred": pred}}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "any"
