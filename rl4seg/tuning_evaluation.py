"""A tuned policy measured on held-out cases: every task reward per case, on the native grid, by either rule."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from reward_data.anatomy import RuleSet
from reward_data.case_store import CaseStore
from reward_data.errors import DataError
from reward_data.types import Int64, Progress, UInt8, no_progress
from rl4seg.configs.reward_tuning import DecisionRule, TuningEvaluationConfig
from rl4seg.evaluate import held_out, mean_sd
from rl4seg.expected_dice import expected_dice_masks
from rl4seg.networks import most_probable
from rl4seg.policies import Model
from rl4seg.reward_registry import RewardMix, reward_context
from rl4seg.runtime import Runtime
from rl4seg.task_rewards import RewardContext, accuracy, boundary, confusion, dice, hausdorff, miou, validity

CASES, SUMMARY = "cases.csv", "summary.json"
MEASURES = {"miou": miou, "dice": dice, "accuracy": accuracy, "boundary": boundary, "hausdorff": hausdorff}


@dataclass
class TuningEvaluator:
    """One policy on one store; see `evaluate_tuned`."""

    model: Model
    store: CaseStore
    rules: RuleSet | None
    config: TuningEvaluationConfig
    runtime: Runtime

    def __post_init__(self) -> None:
        self.mix = RewardMix(self.config.reward)

    @torch.no_grad()
    def masks(self, indices: Int64, rule: DecisionRule) -> UInt8:
        """Masks of some cases on the network grid. Shape: (B, *S)."""
        images = self.runtime.tensor(self.store.images(indices))
        with self.runtime.autocast():
            logits = self.model.network.eval()(images).float()
        if rule == "argmax":
            chosen = most_probable(logits)
        else:
            chosen = expected_dice_masks(logits.softmax(1), self.config.reward.background)
        masks: UInt8 = chosen.cpu().numpy().astype(np.uint8)
        return masks

    def row(self, index: int, mask: UInt8) -> dict[str, object]:
        """The measures of a case's mask, brought back to the native grid, against the native truth."""
        restored = self.store.restore(index, mask)
        ours = torch.from_numpy(restored.labels.astype(np.int64))[None, None]
        truth = torch.from_numpy(self.store.native_label(index).astype(np.int64))[None]
        context = reward_context(
            self.config.reward,
            self.store.class_names,
            [restored.spacing_mm],
            self.config.ignore_index,
            self.rules,
        )
        row: dict[str, object] = {"case": self.store.ids[index], "group": self.store.groups[index]}
        row |= {name: float(measure(ours, truth, context)) for name, measure in MEASURES.items()}
        row["reward"] = float(self.mix(ours, truth, context))
        if self.rules is not None:
            grid = torch.from_numpy(mask.astype(np.int64))[None, None]
            on_grid = RewardContext(self.store.class_names, [self.store.spacing_mm(index)], rules=self.rules)
            row["validity"] = float(validity(grid, grid[:, 0], on_grid))
        return row | class_iou(ours, truth, context)


def class_iou(masks: torch.Tensor, truth: torch.Tensor, context: RewardContext) -> dict[str, object]:
    """IoU of every scored class of one mask (1, 1, *S); a class that is in neither mask is left out."""
    counts = confusion(masks, truth, context)[0, 0]
    both = counts.diagonal()
    union = counts.sum(0) + counts.sum(1) - both
    found = {value: (both[value] / union[value]).item() for value in context.scored if union[value] > 0}
    return {f"iou_{context.class_names[value]}": iou for value, iou in found.items()}


def evaluate_tuned(
    evaluator: TuningEvaluator, rule: DecisionRule, out: Path, progress: Progress = no_progress
) -> dict[str, float]:
    """Measure a policy on the labelled held-out cases; writes ``cases.csv`` and ``summary.json`` into ``out``.

    Held out is the test split, else the validation split (`rl4seg.evaluate.held_out`). All measures but the anatomical
    verdict are of native masks against native labels.

    Returns:
        Means over the cases.

    Raises:
        DataError: no held-out case has a label.
    """
    store = evaluator.store
    indices = np.array([i for i in held_out(store) if store.has_label[i]], np.int64)
    if len(indices) == 0:
        raise DataError(
            "no held-out case with a label: set dataset.test_fraction, or give a test or val split"
        )
    rows: list[dict[str, object]] = []
    for start in range(0, len(indices), evaluator.runtime.batch_size):
        part = indices[start : start + evaluator.runtime.batch_size]
        rows += [
            evaluator.row(int(i), mask) for i, mask in zip(part, evaluator.masks(part, rule), strict=True)
        ]
        progress(len(rows), len(indices))
    summary = summarised(rows)
    split = store.splits[int(indices[0])]
    _write_cases(rows, out / CASES)
    content = {"split": split, "rule": rule, "cases": len(rows), "measures": summary}
    (out / SUMMARY).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return {name: mean for name, (mean, _) in summary.items()}


def summarised(rows: Sequence[dict[str, object]]) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation over the cases of every measure, over those cases that have it."""
    names = dict.fromkeys(name for row in rows for name in row if name not in ("case", "group"))
    return {name: mean_sd([float(str(row[name])) for row in rows if name in row]) for name in names}


def _write_cases(rows: Sequence[dict[str, object]], path: Path) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(
            {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows
        )
