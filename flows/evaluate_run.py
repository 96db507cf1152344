"""`rl4seg evaluate`: score a run's policy on the run's target or on another dataset."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from flows.config import AutoIterationConfig
from flows.config_loader import load_config
from flows.console import console
from flows.remote_store import open_store
from flows.reporting.data import MAIN, EvaluationRow
from flows.reporting.tables import result_table
from flows.run_folder import StageRow, read_status
from flows.stop import HANDED_OUT, POLICY_FOLDER
from flows.store import ArtifactStore, Policy
from reward_data.errors import ArtifactError
from reward_data.readers import DatasetConfig

CONFIG = "config.yaml"


def evaluate_run(run_folder: Path, dataset: str | None, out: Path | None, iteration: int | None) -> Path:
    """Score the policy of ``iteration`` (default: the one handed out) and write ``cases.csv`` and ``summary.json``.

    Another ``dataset`` is taken as more of the run's target: its labels, spacing and simulated ``shift`` hold for it.

    Returns the folder written: ``out``, or ``evaluation`` inside the run folder.

    Raises:
        ArtifactError: there is no such run, or it has no such policy.
        DataError: the dataset cannot be read.
    """
    if not (run_folder / CONFIG).is_file():
        raise ArtifactError(f"{run_folder}: no {CONFIG} here; give the folder of a run, e.g. runs/NAME")
    config = load_config(str(run_folder / CONFIG), [], AutoIterationConfig)
    number, policy = find_policy(run_folder, open_store(config.store_folder, config.store_url), iteration)
    target = config.target
    if dataset is not None:
        target = target.model_copy(update={"path": dataset, "format": "auto", "phantom": None})
    folder = out or run_folder / "evaluation"
    row = _score(config, target, policy, folder).model_copy(update={"iteration": number})
    console().print(result_table((row,), "mm" if target.spacing_known else "px (spacing unknown)"))
    console().print(f"per case: {folder / 'cases.csv'}", highlight=False, soft_wrap=True)
    return folder


def find_policy(run_folder: Path, store: ArtifactStore, iteration: int | None) -> tuple[int, Path]:
    """(iteration, folder) of a run's policy; 0 is the source policy, None asks for the one handed out.

    A run that has not come to its end has handed out nothing: its last policy stands for it.

    Raises:
        ArtifactError: the run has not come that far, or its artifact is gone.
    """
    found: dict[int, StageRow] = {}
    for row in read_status(run_folder):
        if row.kind == "Policy" and row.digest:
            if row.label in ("source training", "load checkpoint"):
                found[0] = row
            elif row.label.startswith("iteration "):
                found[int(row.label.split()[1])] = row
    chosen = iteration
    if chosen is None:
        chosen = handed_out_iteration(run_folder, {number: row.key for number, row in found.items()})
    if chosen not in found:
        raise ArtifactError(
            f"{run_folder}: no policy of iteration {chosen}; there are {sorted(found) or 'none yet'}"
        )
    artifact = store.lookup(found[chosen].key, Policy)
    if artifact is None:
        raise ArtifactError(
            f"{run_folder}: the policy of iteration {chosen} is gone from the store; run the config again"
        )
    return chosen, store.path(artifact)


def handed_out_iteration(run_folder: Path, policies: Mapping[int, str]) -> int:
    """The iteration that a run has handed out, else the last; ``policies``: iteration -> key, as far as it has come."""
    file = run_folder / POLICY_FOLDER / HANDED_OUT
    if file.is_file():
        content = json.loads(file.read_text(encoding="utf-8"))
        if (
            policies.get(content["iteration"]) == content["key"]
        ):  # else it is left from an earlier run of the name
            return int(content["iteration"])
    return max(policies, default=0)


def _score(config: AutoIterationConfig, target: DatasetConfig, policy: Path, folder: Path) -> EvaluationRow:
    from reward_data.case_store import CaseStore, import_cases
    from reward_data.readers import count_cases, read_cases
    from rl4seg.configs.evaluation import ARGMAX
    from rl4seg.evaluate import Evaluator, evaluate, held_out
    from rl4seg.policies import load_model
    from rl4seg.runtime import start

    runtime = start(config.runtime)
    model = load_model(policy, runtime)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "cases.h5"
        import_cases(read_cases(target), count_cases(target), config.preprocess, target.labels, path)
        folder.mkdir(parents=True, exist_ok=True)
        with CaseStore(path) as store:
            evaluator = Evaluator(
                model, model, None, config.rule_set(), store, config.evaluation, ARGMAX, runtime
            )
            summary = evaluate(evaluator, held_out(store), folder)
    names = ("cases", "dice", "dice_mean", "validity", "violations", "entropy")
    values = {name: summary[name] for name in names} | {
        "hd95": summary["hd95_mean"],
        "hd": summary["hd_mean"],
    }
    return EvaluationRow.model_validate(
        {"arm": MAIN, "iteration": 0, "labelled": bool(summary["labelled"]), **values}
    )
