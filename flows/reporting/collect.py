"""From a run's artifacts to the report's records. Reads files, computes nothing."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from flows.reporting.data import (
    MAIN,
    PPO_OFF,
    SOURCE_ONLY,
    Curve,
    EvaluationRow,
    MontageCase,
    MontageColumn,
    ReliabilityCurve,
    ReportData,
    SynthesisSummary,
)
from flows.run_folder import versions
from flows.stages import METRICS, StageContext
from reward_data.case_store import CaseStore
from reward_data.types import UInt8
from rl4seg.histories import read_history
from rl4seg.stop_rule import JUDGEMENT, Judgement

if TYPE_CHECKING:
    from flows.reporting.stage import PolicyRecord
    from flows.store import ArtifactRef, PackageRef


@dataclass
class Collector:
    """Everything that the report of one run shows."""

    ctx: StageContext
    store: CaseStore
    records: tuple[PolicyRecord, ...]
    package: PackageRef | None = None

    def report(self, run_name: str, config_yaml: str, montage_cases: int) -> ReportData:
        """The filled record."""
        folder = self.ctx.environment.run_folder
        lineage = (
            [row.model_dump(include={"label", "kind", "key", "digest", "seconds"}) for row in folder.rows]
            if folder
            else []
        )
        return ReportData(
            title=f"Adaptation report · {run_name}",
            run_name=run_name,
            command=f"rl4seg run {folder.path / 'config.yaml' if folder else 'config.yaml'}",
            config_yaml=config_yaml,
            class_names=tuple(self.summary(self.records[0])["areas"]),
            rows=tuple(self.row(record) for record in self.records),
            unit="mm" if self.store.spacing_known else "px (spacing unknown)",
            versions={name: str(version) for name, version in versions().items() if version},
            curves=tuple(self.curves()),
            montages=tuple(self.montages(montage_cases)),
            reliability=tuple(self.reliability()),
            synthesis=tuple(self.synthesis()),
            lineage=tuple(row for row in lineage if row["digest"]),
            stop=self.stop,
            flag=(self.read(self.package, "package.json") if self.package else {}).get("trust"),
        )

    @cached_property
    def stop(self) -> Judgement | None:
        """What the stop rule says of all iterations of the loop."""
        judged = [record.judgement for record in self.records if record.judgement is not None]
        return Judgement.model_validate(self.read(judged[-1], JUDGEMENT)) if judged else None

    @cached_property
    def chosen(self) -> PolicyRecord | None:
        """The policy that the run hands out: the stop rule's choice, else the loop's last; None without a loop."""
        loop = [record for record in self.records if record.arm == MAIN]
        if self.stop is None or not loop:
            return loop[-1] if loop else None
        number = self.stop.choice.iteration
        return next((record for record in loop if record.iteration == number), self.records[0])

    def read(self, ref: ArtifactRef, name: str) -> dict[str, Any]:
        """A JSON file of an artifact; empty where it has none of that name."""
        path = self.ctx.path(ref) / name
        content: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        return content

    def summary(self, record: PolicyRecord) -> dict[str, Any]:
        """The evaluation's summary."""
        return self.read(record.evaluation, "summary.json")

    def cases(self, record: PolicyRecord) -> list[dict[str, str]]:
        """The evaluation's rows per case."""
        with (self.ctx.path(record.evaluation) / "cases.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def row(self, record: PolicyRecord) -> EvaluationRow:
        """One row of the result table."""
        summary, rows = self.summary(record), self.cases(record)
        net = self.read(record.reward_net, METRICS) if record.reward_net else {}
        return EvaluationRow(
            arm=record.arm,
            iteration=record.iteration,
            cases=summary["cases"],
            labelled=summary["labelled"] > 0,
            dice=summary["dice"],
            dice_mean=summary["dice_mean"],
            hd95=summary["hd95_mean"],
            hd=summary["hd_mean"],
            validity=summary["validity"],
            violations=summary["violations"],
            mean_reward=summary["mean_reward"],
            ece_before=net.get("ece_before"),
            ece_after=net.get("ece_after"),
            kl=summary["kl"],
            entropy=summary["entropy"],
            seconds=self.seconds(record),
            class_area={name: mean for name, (mean, _) in summary["areas"].items()},
            case_dice={row["case"]: float(row["dice_mean"]) for row in rows if row.get("dice_mean")},
            case_trust={row["case"]: float(row["trust"]) for row in rows},
            case_valid={row["case"]: row["valid"] == "1" for row in rows},
            case_group={row["case"]: row["group"] for row in rows if row.get("group")},
            case_measures=_measures(rows),
            steps=self.steps(record),
            chosen=record is self.chosen,
        )

    def steps(self, record: PolicyRecord) -> int | None:
        """Optimiser steps behind a policy of the run, which begins with the first record's; None where unknown."""
        if record.policy.digest == self.records[0].policy.digest:
            return 0
        steps = self.read(record.policy, METRICS).get("steps")
        return None if steps is None else int(steps)

    def seconds(self, record: PolicyRecord) -> float | None:
        """What building the stages behind a policy took, whenever that was."""
        refs = [record.policy, record.reward_net, record.reward_set]
        times = [self.ctx.environment.store.seconds(ref.key) for ref in refs if ref is not None]
        return sum(time for time in times if time is not None) or None

    def curves(self) -> list[Curve]:
        """Histories of the source training, the reward nets and the fine-tunings."""
        curves = []
        for record in self.records:
            if record.arm in (SOURCE_ONLY, MAIN, PPO_OFF):
                stage = "ppo" if record.iteration else "source training"
                arm = record.arm if record.iteration else MAIN
                curves += self._curve(arm, record.iteration, stage, record.policy)
                if record.reward_net is not None:
                    curves += self._curve(arm, record.iteration, "reward net", record.reward_net)
        return curves

    def _curve(self, arm: str, iteration: int, stage: Any, ref: ArtifactRef) -> list[Curve]:
        path = self.ctx.path(ref) / "history.csv"
        if not path.is_file():
            return []
        columns: Any = read_history(path)
        return [Curve(arm=arm, iteration=iteration, stage=stage, columns=columns)]

    def reliability(self) -> list[ReliabilityCurve]:
        """Of the last iteration: against true errors where test labels exist, else on held-out reward examples."""
        last = next((r for r in reversed(self.records) if r.arm == MAIN), None)
        if last is None:
            return []
        found = self.summary(last)["reliability"]
        where = "test labels"
        if not found and last.reward_net is not None:
            found, where = (
                self.read(last.reward_net, "reliability.json"),
                "held-out examples",
            )
        return [
            ReliabilityCurve(
                title=f"{name} ({where})",
                **{k: curve[k] for k in ("confidence", "accuracy", "counts", "ece")},
            )
            for name, curve in found.items()
        ]

    def synthesis(self) -> list[SynthesisSummary]:
        """What became of the predictions, per iteration and arm."""
        summaries = []
        for record in self.records:
            if record.reward_set is not None:
                found = self.read(record.reward_set, "summary.json")
                names = ("images", "accepted", "corrected", "examples", "violated")
                summaries.append(
                    SynthesisSummary(
                        iteration=record.iteration,
                        arm=record.arm,
                        reviewed=found.get("reviewed", {}),
                        **{n: found[n] for n in names},
                    )
                )
        return summaries

    @cached_property
    def shown(self) -> list[PolicyRecord]:
        """Policies in the montages: source-only, every iteration of the loop, the last one of the control."""
        controls = [r for r in self.records if r.arm == PPO_OFF][-1:]
        return [r for r in self.records if r.arm in (SOURCE_ONLY, MAIN)] + controls

    def montages(self, count: int) -> list[MontageCase]:
        """The same target cases over the iterations, from source-only's worst (without labels: least trusted) on."""
        rows = self.cases(self.records[0])
        order = sorted(range(len(rows)), key=lambda i: float(rows[i].get("dice_mean") or rows[i]["trust"]))
        chosen = [
            order[i] for i in np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).astype(int))
        ]
        maps = {id(record): _Maps(self.ctx.path(record.evaluation) / "maps.h5") for record in self.shown}
        return [self._montage(place, maps) for place in chosen]

    def _montage(self, place: int, maps: dict[int, _Maps]) -> MontageCase:
        index = maps[id(self.shown[0])].indices[place : place + 1]
        image = np.rint(self.store.images(index)[0, 0] * 255).astype(np.uint8)
        truth = self.store.labels(index)[0] if self.store.has_label[index[0]] else None
        columns = []
        for record in self.shown:
            mask, error = maps[id(record)].read(place)
            dice = self.cases(record)[place].get("dice_mean")
            title = f"{record.arm} {record.iteration}" if record.iteration else record.arm
            error_map = (_slice(error) / 255).astype(np.float32) if record.reward_net is not None else None
            columns.append(MontageColumn(title, _slice(mask), error_map, float(dice) if dice else None))
        case_id = self.store.ids[int(index[0])]
        return MontageCase(case_id, _slice(image), None if truth is None else _slice(truth), tuple(columns))


def _measures(rows: list[dict[str, str]]) -> dict[str, dict[str, float]]:
    """Dice and distances of every structure, case by case."""
    names = [name for name in rows[0] if re.match(r"(?!dice_mean$)(dice|hd95|hd)_", name)] if rows else []
    return {name: {row["case"]: float(row[name]) for row in rows if row.get(name)} for name in names}


def _slice(array: UInt8) -> UInt8:
    """The middle plane of a volume or sequence; a 2D array as it is."""
    return array if array.ndim == 2 else array[..., array.shape[-1] // 2]


class _Maps:
    """Masks and error maps of one evaluation, read case by case."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with h5py.File(path, "r") as file:
            self.indices = file["indices"][:]

    def read(self, place: int) -> tuple[UInt8, UInt8]:
        """Mask and error map (uint8, 255 = certainly wrong) of one case."""
        with h5py.File(self._path, "r") as file:
            return file["masks"][place], file["error"][place]
