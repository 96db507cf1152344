"""RL4Seg as a flow: adapt a segmentation policy to an unlabelled target domain.

Read it from the bottom: `auto_iteration` is the whole story, `flows.arms.adapt` is the loop

    predict -> synthesize -> train the reward net -> PPO -> evaluate -> again

Every call below is a cached stage: run the flow a second time and each one answers from the artifact store; kill it
and the same command goes on at the stage that was running.
"""

from __future__ import annotations

from flows import preflight
from flows.arms import Start, adapt, measured
from flows.config import AutoIterationConfig
from flows.config_loader import dump_config
from flows.prefect_settings import flow
from flows.reporting.data import MAIN, SOURCE_ONLY
from flows.reporting.stage import write_report
from flows.restart import restarted_from
from flows.rivals import rivals
from flows.run_environment import run_environment
from flows.stop import packaged
from flows.store import CaseSet, Policy, Report
from flows.tasks import fit_shape_prior, import_dataset, load_checkpoint, train_supervised
from rl4seg.configs.evaluation import Split


def source_policy(config: AutoIterationConfig, source: CaseSet | None, target: CaseSet) -> Policy:
    """The policy to adapt: the user's checkpoint, or one trained on the labelled source."""
    if config.policy.checkpoint is not None:
        checkpoint = preflight.user_checkpoint(config.policy.checkpoint)
        return load_checkpoint(checkpoint, config.policy.network, target)
    assert source is not None  # a config without source and checkpoint is refused when it is read
    return train_supervised(config.source_training, config.policy.network, source, config.seed)


def adaptation(config: AutoIterationConfig, split: Split = "test") -> Report:
    """Every stage of a run, from the datasets to the report; ``split``: the target images that score policies."""
    # Both domains, imported once onto the network's grid.
    source = None
    if config.source is not None:
        source = import_dataset.named("import source")(
            *preflight.dataset_inputs(config.source), config.preprocess
        )
    target = import_dataset.named("import target")(
        *preflight.dataset_inputs(config.target), config.preprocess
    )
    # Where everybody starts.
    prior = fit_shape_prior(config.shape_components, source) if source else None
    start = Start(source_policy(config, source, target), source, target, prior, config.rule_set(), split)
    records = [measured(config, start, SOURCE_ONLY, start.policy)]
    # The loop, and what it has to beat.
    records += adapt(config, start, MAIN, config.ppo)
    records += rivals(config, start)
    # Of all that the loop has made, the policy that its own signals speak for, ready to be used on files.
    package = packaged(config, start, records)
    return write_report(
        config.name, dump_config(config), tuple(records), target, config.evaluation.montage_cases, package
    )


@flow(
    name="auto-iteration",
    flow_run_name="auto-iteration {config.name}",
    persist_result=False,
    validate_parameters=True,
)
def auto_iteration(config: AutoIterationConfig, restart_from: str | None = None) -> Report:
    """Adapt a segmentation policy to an unlabelled target domain; the result is the report's artifact.

    Args:
        config: What to run.
        restart_from: A stage that runs anew with all that follow from it, e.g. ppo@2; empty = none.
    """
    with run_environment(config) as environment:
        preflight.check(config)
        with restarted_from(restart_from, adaptation, config):
            return environment.publish(adaptation(config))
