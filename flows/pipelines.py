"""The pipelines that can be run and deployed: one entry each, nothing heavy imported before it is needed.

A config says which one it is for by its key ``pipeline``; a shipped one may leave that to its folder
(``configs/compare/demo.yaml`` is for ``compare``). One that says nothing is for the first: so are the configs of runs
that are older than the key.
"""

from __future__ import annotations

import difflib
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from reward_data.errors import ConfigError

if TYPE_CHECKING:
    from prefect import Flow

    from flows.config_base import RunConfig

KEY = "pipeline"


class Pipeline(NamedTuple):
    """A flow and its config; what is imported is given as ``module:attribute``.

    ``name`` is the flow's, ``preset`` the shipped config that fills the run form of its deployment; ``checked_by`` is a
    function of the config that refuses what cannot work before Prefect is started. ``result`` is the file that a
    finished run has in its folder, ``shown_by`` a function of the folder that prints it and returns the report's path.
    """

    name: str
    flow_at: str
    config_at: str
    checked_by: str
    result: str
    shown_by: str
    preset: str

    def flow(self) -> Flow[[RunConfig, str | None], Any]:
        """The flow, of a config and a stage to begin anew from; imports Prefect."""
        flow: Flow[[RunConfig, str | None], Any] = _imported(self.flow_at)
        return flow

    def config(self) -> type[RunConfig]:
        """The type of its run config."""
        config: type[RunConfig] = _imported(self.config_at)
        return config

    def check(self, config: RunConfig) -> None:
        """Refuse a run that cannot work.

        Raises:
            Rl4SegError: what is wrong.
        """
        _imported(self.checked_by)(config)

    def show(self, run_folder: Path) -> Path:
        """Print the result of a finished run; returns the path of its report."""
        report: Path = _imported(self.shown_by)(run_folder)
        return report


PIPELINES = (
    Pipeline(
        name="auto-iteration",
        flow_at="flows.auto_iteration:auto_iteration",
        config_at="flows.config:AutoIterationConfig",
        checked_by="flows.preflight:check",
        result="metrics.json",
        shown_by="flows.launch:show_report",
        preset="auto_iteration/demo",
    ),
    Pipeline(
        name="compare",
        flow_at="flows.compare:compare",
        config_at="flows.compare_config:CompareConfig",
        checked_by="flows.compare_config:check",
        result="comparison.json",
        shown_by="flows.launch:show_comparison",
        preset="compare/demo",
    ),
    Pipeline(
        name="ablate",
        flow_at="flows.ablation:ablate",
        config_at="flows.ablation_config:AblateConfig",
        checked_by="flows.ablation_config:check",
        result="comparison.json",
        shown_by="flows.launch:show_comparison",
        preset="ablate/demo",
    ),
    Pipeline(
        name="reward-tuning",
        flow_at="flows.reward_tuning:reward_tuning",
        config_at="flows.reward_tuning_config:RewardTuningConfig",
        checked_by="flows.reward_tuning_config:check",
        result="tuning.json",
        shown_by="flows.reporting.tuning:show_tuning",
        preset="reward_tuning/demo",
    ),
    Pipeline(
        name="paser",
        flow_at="flows.paser:paser",
        config_at="flows.paser_config:PaserConfig",
        checked_by="flows.paser_config:check",
        result="paser.json",
        shown_by="flows.reporting.paser:show_paser",
        preset="paser/demo",
    ),
    Pipeline(
        name="patchdrop",
        flow_at="flows.patchdrop:patchdrop",
        config_at="flows.patchdrop_config:PatchDropConfig",
        checked_by="flows.patchdrop_config:check",
        result="patchdrop.json",
        shown_by="flows.reporting.patchdrop:show_drop",
        preset="patchdrop/demo",
    ),
    Pipeline(
        name="patchdrop-windows",
        flow_at="flows.patchdrop_windows:patchdrop_windows",
        config_at="flows.patchdrop_windows_config:PatchDropWindowsConfig",
        checked_by="flows.patchdrop_windows_config:check",
        result="windows.json",
        shown_by="flows.reporting.patchdrop_windows:show_windows",
        preset="patchdrop/windows_demo",
    ),
)


def _imported(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)


def pipeline_named(name: str, said_by: str) -> Pipeline:
    """The pipeline of a name.

    Raises:
        ConfigError: there is none; the message begins with ``said_by``.
    """
    known = [pipeline.name for pipeline in PIPELINES]
    if name in known:
        return PIPELINES[known.index(name)]
    close = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise ConfigError(f"{said_by}: got {name!r}, wanted one of {', '.join(known)}{hint}")


def pipeline_of(config: RunConfig) -> Pipeline:
    """The pipeline that a config is for.

    Raises:
        ConfigError: it is no pipeline's.
    """
    return pipeline_named(config.pipeline, f"{KEY} of a {type(config).__name__}")


def pipeline_for(config: str, overrides: list[str]) -> Pipeline:
    """The pipeline that a config, given by path or shipped name, is for.

    Raises:
        ConfigError: it names an unknown one, is shipped for something else, or cannot be read.
    """
    from flows.config_loader import read_unchecked, shipped_folder

    said = read_unchecked(config, overrides).get(KEY)
    if said is not None:
        return pipeline_named(str(said), f"{config}: {KEY}")
    folder = shipped_folder(config)
    if folder == "ablation":
        raise ConfigError(
            f"{config} is a study, not a run; give it a run to study: rl4seg ablate auto_iteration/demo "
            f"{config.rpartition('/')[2]}"
        )
    return PIPELINES[0] if folder is None else pipeline_named(folder.replace("_", "-"), f"{config}: folder")
