"""A made-up run for the report's tests: smooth curves, an elliptic ventricle, masks that get better."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from flows.reporting.data import (
    LOGIT_BIAS,
    MAIN,
    PPO_OFF,
    SOURCE_ONLY,
    UPPER_BOUND,
    Curve,
    EvaluationRow,
    MeanSd,
    MontageCase,
    MontageColumn,
    ReliabilityCurve,
    ReportData,
    SynthesisSummary,
)
from reward_data.types import Float64, UInt8

CASES = 60


def case_dice(mean: float, seed: int) -> dict[str, float]:
    """Case difficulty shared by all policies (seed 0), a little noise of their own. Mean exactly ``mean``."""
    hard = np.random.default_rng(0).normal(0, 0.08, CASES)
    own = np.random.default_rng([1, seed]).normal(0, 0.02, CASES)
    values = hard + own
    values += mean - values.mean()
    return {f"patient{i:04d}_2CH": float(v) for i, v in enumerate(values)}


def row(
    arm: str,
    iteration: int,
    dice: float | None,
    validity: float,
    *,
    sd: float = 0.08,
    paired: bool = True,
    seed: int | None = None,
    **more: object,
) -> EvaluationRow:
    """An evaluation row with classes lv and myo; ``dice`` None = unlabelled."""
    labelled = dice is not None
    values: dict[str, object] = {
        "arm": arm,
        "iteration": iteration,
        "cases": CASES,
        "labelled": labelled,
        "validity": validity,
        "violations": {
            "lv_pieces": round(CASES * (1 - validity) * 0.6),
            "gap_lv_myo": round(CASES * (1 - validity) * 0.5),
        },
    }
    if dice is not None:
        values |= {
            "dice": {"lv": MeanSd(dice + 0.05, sd), "myo": MeanSd(dice - 0.05, sd)},
            "dice_mean": MeanSd(dice, sd),
            "hd95": MeanSd(10 * (1 - dice) * 3, 2.1),
            "hd": MeanSd(10 * (1 - dice) * 5, 4.2),
        }
        if paired:
            values["case_valid"] = {f"patient{i:04d}_2CH": i < round(CASES * validity) for i in range(CASES)}
            values["case_dice"] = case_dice(dice, iteration + 17 * len(arm) if seed is None else seed)
    return EvaluationRow.model_validate(values | more)


def helped_rows() -> tuple[EvaluationRow, ...]:
    """A loop that helps in Dice and validity, with every control."""
    rows = [
        row(SOURCE_ONLY, 0, 0.765, 0.65, seconds=48.0, entropy=0.21),
        row(LOGIT_BIAS, 0, 0.776, 0.66, seconds=0.4, entropy=0.23),
        row(UPPER_BOUND, 0, 0.838, 0.92, seconds=51.0),
    ]
    for i in range(1, 5):
        signals = {
            "mean_reward": 0.78 + 0.02 * i,
            "ece_before": 0.12 - 0.01 * i,
            "ece_after": 0.06 - 0.005 * i,
            "kl": 0.02 * i,
            "entropy": 0.2 - 0.02 * i,
            "seconds": 61.5 + i,
        }
        rows.append(row(MAIN, i, 0.765 + 0.0075 * i, 0.65 + 0.07 * i, **signals))
        off = {"kl": 0.018 * i, "entropy": 0.2 - 0.025 * i, "seconds": 40.0 + i}
        rows.append(row(PPO_OFF, i, 0.765 + 0.007 * i, 0.65 + 0.04 * i, **off))
    return tuple(rows)


def curves(length: int = 171) -> tuple[Curve, ...]:
    """Histories of source training, four reward nets and four rounds of PPO for two arms."""
    step = np.arange(1.0, length + 1)
    out = [
        _curve(
            MAIN,
            0,
            "source training",
            step,
            {"loss": 0.8 * np.exp(-step / 40) + 0.1, "learning_rate": 3e-3 * np.sin(step / length * math.pi)},
        )
    ]
    for i in range(1, 5):
        out.append(_curve(MAIN, i, "reward net", step, {"loss": 0.5 * np.exp(-step / 60) + 0.2 - 0.02 * i}))
        for arm in (MAIN, PPO_OFF):
            columns = {
                "policy_loss": np.full(length, -0.01 * i) if arm == MAIN else np.zeros(length),
                "value_loss": np.zeros(length),
                "anchor_loss": 0.3 * np.exp(-step / 80) / i + 0.1,
                "entropy": 0.2 - 0.02 * i - 0.0001 * step,
                "kl_ref": 0.0002 * step,
                "approx_kl": np.full(length, 0.002),
                "clip_fraction": 0.05 + 0.0002 * step,
                "explained_variance": np.zeros(length),
                "validity": np.minimum(0.6 + 0.06 * i + 0.0003 * step, 1) - (0.05 if arm == PPO_OFF else 0),
                "reward": np.minimum(0.7 + 0.03 * i + 0.0002 * step, 1),
            }
            out.append(_curve(arm, i, "ppo", step, columns))
    return tuple(out)


def _curve(arm: str, iteration: int, stage: str, step: Float64, columns: Mapping[str, Float64]) -> Curve:
    rng = np.random.default_rng([iteration, len(arm), len(stage)])
    noisy = {name: (v * (1 + rng.normal(0, 0.05, len(v)))).round(5).tolist() for name, v in columns.items()}
    return Curve.model_validate(
        {"arm": arm, "iteration": iteration, "stage": stage, "columns": {"step": step.tolist()} | noisy}
    )


def ventricle(size: int, shift: float, scale: float) -> UInt8:
    """An elliptic LV inside a MYO shell, open at the base. Shape: (size, size)."""
    y, x = np.mgrid[:size, :size] / size
    radius = np.hypot((x - 0.5 - shift) / 0.14, (y - 0.55) / 0.26) / scale
    mask = np.zeros((size, size), np.uint8)
    mask[(radius < 1.4) & (y < 0.78)] = 2
    mask[radius < 1.0] = 1
    mask[y > 0.8] = 0
    return mask


def montage_case(case_id: str, seed: int, size: int = 128, labelled: bool = True) -> MontageCase:
    """One case whose masks come nearer to the truth with every iteration."""
    rng = np.random.default_rng(seed)
    truth = ventricle(size, 0.0, 1.0 + 0.05 * seed)
    y, x = np.mgrid[:size, :size] / size
    sector = (np.abs(x - 0.5) < 0.1 + 0.55 * y) & (np.hypot(x - 0.5, y) < 0.98)
    speckle = rng.rayleigh(0.6, (size // 2, size // 2)).repeat(2, 0).repeat(2, 1)
    image = np.where(truth == 1, 30, np.where(truth == 2, 120, 70)) * speckle * sector
    columns = []
    for i, title in enumerate(("source-only", "iteration 1", "iteration 2", "iteration 3", "iteration 4")):
        off = 0.06 * (1 - i / 5)
        mask = ventricle(size, off, 1.0 + 0.05 * seed - 2 * off)
        if i == 0:
            mask[8:20, 60:76] = 1
        wrong = mask != truth
        error = np.clip(0.75 * wrong + rng.normal(0.08, 0.05, wrong.shape), 0, 1).astype(np.float32)
        dice = 2 * float(((mask > 0) & (truth > 0)).sum()) / float((mask > 0).sum() + (truth > 0).sum())
        columns.append(MontageColumn(title, mask, error if i else None, dice if labelled else None))
    return MontageCase(
        case_id, np.clip(image, 0, 255).astype(np.uint8), truth if labelled else None, tuple(columns)
    )


def reliability(title: str, temperature: float) -> ReliabilityCurve:
    """A curve whose accuracy is the confidence pulled towards one half by ``temperature``."""
    confidence = (np.arange(20) + 0.5) / 20
    accuracy = 1 / (1 + ((1 - confidence) / confidence) ** (1 / temperature))
    counts = np.round(np.exp(6 * confidence) * 40).astype(int)
    counts[:2] = 0
    gaps = np.abs(accuracy - confidence)
    return ReliabilityCurve.model_validate(
        {
            "title": title,
            "confidence": confidence.tolist(),
            "accuracy": accuracy.tolist(),
            "counts": counts.tolist(),
            "ece": float((gaps * counts).sum() / counts.sum()),
        }
    )


def synthesis() -> tuple[SynthesisSummary, ...]:
    """Four iterations: more accepted, fewer corrected."""
    return tuple(
        SynthesisSummary(
            iteration=i,
            images=300,
            accepted=0.4 + 0.1 * i,
            corrected=0.3 - 0.05 * i,
            examples={
                "correction": 90 - 15 * i,
                "weight_noise": 120 + 30 * i,
                "swap": 120 + 30 * i,
                "contrast": 240,
            },
            violated={"lv_pieces": 0.3 / i, "gap_lv_myo": 0.2 / i, "basal_contact": 0.05 / i},
        )
        for i in range(1, 5)
    )


def report_data(**changes: object) -> ReportData:
    """A whole report; ``changes`` replace fields."""
    values: dict[str, object] = {
        "title": "RL4Seg: adaptation to an unlabelled domain",
        "run_name": "demo",
        "command": "rl4seg run configs/auto_iteration/demo.yaml seed=0",
        "created": "2000-01-01 12:00",
        "config_yaml": "name: demo\nseed: 0\nppo:\n  clip: 0.2\n",
        "class_names": ("lv", "myo"),
        "rows": helped_rows(),
        "versions": {"python": "3.11", "torch": "2.13.0", "monai": "1.4.0"},
        "curves": curves(),
        "montages": tuple(montage_case(f"patient{i:04d}_2CH", i) for i in range(4)),
        "reliability": (
            reliability("iteration 4, before calibration", 2.2),
            reliability("iteration 4, after calibration", 1.1),
        ),
        "synthesis": synthesis(),
        "lineage": tuple(
            {"stage": f"stage {i}", "cached": i < 2, "seconds": 12.5 * i, "digest": f"{i:016x}"}
            for i in range(6)
        ),
    }
    return ReportData(**(values | changes))  # type: ignore[arg-type]
