"""`rl4seg uncertainty RUN`: which way of being sure of the run's masks can be trusted, measured on its own target."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.config import AutoIterationConfig
from flows.config_loader import load_config
from flows.console import console
from flows.models import CONFIG, find_policy
from flows.remote_store import open_store
from flows.run_folder import StageRow, read_status
from flows.stages import StageEnvironment, environment
from flows.store import ArtifactStore, CaseSet, Policy, RefT, RewardNet
from flows.uncertainty_tasks import measure_uncertainty
from reward_data.errors import ArtifactError, ConfigError
from rl4seg.configs.uncertainty import UncertaintyConfig

FOLDER = "uncertainty"
SEED_FOLDER = "seed-"
ENSEMBLE = "ensemble"


@dataclass(frozen=True)
class FinishedRun:
    """What a run has left: its config, its handed-out policy, and the artifacts that the policy was made with."""

    folder: Path
    config: AutoIterationConfig
    store: ArtifactStore
    iteration: int
    policy: Policy
    target: CaseSet
    source: CaseSet | None
    reward_net: RewardNet | None


def measure_run(
    run_folder: Path, others: Sequence[Path], dice_below: float | None, overrides: list[str]
) -> Path:
    """Measure, print the table, and write the page and its files; returns the folder, ``uncertainty`` in the run's.

    Raises:
        ArtifactError: there is no such run, it has not ended, or what it made is gone.
        ConfigError: an override is wrong, or another run does not fit.
        DataError: the target has no labels.
    """
    settings = uncertainty_config(dice_below, overrides)
    run = finished_run(run_folder)
    members, missing = ensemble_members(run, others)
    out = console()
    out.print(f"{run.config.name}: the policy of iteration {run.iteration}, judged on held-out target cases")
    with environment(StageEnvironment(run.store, None, out, run.config.runtime)):
        ref = measure_uncertainty(
            settings, run.policy, run.reward_net, members, run.target, run.source, missing, run.config.seed
        )
    return _publish(run, run.store.path(ref))


def uncertainty_config(dice_below: float | None, overrides: list[str]) -> UncertaintyConfig:
    """The settings: defaults, then ``key=value``, then the limit.

    Raises:
        ConfigError: as `flows.config_loader.load_config`.
    """
    import tempfile

    if dice_below is not None:
        overrides = [*overrides, f"dice_below={dice_below}"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "uncertainty.yaml"
        path.write_text("")
        try:
            return load_config(str(path), overrides, UncertaintyConfig)
        except ConfigError as error:
            raise ConfigError(str(error).replace(str(path), "of uncertainty")) from error


# --- what the run has left -------------------------------------------------------------------------------------------


def finished_run(folder: Path) -> FinishedRun:
    """Read a run's config and lineage.

    Raises:
        ArtifactError: it is no run, has not come to an iteration's end, or what it made is gone from the store.
    """
    if not (folder / CONFIG).is_file():
        raise ArtifactError(f"{folder}: no {CONFIG} here; give the folder of a run, e.g. runs/NAME")
    config = load_config(str(folder / CONFIG), [], AutoIterationConfig)
    store = open_store(config.store_folder, config.store_url)
    iteration, policy = find_policy(folder, store, None)
    rows = [row for row in read_status(folder) if row.digest]
    reward_net = _row(rows, f"iteration {max(iteration, 1)} · reward net")
    source = _row(rows, "import source")
    target = _row(rows, "import target")
    own = next((row for row in rows if row.kind == "Policy" and row.key == policy.name), None)
    if own is None or target is None:
        raise ArtifactError(f"{folder}: the lineage names no policy or no target; run the config again")
    return FinishedRun(
        folder,
        config,
        store,
        iteration,
        _ref(folder, store, own, Policy),
        _ref(folder, store, target, CaseSet),
        None if source is None else _ref(folder, store, source, CaseSet),
        None if reward_net is None else _ref(folder, store, reward_net, RewardNet),
    )


def _row(rows: Sequence[StageRow], label: str) -> StageRow | None:
    return next((row for row in rows if row.label == label), None)


def _ref(folder: Path, store: ArtifactStore, row: StageRow, type_: type[RefT]) -> RefT:
    ref = store.lookup(row.key, type_)
    if ref is None:
        raise ArtifactError(f"{folder}: {row.label!r} is gone from the store; run the config again")
    return ref


# --- the ensemble ----------------------------------------------------------------------------------------------------


def ensemble_members(run: FinishedRun, others: Sequence[Path]) -> tuple[tuple[Policy, ...], dict[str, str]]:
    """Policies of other seeds, and for want of them how to get some.

    They are the runs given, or else the finished siblings of a run that lies in a comparison as ``seed-N``.

    Raises:
        ArtifactError: a run given is no finished run.
        ConfigError: a run given had another target, or other classes: its policy may have seen the cases judged here.
    """
    folders = list(others) or siblings(run.folder)
    members: list[Policy] = []
    for folder in folders:
        try:
            other = finished_run(folder)
        except ArtifactError:
            if others:
                raise
            continue
        if other.target.digest != run.target.digest:
            raise ConfigError(
                f"{folder}: a run on another target (or another import of it) than {run.folder}; an ensemble needs "
                "runs that differ in their seed only: run the same config with seed=N"
            )
        if other.policy.digest != run.policy.digest:
            members.append(_here(run.store, other))
    if members:
        return tuple(members), {}
    how = (
        "needs policies of other seeds: run the config with seed=1 and seed=2, then add --run FOLDER for each; or "
        "take a run of rl4seg compare, whose siblings are found"
    )
    return (), {ENSEMBLE: how}


def siblings(folder: Path) -> list[Path]:
    """The other ``seed-N`` folders beside a folder that is called so itself."""
    here = folder.absolute()
    if not here.name.startswith(SEED_FOLDER):
        return []
    found = (path for path in here.parent.glob(f"{SEED_FOLDER}*") if (path / CONFIG).is_file())
    return sorted(path for path in found if path.name != here.name)


def _here(store: ArtifactStore, other: FinishedRun) -> Policy:
    """The other run's policy in this run's store, copied there where the stores differ."""
    found = store.lookup(other.policy.key, Policy)
    if found is not None and found.digest == other.policy.digest:
        return found

    def copy(out: Path, checkpoint: Path) -> None:
        for source in sorted(other.store.path(other.policy).iterdir()):
            if source.is_file() and source.name != "manifest.json":
                shutil.copyfile(source, out / source.name)

    return store.build(other.policy.key, Policy, other.policy.made_from, copy, f"policy of {other.folder}")


# --- what is left for the reader -------------------------------------------------------------------------------------


def _publish(run: FinishedRun, artifact: Path) -> Path:
    """Copy the files, render the page, print the table."""
    from flows.reporting.uncertainty import print_result, render

    folder = run.folder / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("uncertainty.json", "cases.csv"):
        shutil.copyfile(artifact / name, folder / name)
    content = json.loads((artifact / "uncertainty.json").read_text())
    seconds = json.loads((artifact / "seconds.json").read_text())
    page = render(
        run.config.name,
        run.iteration,
        content,
        seconds,
        artifact / "shown.h5",
        folder,
        run.config.class_names,
    )
    print_result(content, seconds)
    console().print(f"page: {page}", highlight=False, soft_wrap=True)
    return folder
