"""What MODEL means on the command line: a run, one of its iterations, a model package, or an exported bundle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from flows.config import AutoIterationConfig
from flows.config_loader import load_config
from flows.handing_out import POLICY_FOLDER
from flows.remote_store import open_store
from flows.run_folder import StageRow, read_status
from flows.stop import HANDED_OUT
from flows.store import ArtifactStore, Policy, RewardNet
from reward_data.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from rl4seg.package import ModelPackage
    from rl4seg.runtime import Runtime

CONFIG, EXPORT = "config.yaml", "export.json"
WANTED = "give the folder of a run, e.g. runs/NAME, a model package (RUN/policy) or an exported bundle"


def check_model(model: Path, iteration: int | None = None) -> None:
    """Find out quickly, without reading weights, that there is no model.

    Raises:
        ArtifactError: there is none, or several.
        ConfigError: an iteration of what is not a run.
    """
    from rl4seg.package import package_folder, read_spec

    if not model.exists():
        raise ArtifactError(f"{model}: no such folder; {WANTED}")
    if _is_package(package_folder(model)):
        iteration_here = read_spec(package_folder(model)).iteration
        if iteration not in (None, iteration_here) and not is_run(model):
            raise ConfigError(
                f"{model}: is the model of iteration {iteration_here} alone; leave --iteration out, or give the run"
            )
    elif not is_run(model):
        raise ArtifactError(f"{model}: {_what_it_is(model)}; {WANTED}")


def _is_package(folder: Path) -> bool:
    """Whether a model package is there; exported graphs have its description without its weights."""
    from rl4seg.package import PACKAGE
    from rl4seg.policies import WEIGHTS

    return (folder / PACKAGE).is_file() and (folder / WEIGHTS).is_file()


def is_run(folder: Path) -> bool:
    """Whether it is the folder of one run of the loop."""
    return (folder / CONFIG).is_file() and pipeline_name(folder) == AutoIterationConfig.model_fields[
        "pipeline"
    ].default


def open_model(model: Path, iteration: int | None, runtime: Runtime) -> ModelPackage:
    """Read the model: the package that was handed out, else one made of a run's artifacts, which has no trust flag.

    Raises:
        ArtifactError, ConfigError: as `check_model`, or a part of it is missing or broken.
    """
    from rl4seg.package import load_package, package_folder, read_spec

    check_model(model, iteration)
    folder = package_folder(model)
    if _is_package(folder) and iteration in (None, read_spec(folder).iteration):
        return load_package(folder, runtime)
    return _of_run(model, iteration, runtime)


def model_digest(package: ModelPackage) -> str:
    """SHA-256 of all that makes predictions, wherever it was read from; not of its name and its history."""
    from safetensors.torch import save

    digest = hashlib.sha256()
    left_out = {"name", "training", "made_with"}
    digest.update(package.spec.model_dump_json(exclude=left_out).encode())
    reward = package.reward
    for model in (package.model, *([reward.model] if reward is not None else [])):
        state = {
            name: value.detach().cpu().contiguous() for name, value in model.network.state_dict().items()
        }
        digest.update(model.spec.model_dump_json().encode() + save(state))
    digest.update(str(None if reward is None else reward.temperature).encode())
    return digest.hexdigest()


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


def run_config(run_folder: Path) -> AutoIterationConfig:
    """The config of a run of the loop.

    Raises:
        ArtifactError: the folder is none.
    """
    if not is_run(run_folder):
        raise ArtifactError(
            f"{run_folder}: {_what_it_is(run_folder)}; give the folder of a run, e.g. runs/NAME"
        )
    return load_config(str(run_folder / CONFIG), [], AutoIterationConfig)


def _of_run(run_folder: Path, iteration: int | None, runtime: Runtime) -> ModelPackage:
    from rl4seg.package import ModelPackage, PackageSpec
    from rl4seg.policies import load_model
    from rl4seg.reward_net import load_reward_model

    config = run_config(run_folder)
    store = open_store(config.store_folder, config.store_url)
    number, policy = find_policy(run_folder, store, iteration)
    reward = _reward_net(run_folder, store, number)
    spec = PackageSpec(
        name=config.name,
        iteration=number,
        labels=config.target.labels,
        preprocess=config.preprocess,
        rules=config.rule_set(),
        spacing_known=config.target.spacing_known,
    )
    return ModelPackage(
        spec, load_model(policy, runtime), None if reward is None else load_reward_model(reward, runtime)
    )


def _reward_net(run_folder: Path, store: ArtifactStore, iteration: int) -> Path | None:
    """Of an iteration; of the first one for the policy given, as a package does. None where there is none."""
    label = f"iteration {max(iteration, 1)} · reward net"
    for row in read_status(run_folder):
        if row.label == label and row.digest:
            artifact = store.lookup(row.key, RewardNet)
            return None if artifact is None else store.path(artifact)
    return None


def pipeline_name(folder: Path) -> str:
    """What a run folder's config is for; configs without the word are of the loop."""
    try:
        content = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        content = None
    default = str(AutoIterationConfig.model_fields["pipeline"].default)
    return str(content.get("pipeline", default)) if isinstance(content, dict) else default


def _what_it_is(folder: Path) -> str:
    """What a folder without a model is, in words."""
    from rl4seg.patchdrop.inference import drop_model_folder

    if drop_model_folder(folder) is not None or pipeline_name(folder) == "patchdrop":
        return "is a PatchDrop model, which classifies images and has no masks: use rl4seg classify"
    if (folder / CONFIG).is_file():
        inside = sorted(path.parent for path in folder.glob(f"**/{CONFIG}") if is_run(path.parent))
        if inside:
            return f"is the folder of a study ({pipeline_name(folder)}), wanted one of its runs, e.g. {inside[0]}"
        return (
            f"is the folder of a run ({pipeline_name(folder)}) that hands out no model, or has not finished"
        )
    if (folder / EXPORT).is_file():
        return "is an exported graph, which holds no model package; use it as its README says"
    return "no model here"
