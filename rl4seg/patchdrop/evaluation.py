"""What a PatchDrop model is worth on held-out images: accuracy, patches used, how many different policies it has."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from reward_data.image_store import ImageStore, spread
from reward_data.types import Bool, Int64, Progress, no_progress
from rl4seg.configs.patchdrop import Chooser
from rl4seg.patchdrop.bernoulli import keep_reward, unique_policies
from rl4seg.patchdrop.choosers import blind_keep, fixed_order
from rl4seg.patchdrop.models import DropModel
from rl4seg.runtime import Runtime

IMAGES, SUMMARY = "images.csv", "summary.json"
DEALT = 88  # branch of the seed tree


class Decisions(NamedTuple):
    """What was decided about images: keep maps (N, P), predicted and true classes (N)."""

    keep: Bool
    predicted: Int64
    labels: Int64


@torch.no_grad()
def policy_keep(model: DropModel, store: ImageStore, places: Int64, runtime: Runtime) -> Tensor:
    """The patches that the policy keeps of some images. Shape: (N, P) bool, on the CPU."""
    parts: list[Tensor] = []
    for start in range(0, len(places), runtime.batch_size):
        images = runtime.tensor(store.images(places[start : start + runtime.batch_size]))
        with runtime.autocast():
            parts.append(model.decide(model.lowered(images)).cpu())
    return torch.cat(parts)


def chosen_keep(
    chooser: Chooser, policy: DropModel | None, store: ImageStore, places: Int64, seed: int, runtime: Runtime
) -> Tensor:
    """The keep maps of a chooser on some images. Shape: (N, P) bool.

    A chooser that does not look keeps as many patches as the policy does, image by image, the numbers dealt to other
    images at random: equal mean and spread, and no knowledge of which image needs more.
    """
    if chooser in ("all", "none") or policy is None:
        patches = 1 if policy is None else policy.spec.patches
        return torch.full((len(places), patches), chooser == "all")
    keep = policy_keep(policy, store, places, runtime)
    if chooser == "policy":
        return keep
    rng = np.random.default_rng([seed, DEALT])
    counts = rng.permutation(keep.sum(1).numpy().astype(np.int64))
    training = spread(store.train, 2000) if chooser == "frequent" else store.train[:0]
    seen = policy_keep(policy, store, training, runtime) if len(training) else keep
    return blind_keep(chooser, counts, fixed_order(chooser, policy.spec.grid, seen), rng)


@dataclass(frozen=True)
class ArmEvaluator:
    """One arm: the model that answers, and who chooses the patches."""

    model: DropModel
    chooser: Chooser
    counts_of: DropModel | None
    store: ImageStore
    seed: int
    runtime: Runtime

    @torch.no_grad()
    def decisions(self, places: Int64, progress: Progress = no_progress) -> Decisions:
        """What the arm does with some images."""
        policy = self.model if self.counts_of is None else self.counts_of
        keep = chosen_keep(self.chooser, policy, self.store, places, self.seed, self.runtime)
        predicted: list[Tensor] = []
        for start in range(0, len(places), self.runtime.batch_size):
            part = slice(start, start + self.runtime.batch_size)
            images = self.runtime.tensor(self.store.images(places[part]))
            with self.runtime.autocast():
                low = self.model.lowered(images)
                logits = self.model.classify(images, low, keep[part].to(images.device))
            predicted.append(logits.argmax(1).cpu())
            progress(min(part.stop, len(places)), len(places))
        return Decisions(keep.numpy(), torch.cat(predicted).numpy(), self.store.labels(places))


def evaluate_arm(
    evaluator: ArmEvaluator, penalty: float, out: Path, progress: Progress = no_progress
) -> dict[str, float]:
    """Measure an arm on the held-out images; writes ``images.csv`` and ``summary.json`` into ``out``.

    Args:
        penalty: of the reward that the summary has beside accuracy and patches.
    """
    places = evaluator.store.test
    found = evaluator.decisions(places, progress)
    figures = summarised(found, penalty)
    _write_rows(found, [evaluator.store.ids[i] for i in places], evaluator.store.class_names, out / IMAGES)
    content = {
        "images": len(places),
        "grid": evaluator.model.spec.grid,
        "figures": figures,
        "often": found.keep.mean(0).round(6).tolist(),
    }
    (out / SUMMARY).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return figures


def summarised(found: Decisions, penalty: float) -> dict[str, float]:
    """Accuracy, patches (mean, standard deviation over images), reward and the number of different keep maps."""
    right = torch.from_numpy((found.predicted == found.labels).astype(np.float64))
    keep = torch.from_numpy(found.keep)
    patches = keep.double().sum(1)
    return {
        "accuracy": float(right.mean()),
        "patches": float(patches.mean()),
        "patches_sd": float(patches.std(correction=0)),
        "reward": float(keep_reward(right[:, None], keep[:, None], penalty).mean()),
        "unique_policies": float(unique_policies(keep)),
    }


def _write_rows(found: Decisions, ids: list[str], names: tuple[str, ...], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("image", "label", "predicted", "right", "patches", "keep"))
        for case, keep, predicted, label in zip(ids, *found, strict=True):
            bits = "".join("1" if kept else "0" for kept in keep)
            writer.writerow(
                (case, names[label], names[predicted], int(predicted == label), int(keep.sum()), bits)
            )
