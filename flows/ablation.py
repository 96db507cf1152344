"""`rl4seg ablate` as a flow: variants of the loop under several seeds, scored on held-back selection images.

Variants share every stage that their changes do not reach, with each other and with plain runs. Nothing here looks at
a test image: what is chosen by an ablation can still be scored once, honestly.
"""

from __future__ import annotations

from typing import Any

from flows import ablation_config
from flows.ablation_config import AblateConfig
from flows.auto_iteration import adaptation
from flows.prefect_settings import flow
from flows.reporting.comparison_data import ComparisonSpec
from flows.reporting.comparison_stage import write_comparison
from flows.restart import restarted_from
from flows.run_environment import part_environment, run_environment
from flows.store import Comparison, Report


def study(config: AblateConfig) -> Comparison:
    """Every variant under every seed, and the comparison of their reports."""
    parts, reports = config.parts(), list[Report]()
    for seed, variant, part in parts:
        with part_environment(part, f"seed {seed} · {variant} · ") as environment:
            reports.append(environment.publish(adaptation(part, split="val")))
    asked = config.study
    spec = ComparisonSpec(
        name=config.name,
        seeds=config.seeds,
        variants=tuple(asked.variants),
        question=asked.question,
        changes={label: _in_words(changes) for label, changes in asked.variants.items()},
    )
    folders = tuple(f"seed-{part.seed}/{part.config.name}" for part in parts)
    return write_comparison(spec, folders, tuple(reports))


def _in_words(changes: dict[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in changes.items()) or "the run as it is"


@flow(
    name="ablate",
    flow_run_name="ablate {config.name}",
    persist_result=False,
    validate_parameters=True,
)
def ablate(config: AblateConfig, restart_from: str | None = None) -> Comparison:
    """Compare variants of the loop on held-back images; the result is the comparison's artifact.

    Args:
        config: What to run.
        restart_from: A stage that runs anew with all that follow from it, e.g. ppo@2 in every variant.
    """
    with run_environment(config) as environment:
        ablation_config.check(config)
        with restarted_from(restart_from, study, config):
            return environment.publish(study(config))
