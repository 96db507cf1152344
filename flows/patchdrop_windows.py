"""PatchDrop's segmentation twin as a flow: which windows of a large image are worth full resolution?

Read it from the bottom: `patchdrop_windows` is the whole story,

    import -> coarse network, fine network -> policy on images that neither has seen -> evaluate -> time -> package
           -> report

Every call below is a cached stage: run the flow a second time and each one answers from the artifact store.
"""

from __future__ import annotations

from flows import patchdrop_windows_config, preflight
from flows.config_loader import dump_config
from flows.handing_out import ModelBasis, publish_package, publish_report
from flows.patchdrop_tasks import DropReport
from flows.patchdrop_windows_config import PatchDropWindowsConfig
from flows.patchdrop_windows_tasks import (
    WindowRecord,
    cut_cases,
    evaluate_window_policy,
    package_windows,
    time_window_policy,
    train_windows,
    write_windows_report,
)
from flows.prefect_settings import flow
from flows.restart import restarted_from
from flows.run_environment import run_environment
from flows.store import CaseSet
from flows.tasks import import_dataset, train_supervised


def windows_of_seed(
    config: PatchDropWindowsConfig, cases: CaseSet, coarse_cases: CaseSet, fine_cases: CaseSet, seed: int
) -> WindowRecord:
    """Networks, policy and figures of one seed."""
    prefix = f"seed {seed} · " if len(config.all_seeds()) > 1 else ""

    # The two networks, each on its own view of the same images.
    coarse = train_supervised.named(f"{prefix}coarse · train")(
        config.coarse_training, config.coarse_network, coarse_cases, seed
    )
    fine = train_supervised.named(f"{prefix}fine · train")(
        config.fine_training, config.fine_network, fine_cases, seed
    )

    # The policy, on images that neither network has learned from; then what it is worth, and what it costs.
    policy = train_windows.named(f"{prefix}policy")(
        config.windows, config.policy, config.policy_training, coarse, fine, cases, seed
    )
    evaluation = evaluate_window_policy.named(f"{prefix}evaluate")(coarse, fine, policy, cases, seed)
    timing = time_window_policy.named(f"{prefix}time per image")(coarse, fine, policy, cases, seed)
    return WindowRecord(
        seed=seed, coarse=coarse, fine=fine, policy=policy, evaluation=evaluation, timing=timing
    )


def windows(config: PatchDropWindowsConfig) -> DropReport:
    """Every stage of a run, from the dataset to the report; the networks of the first seed are handed out."""
    cases = import_dataset.named("import")(*preflight.dataset_inputs(config.dataset), config.preprocess)
    coarse_cases = cut_cases.named("coarse · images")("coarse", config.windows, cases)
    fine_cases = cut_cases.named("fine · windows")("fine", config.windows, cases)
    records = [windows_of_seed(config, cases, coarse_cases, fine_cases, seed) for seed in config.all_seeds()]
    basis = ModelBasis(labels=config.dataset.labels, preprocess=config.preprocess)
    publish_package(
        package_windows(basis, records[0].coarse, records[0].fine, records[0].policy, cases), config.name
    )
    report = write_windows_report.named("report")(config.name, dump_config(config), tuple(records), cases)
    publish_report(report)
    return report


@flow(
    name="patchdrop-windows",
    flow_run_name="patchdrop-windows {config.name}",
    persist_result=False,
    validate_parameters=True,
)
def patchdrop_windows(config: PatchDropWindowsConfig, restart_from: str | None = None) -> DropReport:
    """Learn which windows of large images to segment at full resolution, and compare with rivals at equal windows.

    Args:
        config: What to run.
        restart_from: A stage that runs anew with all that follow from it, e.g. policy; empty = none.
    """
    with run_environment(config):
        patchdrop_windows_config.check(config)
        with restarted_from(restart_from, windows, config):
            return windows(config)
