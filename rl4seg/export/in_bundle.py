"""What runs inside an exported MONAI bundle: files to the network's grid, and masks and error maps back to files.

`rl4seg.export.bundle_code` copies this file's functions, with those of the project that they use, into the bundle's
``scripts/predictor.py``. So nothing here may need more than numpy, scipy, torch, monai, nibabel and safetensors.
"""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from monai.transforms import Transform
from safetensors.torch import load_file
from torch.nn import functional

from reward_data.errors import DataError
from reward_data.geometry import channels_to_native, restore_probabilities
from reward_data.native import NIFTI_ENDINGS, NativeImage, usable_sizes
from reward_data.nifti import read, write_like
from reward_data.preprocess import preprocess
from reward_data.trust import expected_dice
from reward_data.types import Case, Float32
from rl4seg.calibration import calibrated_probability
from rl4seg.networks import SegmentationNetwork

COLUMNS = ("file", "frame", "trust", "flagged", "mask", "error_map", "problem")


def network(config: Mapping[str, Any], in_channels: int, out_channels: int, dims: int) -> SegmentationNetwork:
    """The network that was trained, without its weights. Shape: (B, C, *S) in [0, 1] -> logits (B, K, *S)."""
    return SegmentationNetwork(_settings(config), in_channels, out_channels, dims)


def with_weights(module: torch.nn.Module, path: str, device: Any) -> torch.nn.Module:
    """The network with the weights of a safetensors file, ready to predict."""
    module.load_state_dict(load_file(path))
    return module.to(device).eval()


