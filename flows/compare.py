"""`rl4seg compare` as a flow: the loop and its rivals over several seeds, then one comparison of all of them.

Every seed is a whole run, stage by stage the same as `flows.auto_iteration` runs alone: a comparison finds what plain
runs have left in the store, and the other way round.
"""

from __future__ import annotations

from flows import compare_config
from flows.auto_iteration import adaptation
from flows.compare_config import CompareConfig
from flows.prefect_settings import flow
from flows.reporting.comparison_data import ComparisonSpec
from flows.reporting.comparison_stage import write_comparison
from flows.restart import restarted_from
from flows.run_environment import part_environment, run_environment
from flows.store import Comparison, Report


def comparison(config: CompareConfig) -> Comparison:
    """Every stage of every seed, and the comparison of their reports."""
    parts, reports = config.parts(), list[Report]()
    for part in parts:
        with part_environment(part, f"seed {part.seed} · ") as environment:
            reports.append(environment.publish(adaptation(part)))
    spec = ComparisonSpec(name=config.name, seeds=config.seeds)
    return write_comparison(spec, tuple(part.name for part in parts), tuple(reports))


@flow(
    name="compare",
    flow_run_name="compare {config.name}",
    persist_result=False,
    validate_parameters=True,
)
def compare(config: CompareConfig, restart_from: str | None = None) -> Comparison:
    """Compare the loop with its rivals over several seeds; the result is the comparison's artifact.

    Args:
        config: What to run.
        restart_from: A stage that runs anew with all that follow from it: ppo@2 in every seed, seed-1/ppo@2 in one.
    """
    with run_environment(config) as environment:
        compare_config.check(config)
        with restarted_from(restart_from, comparison, config):
            return environment.publish(comparison(config))
