"""The pipelines that can be run and deployed: one line each, nothing heavy imported before it is needed."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from reward_data.errors import ConfigError

if TYPE_CHECKING:
    from prefect import Flow

    from flows.config_base import RunConfig


class Pipeline(NamedTuple):
    """A flow and its config.

    ``name`` is the flow's, ``preset`` the shipped config that fills the run form of its deployment.
    """

    name: str
    module: str
    function: str
    config_module: str
    config_class: str
    preset: str

    def flow(self) -> Flow[[RunConfig], Any]:
        """The flow; imports Prefect."""
        flow: Flow[[RunConfig], Any] = getattr(import_module(self.module), self.function)
        return flow

    def config(self) -> type[RunConfig]:
        """The type of its run config."""
        config: type[RunConfig] = getattr(import_module(self.config_module), self.config_class)
        return config


PIPELINES = (
    Pipeline(
        name="auto-iteration",
        module="flows.auto_iteration",
        function="auto_iteration",
        config_module="flows.config",
        config_class="AutoIterationConfig",
        preset="auto_iteration/demo",
    ),
)


def pipeline_of(config: RunConfig) -> Pipeline:
    """The pipeline that a config is for.

    Raises:
        ConfigError: it is no pipeline's.
    """
    for pipeline in PIPELINES:
        if type(config).__name__ == pipeline.config_class:
            return pipeline
    raise ConfigError(
        f"a {type(config).__name__} is no pipeline's config; wanted one of "
        f"{', '.join(pipeline.config_class for pipeline in PIPELINES)}"
    )
