"""The policy of the segmentation twin: on disk, in training, in use.

Its loop is `rl4seg.patchdrop.learning`; a batch is rows of a `WindowTable`, so a step costs no network but the policy.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from reward_data.case_store import CaseStore
from reward_data.errors import ArtifactError
from reward_data.types import Config, Int64, Progress, no_progress
from rl4seg.configs.patchdrop import DropWindowsConfig, KeepNetConfig, KeepTrainingConfig
from rl4seg.data import batch_indices, batches_per_epoch
from rl4seg.histories import write_history
from rl4seg.patchdrop.bernoulli import greedy_keep
from rl4seg.patchdrop.learning import steps_of, train_keep
from rl4seg.patchdrop.networks import KeepNetwork
from rl4seg.patchdrop.windows import WindowSegmenter, WindowTable, joined, tabulate
from rl4seg.policies import Model
from rl4seg.runtime import Runtime
from rl4seg.training import last_means
from rl4seg.weights import load_weights, save_weights

SPEC, WEIGHTS = "windows.json", "policy.safetensors"
ORDER, INIT = 91, 92  # branches of the seed tree


class WindowPolicySpec(Config):
    """What is needed to build the policy before its weights are read."""

    windows: DropWindowsConfig = Field(description="The grid and what is seen of it.")
    policy: KeepNetConfig = Field(description="The network.")
    class_names: tuple[str, ...] = Field(description="Class names, class 0 first.")
    channels: int = Field(ge=1, description="Channels of the image.")

    def build(self, *seed_path: int) -> KeepNetwork:
        """A freshly initialised policy; equal seeds, equal weights."""
        inputs = self.channels + len(self.class_names) + 1
        colours = ((0.5,) * inputs, (0.5,) * inputs)
        return KeepNetwork(self.policy, self.windows.grid, colours, *seed_path)


def segmenter_of(models: tuple[Model, Model], config: DropWindowsConfig, runtime: Runtime) -> WindowSegmenter:
    """Two trained segmentation networks, coarse and fine."""
    coarse, fine = (model.network.eval() for model in models)
    return WindowSegmenter(coarse, fine, config.coarse_shape, config.grid, config.margin, runtime)


def tables_of(
    segmenter: WindowSegmenter,
    store: CaseStore,
    indices: Int64,
    flips: bool,
    progress: Progress = no_progress,
) -> WindowTable:
    """The table of some labelled images; with ``flips`` of every image along every set of axes too."""
    dims, tables = len(store.shape), list[WindowTable]()
    turns = [[axis for axis in range(dims) if bits[axis]] for bits in product((0, 1), repeat=dims)]
    for number, index in enumerate(indices):
        image = segmenter.runtime.tensor(store.images([int(index)])[0])
        truth = segmenter.runtime.tensor(store.labels([int(index)])[0], torch.long)
        for axes in turns if flips else [[]]:
            moved = image.flip([axis + 1 for axis in axes]), truth.flip(axes)
            tables.append(tabulate(segmenter, *moved, store.num_classes))
        progress(number + 1, len(indices))
    return joined(tables)


@dataclass(frozen=True)
class TableBatch:
    """Rows of a table; see `rl4seg.patchdrop.learning.KeepBatch`."""

    table: WindowTable
    indices: Tensor

    @property
    def low(self) -> Tensor:
        """What the policy sees."""
        return self.table.policy_input[self.indices]

    def quality(self, keep: Tensor) -> Tensor:
        """mIoU of the stitched masks. Shape: (B, M, P) -> (B, M)."""
        return self.table.miou(self.indices, keep)

    def loss(self, keep: Tensor) -> Tensor | None:
        """Nobody learns beside the policy."""
        return None


def train_window_policy(
    spec: WindowPolicySpec,
    table: WindowTable,
    config: KeepTrainingConfig,
    seed: int,
    runtime: Runtime,
    out: Path,
    checkpoint: Path,
    progress: Progress = no_progress,
) -> dict[str, float]:
    """Train a policy on a table; writes it and its history into ``out``.

    Raises:
        Rl4SegError: a figure became NaN or infinite.
    """
    policy = spec.build(seed, INIT).to(runtime.device)

    def read(step: int) -> TableBatch:
        chosen = batch_indices(len(table), config.batch_size, step, seed, ORDER)
        return TableBatch(table, torch.from_numpy(chosen).to(runtime.device))

    history = train_keep(
        policy, None, read, config, steps_of(config, len(table)), seed, runtime, checkpoint, progress,
        batches_per_epoch(len(table), config.batch_size),
    )  # fmt: skip
    write_history(out / "history.csv", history, every=max(1, len(history) // 200))
    save_window_policy(spec, policy, out)
    return {"steps": float(len(history)), **last_means(history)}


def save_window_policy(spec: WindowPolicySpec, policy: KeepNetwork, folder: Path) -> None:
    """Write ``windows.json`` and ``policy.safetensors``; equal policies give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(policy, folder / WEIGHTS)
    (folder / SPEC).write_text(spec.model_dump_json(indent=2) + "\n", encoding="utf-8")


def load_window_policy(folder: Path, runtime: Runtime) -> tuple[WindowPolicySpec, KeepNetwork]:
    """Read what `save_window_policy` wrote.

    Raises:
        ArtifactError: a file is missing or unreadable.
    """
    try:
        spec = WindowPolicySpec.model_validate_json((folder / SPEC).read_text("utf-8"))
    except (OSError, ValidationError, json.JSONDecodeError) as error:
        raise ArtifactError(
            f"{folder / SPEC}: no readable window policy ({error}); train it again"
        ) from error
    policy = spec.build(0)
    load_weights(policy, folder / WEIGHTS, "Train it again")
    return spec, policy.to(runtime.device).eval()


@torch.no_grad()
def keep_probabilities(policy: KeepNetwork, policy_input: Tensor, runtime: Runtime) -> tuple[Tensor, Tensor]:
    """(probability of keeping every cell, the cells that are kept). Shape: (B, C + K + 1, *S) -> (B, P) both."""
    with runtime.autocast():
        logits = policy(policy_input)
    return logits.sigmoid(), greedy_keep(logits)