def list_inputs(source: Any, channels: int) -> list[dict[str, Any]]:
    """The cases of a NIfTI file, a folder of them or a list of paths; channel files are named CASE_0000, CASE_0001.

    Raises: DataError where there is none.
    """
    named = [Path(path) for path in ([source] if isinstance(source, str) else source)]
    files = [file for path in named for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    files = [
        file for file in files if file.name.lower().endswith(NIFTI_ENDINGS) and not file.name.startswith(".")
    ]
    if not files:
        raise DataError(
            f"{source}: no NIFTI file ({', '.join(NIFTI_ENDINGS)}) here; give a file or a folder of them"
        )
    cases: dict[str, list[str]] = {}
    for file in files:
        stem = re.sub(r"\.nii(\.gz)?$", "", file.name, flags=re.IGNORECASE)
        case = re.sub(r"_\d{4}$", "", stem) if channels > 1 else stem
        cases.setdefault(case, []).append(str(file))
    return [{"case": case, "files": paths} for case, paths in cases.items()]


class ToGrid(Transform):
    """Read the files of one case and lay them on the network's grid; further axes, such as time, hold frames."""

    def __init__(self, preprocessing: Mapping[str, Any], channels: int) -> None:
        self.config = _settings(preprocessing)
        self.channels = channels

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Adds ``image``, Shape: (frames, C, *S), ``geometry``, the way back of each frame, and ``native_shape``.

        Adds ``problem`` alone where the files cannot be used.
        """
        try:
            native = _read_channels(data["files"], self.channels)
            cases = _frames(native, len(self.config.shape), data)
            laid = [preprocess(case, self.config) for case in cases]
        except DataError as error:
            return {**data, "problem": str(error)}
        images = torch.from_numpy(np.stack([image for image, _, _ in laid]))
        geometry = [way for _, _, way in laid]
        return {**data, "image": images, "geometry": geometry, "native_shape": native.values.shape[1:]}


class ToFile(Transform):
    """Bring predictions back to the pixels of the file, and write them on its grid."""

    def __init__(self, output_dir: str) -> None:
        self.folder = Path(output_dir)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Writes ``probabilities`` (frames, K, *S) as a mask and ``error`` (frames, *S) as a map; adds their names."""
        self.folder.mkdir(parents=True, exist_ok=True)
        masks = [
            restore_probabilities(soft, geometry).labels
            for soft, geometry in zip(data["probabilities"], data["geometry"], strict=True)
        ]
        errors = [
            channels_to_native(error[None], geometry)[0].clip(0, 1)
            for error, geometry in zip(data["error"], data["geometry"], strict=True)
        ]
        return {
            **data,
            "mask": self._write(masks, data, "mask"),
            "error_map": self._write(errors, data, "error"),
        }

    def _write(self, frames: Sequence[Any], data: Mapping[str, Any], kind: str) -> str:
        name = f"{data['case']}_{kind}.nii.gz"
        values = np.stack(frames, axis=-1).reshape(data["native_shape"])
        write_like(self.folder / name, values, Path(data["files"][0]))
        return name


class Predictor:
    """Predict every case of a data set: masks, error maps where there is a reward net, and ``cases.csv``."""

    def __init__(
        self,
        dataset: Any,
        network: torch.nn.Module,
        inferer: Any,
        postprocessing: ToFile,
        device: Any,
        reward_network: torch.nn.Module | None = None,
        temperature: float = 1.0,
        flag_below: float | None = None,
        batch_size: int = 16,
    ) -> None:
        self.dataset, self.network, self.inferer = dataset, network, inferer
        self.postprocessing, self.device = postprocessing, device
        self.reward_network, self.temperature = reward_network, temperature
        self.flag_below, self.batch_size = flag_below, batch_size
        self.problems = ""

    def run(self) -> list[dict[str, Any]]:
        """The rows of ``cases.csv``. A file that cannot be used has its reason there, and does not stop the rest."""
        rows: list[dict[str, Any]] = []
        for index in range(len(self.dataset)):
            rows += self._one(self.dataset[index])
        with (self._folder() / "cases.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, COLUMNS, restval="")
            table.writeheader()
            table.writerows(rows)
        wrong = [row for row in rows if row.get("problem")]
        self.problems = (
            f"{len(wrong)} of {len(self.dataset)} cases could not be used, see cases.csv" if wrong else ""
        )
        return rows

    def _folder(self) -> Path:
        self.postprocessing.folder.mkdir(parents=True, exist_ok=True)
        return self.postprocessing.folder

    def _one(self, data: Mapping[str, Any]) -> list[dict[str, Any]]:
        file = Path(data["files"][0]).name
        logger = logging.getLogger(__name__)
        if "problem" in data:
            logger.error("%s", data["problem"])
            return [{"file": file, "problem": data["problem"]}]
        probabilities, error = self.predict(data["image"])
        written = self.postprocessing({**data, "probabilities": probabilities, "error": error})
        logger.info("%s -> %s", file, written["mask"])
        masks = probabilities.argmax(1).astype(np.uint8)
        rows = []
        for frame, (wrong, mask) in enumerate(zip(error, masks, strict=True)):
            trust = expected_dice(wrong, mask)
            flagged = "" if self.flag_below is None else int(trust < self.flag_below)
            rows.append({
                "file": file, "frame": frame, "trust": f"{trust:.6f}", "flagged": flagged,
                "mask": written["mask"], "error_map": written["error_map"],
            })  # fmt: skip
        return rows

    @torch.no_grad()
    def predict(self, images: torch.Tensor) -> tuple[Float32, Float32]:
        """Class probabilities, and the probability that the mask is wrong. Shape: (B, C, *S) -> (B, K, *S), (B, *S)."""
        soft, wrong = [], []
        for part in images.split(self.batch_size):
            image = part.to(self.device)
            probabilities = self.inferer(image, self.network).softmax(1)
            soft.append(probabilities.cpu().numpy())
            wrong.append(np.float32(1) - self._right(image, probabilities).cpu().numpy())
        return np.concatenate(soft), np.concatenate(wrong)

    def _right(self, image: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
        """Softmax of the mask's class x calibrated reward, where there is one. (B, C, *S), (B, K, *S) -> (B, *S)."""
        confidence, mask = probabilities.max(1)
        if self.reward_network is None:
            return confidence
        one_hot = functional.one_hot(mask, probabilities.shape[1]).movedim(-1, 1).to(image)
        logits = self.inferer(torch.cat([image, one_hot], 1), self.reward_network)[:, 0]
        return confidence * calibrated_probability(logits, self.temperature)


def _settings(values: Mapping[str, Any]) -> Any:
    return SimpleNamespace(
        **{key: tuple(value) if isinstance(value, list | tuple) else value for key, value in values.items()}
    )


def _read_channels(files: Sequence[str], channels: int) -> NativeImage:
    """The image of a case; each channel is a file, and the first one gives the grid."""
    if len(files) != channels:
        raise DataError(
            f"{files[0]}: {len(files)} channel file(s), wanted {channels}; name them CASE_0000, CASE_0001"
        )
    read_files = [read(Path(path)) for path in files]
    first = read_files[0]
    for path, image in zip(files, read_files, strict=True):
        if image.values.shape != (1, *first.values.shape[1:]):
            raise DataError(
                f"{path}: shape {image.values.shape} (values, row, column, ...), wanted one grey value per pixel on "
                f"the grid of {files[0]}; resample it or save it as grey"
            )
    values = np.concatenate([image.values for image in read_files])
    return NativeImage(values, first.spacing_mm, first.affine, first.spacing_known)


def _frames(native: NativeImage, dims: int, data: Mapping[str, Any]) -> list[Case]:
    """One case per input of a network with ``dims`` axes: a 2-D one sees a sequence frame by frame."""
    values, kept, where = native.values.astype(np.float32), native.kept_axes, data["files"][0]
    if len(kept) < dims or values.size == 0:
        raise DataError(f"{where}: shape {values.shape[1:]}, wanted {dims} axes longer than 1")
    if not np.isfinite(values).all():
        raise DataError(f"{where}: intensities are NaN or infinite, wanted finite numbers; repair the file")
    if values.min() == values.max():
        raise DataError(f"{where}: every pixel is {values.flat[0]:g}, there is nothing to see; leave it out")
    sizes = [values.shape[1 + axis] for axis in kept[:dims]]
    spacing = tuple(native.spacing_mm[axis] for axis in kept[:dims])
    known = native.spacing_known and usable_sizes(spacing)
    spacing = spacing if known else (1.0,) * dims
    frames = np.moveaxis(values.reshape(len(values), *sizes, -1), -1, 0)
    name = data["case"]
    return [
        Case(name, name, "", None, np.ascontiguousarray(frame), None, spacing, native.affine, known)
        for frame in frames
    ]
