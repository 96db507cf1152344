"""The stages of PatchDrop's segmentation twin: open the inputs, make one call into the core, leave the outputs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flows.handing_out import ModelBasis
from flows.patchdrop_tasks import DropReport, Timing
from flows.stages import StageContext, stage
from flows.store import ArtifactRef, CaseSet, Evaluation, PackageRef, Policy
from reward_data.types import Config
from rl4seg.configs.patchdrop import DropWindowsConfig, KeepNetConfig, KeepTrainingConfig


class WindowPolicyRef(ArtifactRef):
    """A policy that chooses windows."""

    kind: Literal["WindowPolicyRef"] = "WindowPolicyRef"


class WindowRecord(Config):
    """One seed: its networks, its policy, its figures and its times."""

    seed: int = Field(description="Which seed.")
    coarse: Policy = Field(description="The coarse network.")
    fine: Policy = Field(description="The fine network.")
    policy: WindowPolicyRef = Field(description="The policy.")
    evaluation: Evaluation = Field(description="Figures on the held-out images.")
    timing: Timing = Field(description="Seconds per image.")


@stage(CaseSet, title="cut")
def cut_cases(
    ctx: StageContext, kind: Literal["coarse", "fine"], config: DropWindowsConfig, cases: CaseSet
) -> None:
    """What the coarse or the fine network learns from: low-resolution images, or windows."""
    from reward_data.case_store import CaseStore
    from rl4seg.patchdrop.window_cases import write_coarse_cases, write_fine_cases

    writer = write_coarse_cases if kind == "coarse" else write_fine_cases
    with CaseStore(ctx.path(cases) / "cases.h5") as store:
        writer(store, config, ctx.out, ctx.progress)
    with CaseStore(ctx.out / "cases.h5") as made:
        ctx.record(cases=len(made))


@stage(WindowPolicyRef, title="policy")
def train_windows(
    ctx: StageContext,
    windows: DropWindowsConfig,
    network: KeepNetConfig,
    config: KeepTrainingConfig,
    coarse: Policy,
    fine: Policy,
    cases: CaseSet,
    seed: int,
) -> None:
    """Train the policy on images that neither network has learned from."""
    from reward_data.case_store import CaseStore
    from rl4seg.patchdrop.window_cases import shared_out
    from rl4seg.patchdrop.window_policy import (
        WindowPolicySpec,
        segmenter_of,
        tables_of,
        train_window_policy,
    )
    from rl4seg.policies import load_model

    runtime = ctx.runtime()
    models = load_model(ctx.path(coarse), runtime), load_model(ctx.path(fine), runtime)
    with CaseStore(ctx.path(cases) / "cases.h5") as store:
        _, own = shared_out(store, windows.policy_share)
        table = tables_of(segmenter_of(models, windows, runtime), store, own, config.flip)
        names, channels = store.class_names, store.channels
    spec = WindowPolicySpec(windows=windows, policy=network, class_names=names, channels=channels)
    figures = train_window_policy(spec, table, config, seed, runtime, ctx.out, ctx.checkpoint, ctx.progress)
    ctx.record(**figures)


@stage(Evaluation, title="evaluate")
def evaluate_window_policy(
    ctx: StageContext, coarse: Policy, fine: Policy, policy: WindowPolicyRef, cases: CaseSet, seed: int
) -> None:
    """mIoU of every way of choosing windows on the held-out images, at equal windows and over their number."""
    from reward_data.case_store import CaseStore
    from rl4seg.patchdrop.window_evaluation import WindowEvaluator, evaluate_windows
    from rl4seg.patchdrop.window_policy import load_window_policy, segmenter_of
    from rl4seg.policies import load_model

    runtime = ctx.runtime()
    models = load_model(ctx.path(coarse), runtime), load_model(ctx.path(fine), runtime)
    spec, network = load_window_policy(ctx.path(policy), runtime)
    with CaseStore(ctx.path(cases) / "cases.h5") as store:
        segmenter = segmenter_of(models, spec.windows, runtime)
        evaluator = WindowEvaluator(segmenter, network, store, spec.windows.random_draws, seed)
        ctx.record(**evaluate_windows(evaluator, ctx.out, ctx.progress))


@stage(Timing, title="time per image")
def time_window_policy(
    ctx: StageContext, coarse: Policy, fine: Policy, policy: WindowPolicyRef, cases: CaseSet, seed: int
) -> None:
    """Measure the seconds per image of every way of choosing windows; writes ``latency.json``."""
    import json

    from reward_data.case_store import CaseStore
    from rl4seg.patchdrop.window_evaluation import WindowEvaluator, time_windows
    from rl4seg.patchdrop.window_policy import load_window_policy, segmenter_of
    from rl4seg.policies import load_model

    runtime = ctx.runtime()
    models = load_model(ctx.path(coarse), runtime), load_model(ctx.path(fine), runtime)
    spec, network = load_window_policy(ctx.path(policy), runtime)
    with CaseStore(ctx.path(cases) / "cases.h5") as store:
        segmenter = segmenter_of(models, spec.windows, runtime)
        evaluator = WindowEvaluator(segmenter, network, store, spec.windows.random_draws, seed)
        found = time_windows(evaluator, spec.windows.repeats)
    (ctx.out / "latency.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


@stage(PackageRef, title="package")
def package_windows(
    ctx: StageContext,
    basis: ModelBasis,
    coarse: Policy,
    fine: Policy,
    policy: WindowPolicyRef,
    cases: CaseSet,
) -> None:
    """Put both networks and the policy into one folder with all that using them takes."""
    from rl4seg.package import write_spec
    from rl4seg.patchdrop.window_package import save_windowed
    from rl4seg.patchdrop.window_policy import load_window_policy
    from rl4seg.policies import load_model

    runtime = ctx.runtime()
    models = load_model(ctx.path(coarse), runtime), load_model(ctx.path(fine), runtime)
    spec, network = load_window_policy(ctx.path(policy), runtime)
    save_windowed(*models, network, spec, basis.preprocess.shape, ctx.out)
    write_spec(basis.package_spec(ctx.path(cases) / "cases.h5"), ctx.out)


@stage(DropReport, title="report")
def write_windows_report(
    ctx: StageContext, run_name: str, config_yaml: str, records: tuple[WindowRecord, ...], cases: CaseSet
) -> None:
    """Write ``report.html``, ``windows.json``, ``arms.csv``, ``cases.csv``, ``curves.csv`` and ``history.csv``."""
    from flows.reporting.patchdrop_windows import SeedFolder, collect, write
    from reward_data.case_store import CaseStore

    folders = [
        SeedFolder(r.seed, ctx.path(r.evaluation), ctx.path(r.timing), ctx.path(r.policy)) for r in records
    ]
    content = collect(run_name, config_yaml, folders)
    with CaseStore(ctx.path(cases) / "cases.h5") as store:
        write(content, folders, store, ctx.out)
    ctx.record(**{f"miou_{row.arm}": row.miou.mean for row in content.rows})
