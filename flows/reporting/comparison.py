"""From the reports of several runs to one comparison: which rows are compared, and what the statistics say of them."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from itertools import product

import numpy as np

from flows.reporting.comparison_data import (
    DICE,
    HD,
    HD95,
    VALIDITY,
    ArmResult,
    CaseValue,
    ComparisonData,
    ComparisonSpec,
    Difference,
    Figure,
    Gap,
)
from flows.reporting.data import MAIN, PPO_OFF, SOURCE_ONLY, UPPER_BOUND, EvaluationRow
from flows.reporting.report import Metrics
from flows.reporting.tables import ordered
from reward_data.errors import DataError
from reward_data.types import Float64
from rl4seg.statistics import Interval, Resamples, gap_closed, holm, signed_rank_p

BOOTSTRAP_SEED = 0
CALIBRATED = "reward net, calibrated"


@dataclass(frozen=True)
class ArmRows:
    """One arm under one seed: the row handed out, and all rows on the way to it."""

    chosen: EvaluationRow
    path: tuple[EvaluationRow, ...]
    ece: float | None = None


def handed_out(rows: Sequence[EvaluationRow], arm: str) -> ArmRows | None:
    """The row of ``arm`` that is compared, and those on the way to it; None without a row.

    Of the loop it is the one that its stop rule has chosen, which may be the source policy itself, else the last. The
    loop with PPO off has no stop rule: it is taken at the loop's iteration, so that both have made equal steps.
    """
    own = sorted((row for row in rows if row.arm == arm), key=lambda row: row.iteration)
    if not own:
        return None
    chosen = next((row for row in rows if row.chosen), None)
    if chosen is not None and arm == MAIN and chosen.arm != MAIN:
        return ArmRows(chosen, (chosen,))
    at = chosen.iteration if chosen is not None and arm in (MAIN, PPO_OFF) else None
    found = next((row for row in own if row.iteration == at), own[-1])
    return ArmRows(found, tuple(row for row in own if row.iteration <= found.iteration))


@dataclass(frozen=True)
class Results:
    """Every arm under every seed. ``arms``: name -> one entry per seed, in the order of the seeds."""

    spec: ComparisonSpec
    arms: dict[str, tuple[ArmRows, ...]]

    @property
    def reference(self) -> str:
        """What the others are compared with."""
        return self.spec.variants[0] if self.spec.variants else MAIN

    @cached_property
    def cases(self) -> tuple[str, ...]:
        """Cases that every arm was scored on under every seed."""
        return self._shared([set(rows.chosen.case_valid) for own in self.arms.values() for rows in own])

    @cached_property
    def groups(self) -> dict[str, str]:
        """Case -> patient; a case whose patient is unknown is its own."""
        known = self.arms[self.reference][0].chosen.case_group
        return {case: known.get(case, case) for case in self.cases}

    def measures(self) -> tuple[str, ...]:
        """What every arm was measured by, in order."""
        first = self.arms[self.reference][0].chosen
        names = dict.fromkeys((DICE, VALIDITY, HD95, HD, *first.case_measures))
        return tuple(name for name in names if self.labelled(name))

    def labelled(self, measure: str) -> tuple[str, ...]:
        """The cases that every arm has a value of; all of them but for what needs a label."""
        return self._shared(
            [set(case_values(rows.chosen, measure)) for own in self.arms.values() for rows in own]
        )

    def values(self, arm: str, measure: str) -> Float64:
        """A measure case by case. Shape: (S, N), N the cases of `labelled`."""
        cases = self.labelled(measure)
        found = [case_values(rows.chosen, measure) for rows in self.arms[arm]]
        return np.array([[values[case] for case in cases] for values in found], np.float64)

    def resamples(self, measure: str) -> Resamples:
        """The draws, the same for every arm."""
        groups = [self.groups.get(case, case) for case in self.labelled(measure)]
        return Resamples(len(self.spec.seeds), groups, np.random.default_rng(BOOTSTRAP_SEED))

    @staticmethod
    def _shared(found: Sequence[set[str]]) -> tuple[str, ...]:
        return tuple(sorted(set.intersection(*found))) if found else ()


def case_values(row: EvaluationRow, measure: str) -> dict[str, float]:
    """One measure of a row by case; validity as 0 or 1."""
    if measure == VALIDITY:
        return {case: float(valid) for case, valid in row.case_valid.items()}
    return row.case_dice if measure == DICE else row.case_measures.get(measure, {})


# --- which rows ------------------------------------------------------------------------------------------------------


def gather(spec: ComparisonSpec, reports: Sequence[Metrics]) -> Results:
    """The rows that are compared: of one report per seed, or of one per seed and variant, the seeds outside.

    Raises:
        DataError: a number of reports that does not fit, an arm that not every seed has, no case that all share.
    """
    wanted = len(spec.seeds) * max(1, len(spec.variants))
    if len(reports) != wanted:
        raise DataError(f"got {len(reports)} reports, wanted {wanted}: one per seed and variant")
    results = Results(spec, _variants(spec, reports) if spec.variants else _arms(reports))
    if not results.cases:
        raise DataError(
            "no target image was scored under every seed; give all seeds the same target and splits"
        )
    return results


def _arms(reports: Sequence[Metrics]) -> dict[str, tuple[ArmRows, ...]]:
    names = list(dict.fromkeys(row.arm for row in ordered(reports[0].rows)))
    found = {name: [_with_ece(report, name) for report in reports] for name in names}
    missing = [name for name, rows in found.items() if None in rows]
    if missing or MAIN not in found:
        raise DataError(
            f"{', '.join(missing) or MAIN}: not in the report of every seed; run the comparison again, from=report"
        )
    return {name: tuple(row for row in rows if row is not None) for name, rows in found.items()}


def _variants(spec: ComparisonSpec, reports: Sequence[Metrics]) -> dict[str, tuple[ArmRows, ...]]:
    found: dict[str, list[ArmRows]] = {label: [] for label in spec.variants}
    for (_, label), report in zip(product(spec.seeds, spec.variants), reports, strict=True):
        rows = _with_ece(report, MAIN)
        if rows is None:
            raise DataError(
                f"variant {label!r}: its report has no row of {MAIN}; run the study again, from=report"
            )
        found[label].append(rows)
    return {label: tuple(rows) for label, rows in found.items()}


def _with_ece(report: Metrics, arm: str) -> ArmRows | None:
    """The rows of an arm; the loop's with the ECE of its reward net: against test labels, else on held-out examples."""
    rows = handed_out(report.rows, arm)
    if rows is None or arm != MAIN or rows.chosen.arm != MAIN:
        return rows
    curves = [curve.ece for curve in report.reliability if curve.title.startswith(CALIBRATED)]
    return ArmRows(rows.chosen, rows.path, curves[0] if curves else rows.chosen.ece_after)


