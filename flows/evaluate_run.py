"""`rl4seg evaluate`: a model on a data set, labelled or not: figures per case and in sum, and a page."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.config_loader import dump_config, load_config
from flows.console import console
from flows.models import check_model, is_run, model_digest, open_model, run_config
from flows.predict.folder import write_text
from flows.progress import StageProgress
from flows.run_folder import versions
from reward_data.errors import ConfigError
from reward_data.readers import DatasetConfig
from rl4seg.configs.runtime import RuntimeConfig

if TYPE_CHECKING:
    from rl4seg.package import ModelPackage
    from rl4seg.predictor import Predictor
    from rl4seg.scored_cases import ScoredCase

FOLDER, CASES, FIGURES, PAGE = "evaluation", "cases.csv", "evaluation.json", "evaluation.html"
CURVE = "trust_curve.csv"


@dataclass(frozen=True)
class _Plan:
    """What is scored, and how: the data, unions of classes that are measured too, machine."""

    target: DatasetConfig
    unions: Mapping[str, Sequence[str]]
    runtime: RuntimeConfig


def evaluate_run(
    model: Path,
    dataset: str | None,
    out: Path | None,
    iteration: int | None,
    overrides: Sequence[str] = (),
) -> Path:
    """Score a model, and write ``cases.csv``, ``evaluation.json``, ``evaluation.html`` and ``trust_curve.csv``.

    Test images are scored where the data set has some, else its validation images, else all.

    Args:
        model: a run, a model package or an exported bundle.
        dataset: what is scored; None: the run's target. Of a run, another one is taken as more of its target: labels,
            spacing and simulated ``shift`` of the target hold for it; it is not split.
        out: folder written; None: ``evaluation`` in the run folder.
        iteration: of a run; None: the policy handed out.
        overrides: ``key=value`` of the data set, such as ``group_pattern=^(patient\\d+)``.

    Returns the folder written.

    Raises:
        ArtifactError: there is no such model.
        ConfigError: something is missing, or an override is wrong.
        DataError: the data set cannot be read.
    """
    check_model(model, iteration)
    folder = out or (model / FOLDER if is_run(model) else None)
    if folder is None:
        raise ConfigError(f"{model}: is no run, so there is no place for the result; give --out FOLDER")
    from rl4seg.runtime import start

    plan = _plan(model, dataset, overrides)
    runtime = start(plan.runtime)
    package = open_model(model, iteration, runtime)
    plan = plan if is_run(model) else _for_package(plan, package, overrides)
    from rl4seg.predictor import Predictor

    scored, split = _scored(Predictor(package, runtime), plan)
    content = _content(package, plan, scored, split)
    _write(folder, scored, content)
    from flows.reporting.evaluation import print_result

    print_result(content)
    console().print(f"page: {folder / PAGE}", highlight=False, soft_wrap=True)
    return folder


def _plan(model: Path, dataset: str | None, overrides: Sequence[str]) -> _Plan:
    if not is_run(model):
        if dataset is None:
            raise ConfigError(f"{model}: is no run, so there is no target to score it on; give a DATASET")
        return _Plan(DatasetConfig(path=dataset, domain="target", **_UNSPLIT), {}, RuntimeConfig())
    config = run_config(model)
    target = config.target
    if dataset is not None and dataset != target.path:
        target = target.model_copy(update={"path": dataset, "format": "auto", "phantom": None, **_UNSPLIT})
    return _Plan(overridden(target, overrides), config.evaluation.unions, config.runtime)


_UNSPLIT: dict[str, Any] = {"validation_fraction": 0.0, "test_fraction": 0.0}


def _for_package(plan: _Plan, package: ModelPackage, overrides: Sequence[str]) -> _Plan:
    """Classes and their merges, and whether pixel sizes count, are those of the package."""
    known = {"labels": package.spec.labels, "spacing_known": package.spec.spacing_known}
    return _Plan(overridden(plan.target.model_copy(update=known), overrides), plan.unions, plan.runtime)


def overridden(target: DatasetConfig, overrides: Sequence[str]) -> DatasetConfig:
    """The data set with ``key=value`` applied.

    Raises:
        ConfigError: as `flows.config_loader.load_config`.
    """
    if not overrides:
        return target
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "dataset.yaml"
        path.write_text(dump_config(target), encoding="utf-8")
        try:
            return load_config(str(path), list(overrides), DatasetConfig)
        except ConfigError as error:
            raise ConfigError(str(error).replace(str(path), "of the dataset")) from error


def _scored(predictor: Predictor, plan: _Plan) -> tuple[list[ScoredCase], str]:
    """The figures of all cases, and of which split they are.

    Images are stored as they are, not in the steps of 1/255 of a run: the policy sees here what `rl4seg predict` shows.
    """
    from reward_data.case_store import CaseStore, import_cases
    from reward_data.readers import count_cases, read_cases
    from rl4seg.evaluate import held_out
    from rl4seg.scored_cases import score_cases

    total = count_cases(plan.target)
    as_they_are = predictor.spec.preprocess.model_copy(update={"dtype": "float32"})
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "cases.h5"
        with StageProgress("reading", console()) as progress:
            import_cases(read_cases(plan.target), total, as_they_are, plan.target.labels, path, progress)
        with CaseStore(path) as store, StageProgress("scoring", console()) as progress:
            indices = held_out(store)
            splits = {store.splits[int(index)] for index in indices}
            split = splits.pop() if len(splits) == 1 and len(indices) < len(store) else "all"
            return score_cases(predictor, store, indices, plan.unions, progress), split


def _content(package: ModelPackage, plan: _Plan, scored: Sequence[ScoredCase], split: str) -> dict[str, Any]:
    from rl4seg.evaluation_figures import evaluation_figures

    spec = package.spec
    known = plan.target.spacing_known and all(None not in case.areas.values() for case in scored)
    about = {
        "model": {"name": spec.name, "iteration": spec.iteration, "digest": model_digest(package)},
        "dataset": plan.target.path or plan.target.format,
        "split": split,
        "unit": "mm" if known else "px (spacing unknown)",
        "trusted_by": "softmax" if package.reward is None else "calibrated reward x softmax",
        "versions": versions(),
    }
    return about | evaluation_figures(scored, spec.labels.names[1:], spec.trust)


def _write(folder: Path, scored: Sequence[ScoredCase], content: Mapping[str, Any]) -> None:
    from flows.reporting.evaluation import render

    classes = list(scored[0].areas)
    rows = [case.row(classes) for case in scored]
    table = io.StringIO(newline="")
    writer = csv.DictWriter(
        table, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / CASES, table.getvalue())
    _write_curve(folder / CURVE, (content["finding"] or {}).get("curve"))
    write_text(folder / FIGURES, json.dumps(content, indent=1) + "\n")
    write_text(folder / PAGE, render(content, rows))


def _write_curve(path: Path, curve: Mapping[str, Any] | None) -> None:
    """What every threshold on trust flags and finds, one per line; no file where no image is bad."""
    if curve is None:
        path.unlink(missing_ok=True)  # of an earlier evaluation
        return
    names = ("threshold", "flagged", "found")
    lines = [
        ",".join(f"{value:.6g}" for value in row) for row in zip(*(curve[n] for n in names), strict=True)
    ]
    write_text(path, "\n".join([",".join(names), *lines]) + "\n")
