"""A policy as a MONAI Bundle: a folder that ``python -m monai.bundle run`` predicts with, without this project.

configs/metadata.json, inference.json, logging.conf
models/                                             a model package (`rl4seg.package`): weights, no pickles
scripts/predictor.py                                 this project's own functions, copied (`bundle_code`)
docs/README.md, LICENSE
"""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

from rl4seg.export.bundle_check import check_bundle
from rl4seg.export.bundle_code import standalone_source
from rl4seg.export.bundle_metadata import metadata, required_packages
from rl4seg.export.details import ExportDetails, class_lines, preparation
from rl4seg.export.verification import Verification
from rl4seg.package import MODELS, REWARD, ModelPackage, save_package
from rl4seg.policies import WEIGHTS, Model

CODE = "rl4seg.export.in_bundle"
ROOTS = ("network", "with_weights", "list_inputs", "ToGrid", "ToFile", "Predictor")
RUN = (
    "python -m monai.bundle run --config_file configs/inference.json --bundle_root . --input IMAGE.nii.gz "
    "--output_dir OUT"
)

LOGGING = """[loggers]
keys=root
[handlers]
keys=console
[formatters]
keys=plain
[logger_root]
level=INFO
handlers=console
[handler_console]
class=StreamHandler
level=INFO
formatter=plain
args=(sys.stdout,)
[formatter_plain]
format=%(levelname)s %(message)s
"""


def export_bundle(package: ModelPackage, folder: Path, details: ExportDetails) -> Verification:
    """Write the bundle and check it against the policy: logits, and masks of files on their own pixels.

    Raises:
        ArtifactError: the written bundle predicts something else.
    """
    for name in ("configs", "models", "scripts", "docs"):
        (folder / name).mkdir()
    save_package(package, folder / MODELS)
    _write_json(folder / "configs" / "metadata.json", metadata(package, details))
    _write_json(folder / "configs" / "inference.json", inference(package))
    _write_text(folder / "configs" / "logging.conf", LOGGING)
    _write_text(folder / "scripts" / "__init__.py", '"""Code of this bundle."""\n')
    docstring = (
        f"Predict with {package.spec.name}: copied from the RL4Seg project, Apache-2.0; see ../LICENSE."
    )
    _write_text(folder / "scripts" / "predictor.py", standalone_source(CODE, ROOTS, docstring))
    _write_text(folder / "docs" / "README.md", _readme(package, details))
    _write_text(folder / "LICENSE", _licence(details))
    return check_bundle(package, folder)


def inference(package: ModelPackage) -> dict[str, Any]:
    """The content of ``inference.json``."""
    channels, trust = package.model.spec.in_channels, package.spec.trust
    settings = package.spec.preprocess.model_dump(mode="json", exclude={"dtype"})
    content = {
        "imports": ["$import sys", "$import torch"],
        "bundle_root": ".",
        "input": "$@bundle_root + '/input'",
        "dataset_dir": "@input",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "batch_size": 16,
        "network_def": _network(package.model),
        "network": _weights("network_def", WEIGHTS),
        "preprocessing": {
            "_target_": "scripts.predictor.ToGrid",
            "preprocessing": settings,
            "channels": channels,
        },
        "dataset": {
            "_target_": "monai.data.Dataset",
            "data": {
                "_target_": "scripts.predictor.list_inputs",
                "source": "@dataset_dir",
                "channels": channels,
            },
            "transform": "@preprocessing",
        },
        "inferer": {"_target_": "monai.inferers.SimpleInferer"},
        "postprocessing": {"_target_": "scripts.predictor.ToFile", "output_dir": "@output_dir"},
        "evaluator": {
            "_target_": "scripts.predictor.Predictor",
            "dataset": "@dataset",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "device": "@device",
            "batch_size": "@batch_size",
            "flag_below": None if trust is None else trust.threshold,
        },
        "run": ["$@evaluator.run()"],
        "finalize": ["$@evaluator.problems and sys.exit(@evaluator.problems)"],
    }
    return content | _reward_items(package, content["evaluator"])


def _reward_items(package: ModelPackage, evaluator: Any) -> dict[str, Any]:
    if package.reward is None:
        return {}
    with_reward = {"reward_network": "@reward_network", "temperature": package.reward.temperature}
    return {
        "reward_network_def": _network(package.reward.model),
        "reward_network": _weights("reward_network_def", f"{REWARD}/{WEIGHTS}"),
        "evaluator": evaluator | with_reward,
    }


def _network(model: Model) -> dict[str, Any]:
    spec = model.spec
    return {
        "_target_": "scripts.predictor.network",
        "config": spec.network.model_dump(mode="json"),
        "in_channels": spec.in_channels,
        "out_channels": len(spec.class_names),
        "dims": len(spec.shape),
    }


def _weights(definition: str, name: str) -> dict[str, Any]:
    return {
        "_target_": "scripts.predictor.with_weights",
        "module": f"@{definition}",
        "path": f"$@bundle_root + '/{MODELS}/{name}'",
        "device": "@device",
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    _write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _licence(details: ExportDetails) -> str:
    """The licence of the code, in full where the installed project has it with it, and of the weights."""
    found = importlib.metadata.distribution("rl4seg")
    text = found.read_text("licenses/LICENSE") or found.read_text("LICENSE")
    code = text or "Apache License, Version 2.0: https://www.apache.org/licenses/LICENSE-2.0\n"
    return f"Weights (models/): {details.licence}.\n\nCode (scripts/): Apache-2.0, as follows.\n\n{code}"


def _flag(package: ModelPackage) -> str:
    trust = package.spec.trust
    if trust is None:
        return ""
    return (
        f"; a mask is flagged below {trust.threshold:.4g}, which finds {trust.found or 0:.0%} of the masks with a Dice "
        f"below {trust.dice_below:g} and flags {trust.flagged:.0%} of all ({trust.images} images: {trust.basis})"
    )


def _readme(package: ModelPackage, details: ExportDetails) -> str:
    spec = package.spec
    needed = " ".join(["monai", "torch", *required_packages(package)])
    trusted_by = "softmax" if package.reward is None else "calibrated reward x softmax"
    training = json.dumps(spec.training, indent=2, ensure_ascii=False)
    lines = [
        f"# {spec.name}",
        "",
        f"Iteration {spec.iteration}. {details.intended_use}",
        "",
        f"Classes: {', '.join(class_lines(package))}.",
        "",
        "## Use",
        "",
        "```",
        f"pip install {needed}",
        RUN,
        "```",
        "",
        "Run it in this folder (or give its path as `--bundle_root` and to `--config_file`). `--input` is a NIfTI file "
        "or a folder of them. Out come, for each, `NAME_mask.nii.gz` and `NAME_error.nii.gz` (the probability that a "
        f"pixel is wrong: 1 - {trusted_by}) on the pixels of the file, and `cases.csv` with the trust in each mask"
        + _flag(package)
        + f". Axes beyond {len(spec.preprocess.shape)} hold frames, each predicted for itself. A file that cannot be "
        "used is named in `cases.csv` and does not stop the rest.",
        "",
        "`PYTHONPATH=. python -m monai.bundle verify_net_in_out network_def --config_file configs/inference.json "
        "--meta_file configs/metadata.json` checks input and output.",
        "",
        "## From a file to the network, and back",
        "",
        *(f"{number}. {step}" for number, step in enumerate(preparation(package), start=1)),
        "",
        "## Training data and figures",
        "",
        "```json",
        training,
        "```",
        "",
        f"Authors: {details.authors}. Licence of the weights: {details.licence}.",
        "",
    ]
    return "\n".join(lines)
