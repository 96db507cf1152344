"""The stage that makes a model package of a policy: with its reward net, its trust flag and what it was trained on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from flows.stages import StageContext, stage
from flows.store import CaseSet, Evaluation, PackageRef, Policy, RewardNet
from reward_data.anatomy import RuleSet
from reward_data.preprocess import PreprocessConfig
from reward_data.types import Config, LabelMap
from rl4seg.configs.trust import TrustConfig

if TYPE_CHECKING:
    from reward_data.case_store import CaseStore

FIGURES = ("cases", "labelled", "dice", "dice_mean", "hd95_mean", "validity")


class Described(Config):
    """What a package says about itself that comes from the run's config."""

    iteration: int
    labels: LabelMap
    preprocess: PreprocessConfig
    rules: RuleSet
    source: str | None
    target: str


@stage(PackageRef, title="package")
def package_policy(
    ctx: StageContext,
    described: Described,
    config: TrustConfig,
    policy: Policy,
    reward_net: RewardNet | None,
    source: CaseSet | None,
    target: CaseSet,
    evaluation: Evaluation,
    seed: int,
) -> None:
    """Put the policy handed out into one folder with all that using it takes; choose its flag on source labels."""
    from contextlib import ExitStack

    from reward_data.case_store import CaseStore
    from rl4seg.package import ModelPackage, PackageSpec, save_package
    from rl4seg.policies import load_model
    from rl4seg.reward_net import load_reward_model
    from rl4seg.trust_flag import chosen_flag

    runtime = ctx.runtime()
    reward = load_reward_model(ctx.path(reward_net), runtime) if reward_net else None
    summary = json.loads((ctx.path(evaluation) / "summary.json").read_text(encoding="utf-8"))
    with ExitStack() as stack:
        images = stack.enter_context(CaseStore(ctx.path(target) / "cases.h5"))
        labelled = stack.enter_context(CaseStore(ctx.path(source) / "cases.h5")) if source else None
        spec = PackageSpec(
            name="",  # the run folder's copy has it: equal runs of other names share this artifact
            iteration=described.iteration,
            labels=described.labels,
            preprocess=described.preprocess,
            rules=described.rules,
            spacing_known=images.spacing_known,
            training={
                "source": None if labelled is None else _domain(labelled, described.source),
                "target": _domain(images, described.target),
                "figures": {"split": summary["split"], **{name: summary[name] for name in FIGURES}},
            },
        )
        package = ModelPackage(spec, load_model(ctx.path(policy), runtime), reward)
        if labelled is not None and reward is not None:
            flag = chosen_flag(package, labelled, config, seed, runtime, ctx.progress)
            package.spec = spec.model_copy(update={"trust": flag})
    save_package(package, ctx.out)
    flag = package.spec.trust
    if flag is not None:
        ctx.record(
            flag=flag.threshold,
            dice_below=flag.dice_below,
            flagged=flag.flagged,
            found=flag.found,
            bad=flag.bad,
        )


def _domain(store: CaseStore, name: str | None) -> dict[str, Any]:
    """How many images of which kind a domain has given."""
    splits = {split: store.splits.count(split) for split in ("train", "val", "test") if split in store.splits}
    return {
        "domain": name,
        "images": len(store),
        "splits": splits,
        "patients": len(set(store.groups)),
        "labelled": int(store.has_label.sum()),
        "channels": store.channels,
        "spacing_known": store.spacing_known,
    }