# --- what they say ---------------------------------------------------------------------------------------------------


def compared(results: Results, command: str, versions: dict[str, str], unit: str) -> ComparisonData:
    """Every figure of the comparison; the verdict is left to `comparison_verdict`."""
    measures = {name: _figures(results, name) for name in results.measures()}
    first = results.arms[results.reference][0].chosen
    return ComparisonData.model_validate(
        {
            "spec": results.spec,
            "command": command,
            "reference": results.reference,
            "unit": unit,
            "class_names": tuple(first.dice or ()),
            "cases": len(results.cases),
            "patients": len(set(results.groups.values())),
            "labelled": len(results.labelled(DICE)),
            "arms": tuple(_arm(results, arm, measures) for arm in results.arms),
            "gap": _gap(results),
            "versions": versions,
        }
    )


def _figures(results: Results, measure: str) -> dict[str, Figure]:
    """A measure of every arm, with its difference from the reference and p-values corrected for their number."""
    resamples = results.resamples(measure)
    values = {arm: results.values(arm, measure) for arm in results.arms}
    own = values[results.reference]
    sign = 1 if results.spec.variants else -1
    apart = {arm: sign * (table - own) for arm, table in values.items() if arm != results.reference}
    p_values = [signed_rank_p(table.mean(0)) for table in apart.values()]
    differences = {
        arm: _difference(resamples.interval(table), table, p, adjusted)
        for (arm, table), p, adjusted in zip(apart.items(), p_values, holm(p_values), strict=True)
    }
    return {
        arm: Figure.of(tuple(map(float, table.mean(1))), differences.get(arm))
        for arm, table in values.items()
    }


