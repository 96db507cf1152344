"""A written bundle against the policy: the same logits, and the same masks on the pixels of image files."""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import torch
from scipy import ndimage
from torch import nn

from reward_data.errors import ArtifactError
from reward_data.formats import read_image
from reward_data.geometry import restore_probabilities
from reward_data.preprocess import preprocess
from reward_data.types import Case
from rl4seg.export.verification import Verification, compare, probe_images, refuse_above
from rl4seg.package import MODELS, REWARD, ModelPackage
from rl4seg.policies import WEIGHTS
from rl4seg.runtime import derive_seed

FILES = 3  # image files that are taken the whole way
ROW, COLUMN = 0.75, 0.5  # their pixel size as parts of the network's, so that nothing is square


def check_bundle(package: ModelPackage, folder: Path) -> Verification:
    """Load the bundle's own code and weights, and compare them with the policy.

    Raises:
        ArtifactError: logits, prepared images or masks differ.
    """
    code, config = _load(folder), json.loads((folder / "configs" / "inference.json").read_text("utf-8"))
    model = package.model.network.eval()
    network = _network(code, config, "network_def", folder / MODELS / WEIGHTS)
    shape, channels = package.model.spec.shape, package.model.spec.in_channels
    found = compare(model, network, probe_images(channels, shape), "bundle")
    if package.reward is not None:
        reward = package.reward.model
        own = _network(code, config, "reward_network_def", folder / MODELS / REWARD / WEIGHTS)
        images = probe_images(reward.spec.in_channels, shape)
        compare(reward.network.eval(), own, images, "bundle, reward net")
    try:
        files = _check_files(package, code, config, network)
    except ArtifactError:
        raise
    except Exception as error:  # whatever the copied code may raise: it does not do what the project does
        raise ArtifactError(
            f"bundle: its code fails on an image file ({error}); it is not written: tell the makers of this project"
        ) from error
    return found.model_copy(update={"files": files})


def _load(folder: Path) -> ModuleType:
    path = folder / "scripts" / "predictor.py"
    specification = importlib.util.spec_from_file_location("rl4seg_bundle_under_check", path)
    if specification is None or specification.loader is None:
        raise ArtifactError(f"{path}: cannot be loaded; export again")
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    try:
        specification.loader.exec_module(module)
    finally:
        del sys.modules[specification.name]
    return module


def _network(code: ModuleType, config: dict[str, Any], key: str, weights: Path) -> nn.Module:
    arguments = {name: value for name, value in config[key].items() if name != "_target_"}
    network: nn.Module = code.with_weights(code.network(**arguments), str(weights), "cpu")
    return network


def _check_files(package: ModelPackage, code: ModuleType, config: dict[str, Any], network: nn.Module) -> int:
    """Files of other shapes and spacings than the network's, through the bundle and through the project."""
    settings = config["preprocessing"]
    to_grid = code.ToGrid(settings["preprocessing"], settings["channels"])
    with tempfile.TemporaryDirectory() as temporary:
        writer = code.ToFile(str(Path(temporary) / "out"))
        predictor = code.Predictor(None, network, lambda image, net: net(image), writer, "cpu")
        for index in range(FILES):
            files = _write_case(package, Path(temporary), index)
            data = to_grid({"case": f"case{index}", "files": [str(path) for path in files]})
            _check_case(package, files, data, predictor, Path(temporary) / "out")
    return FILES


def _check_case(
    package: ModelPackage, files: list[Path], data: dict[str, Any], predictor: Any, out: Path
) -> None:
    if "problem" in data:
        raise ArtifactError(
            f"bundle: cannot use a file that it should ({data['problem']}); it is not written"
        )
    pictures = [read_image(path) for path in files]
    values = np.concatenate([picture.values for picture in pictures])
    case = Case("case", "case", "", None, values, None, pictures[0].spacing_mm, pictures[0].affine)
    image, _, geometry = preprocess(case, package.spec.preprocess)
    refuse_above(float(np.abs(image - data["image"][0].numpy()).max()), "bundle, prepared image")
    with torch.no_grad():
        wanted = package.model.network(torch.from_numpy(image[None])).softmax(1).numpy()
    probabilities, error = predictor.predict(data["image"])
    refuse_above(float(np.abs(wanted - probabilities).max()), "bundle, image file")
    mask = restore_probabilities(wanted[0], geometry).labels
    predictor.postprocessing({**data, "probabilities": probabilities, "error": error})
    written: Any = nib.load(out / f"{data['case']}_mask.nii.gz")
    differ = int(
        (np.asarray(written.dataobj).reshape(mask.swapaxes(0, 1).shape) != mask.swapaxes(0, 1)).sum()
    )
    if differ > 0.001 * mask.size or not np.array_equal(written.affine, nib.load(files[0]).affine):
        raise ArtifactError(
            f"bundle: {differ} pixels of a written mask, or its affine, differ; it is not written"
        )


def _write_case(package: ModelPackage, folder: Path, index: int) -> list[Path]:
    """One NIfTI file per channel: about as large as the network's grid, smooth, 0 to 250, flipped and turned."""
    rng = np.random.default_rng(derive_seed(1, index))
    grid = package.spec.preprocess.shape
    shape = tuple(max(4, size - 3 * (axis + 1) * (index + 1) % size) for axis, size in enumerate(grid))
    spacing = np.array(package.spec.preprocess.spacing_mm or [1.0] * len(grid)) * 0.9
    spacing[0] *= ROW if index else 1.0
    affine = np.diag([-spacing[1], spacing[0], *(spacing[2:] if len(grid) > 2 else [1.0]), 1.0])
    turn = np.deg2rad(10 * index)
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    affine[:3, :3] = rotation @ affine[:3, :3]
    paths = []
    for channel in range(package.model.spec.in_channels):
        values = ndimage.gaussian_filter(rng.random(shape, dtype=np.float32), 2)
        values = 250 * (values - values.min()) / np.ptp(values)
        if package.spec.preprocess.intensity == "none_clip01":
            values = values / 250
        paths.append(folder / f"case{index}_{channel:04d}.nii.gz")
        nib.save(nib.Nifti1Image(values.swapaxes(0, 1).astype(np.float32), affine), paths[-1])
    return paths