def _difference(interval: Interval, table: Float64, p: float, adjusted: float) -> Difference:
    per_seed = tuple(map(float, table.mean(1)))
    return Difference(
        value=interval.value, low=interval.low, high=interval.high, p=p, p_holm=adjusted, per_seed=per_seed
    )


def _arm(results: Results, arm: str, measures: dict[str, dict[str, Figure]]) -> ArmResult:
    rows = results.arms[arm]
    eces = [own.ece for own in rows if own.ece is not None]
    steps = [_steps(own) for own in rows]
    seconds = [_seconds(own, arm) for own in rows]
    return ArmResult(
        arm=arm,
        iterations=tuple(own.chosen.iteration for own in rows),
        measures={name: figures[arm] for name, figures in measures.items()},
        ece=Figure.of(tuple(eces)) if len(eces) == len(rows) else None,
        steps=tuple(count for count in steps if count is not None) if None not in steps else None,
        seconds=Figure.of(tuple(time for time in seconds if time is not None))
        if None not in seconds
        else None,
    )


def _steps(rows: ArmRows) -> int | None:
    counts = [row.steps for row in rows.path]
    return None if None in counts else sum(count for count in counts if count is not None)


def _seconds(rows: ArmRows, arm: str) -> float | None:
    """Wall time of all iterations up to the one handed out; an arm that is the source policy itself cost nothing."""
    if arm != SOURCE_ONLY and _steps(rows) == 0:
        return 0.0
    times = [row.seconds for row in rows.path]
    return None if None in times else sum(time for time in times if time is not None)


def _gap(results: Results) -> Gap | None:
    if not {SOURCE_ONLY, UPPER_BOUND} <= set(results.arms) or not results.labelled(DICE):
        return None
    loop, source, upper = (results.values(arm, DICE) for arm in (MAIN, SOURCE_ONLY, UPPER_BOUND))
    share = gap_closed(loop, source, upper, results.resamples(DICE))
    gap = float((upper - source).mean())
    return (
        Gap(dice=gap) if share is None else Gap(dice=gap, share=share.value, low=share.low, high=share.high)
    )


# --- case by case ----------------------------------------------------------------------------------------------------


def case_lines(results: Results) -> Iterator[CaseValue]:
    """Every value of every case, tidy: one line per seed, arm, case, structure and metric."""
    for arm, rows in results.arms.items():
        for seed, own in zip(results.spec.seeds, rows, strict=True):
            for measure in (DICE, VALIDITY, *own.chosen.case_measures):
                metric, _, structure = measure.partition("_")
                structure = "" if structure == "mean" else structure
                for case, value in case_values(own.chosen, measure).items():
                    group = own.chosen.case_group.get(case, case)
                    yield CaseValue(seed, arm, case, group, structure, metric, value)


def csv_text(lines: Iterator[CaseValue]) -> str:
    """comparison.csv; a structure of "" is the mean over classes, or the whole mask."""
    stream = StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["class" if name == "structure" else name for name in CaseValue._fields])
    writer.writerows((*line[:-1], f"{line.value:.6g}") for line in lines)
    return stream.getvalue()
