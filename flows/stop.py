"""The stop rule in the flow: watch the loop by signals that need no label, stop it on a collapse, hand one policy out.

All iterations are judged on the same held-back target images by the reward net of the first: rewards of different nets
do not compare, this one is there from the start, and only the first iteration can learn to please it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flows.handing_out import POLICY_FOLDER, publish_package
from flows.package_tasks import Described, package_policy
from flows.reporting.data import MAIN
from flows.reporting.stage import PolicyRecord
from flows.stages import StageContext, current_environment, stage
from flows.store import CaseSet, Evaluation, JudgementRef, PackageRef, Policy, RewardNet, ShapePriorRef
from flows.tasks import evaluate_policy
from rl4seg.configs.stop import StopConfig
from rl4seg.stop_rule import JUDGEMENT, Judgement

if TYPE_CHECKING:
    from flows.arms import Start
    from flows.config import AutoIterationConfig

HANDED_OUT = "handed_out.json"


@stage(JudgementRef, title="judge")
def judge_iteration(
    ctx: StageContext,
    config: StopConfig,
    evaluations: tuple[Evaluation, ...],
    source: CaseSet | None,
    prior: ShapePriorRef | None,
    class_names: tuple[str, ...],
) -> None:
    """Judge the last of some evaluations on held-back images; the first one is of the policy given."""
    from reward_data.case_store import CaseStore
    from reward_data.shape_prior import ShapePrior
    from rl4seg.stop_rule import judge
    from rl4seg.stop_signals import mean_areas, measure, read_observation

    classes, areas = class_names[1:], None
    if source is not None:
        with CaseStore(ctx.path(source) / "cases.h5") as store:
            areas = mean_areas(store.labels(store.indices("train", labelled=True)), classes)
    shapes = ShapePrior.load(ctx.path(prior) / "shape_prior.npz") if prior else None
    seen = [read_observation(ctx.path(each), classes) for each in evaluations]
    judgement = judge([measure(i, each, seen[0], areas, shapes) for i, each in enumerate(seen)], config)
    (ctx.out / JUDGEMENT).write_text(judgement.model_dump_json(indent=1) + "\n")
    last = judgement.history[-1]
    figures = last.model_dump(exclude={"area_drift", "area_to_source"})
    figures |= {f"area_drift_{name}": value for name, value in last.area_drift.items()}
    ctx.record(**figures, alarm="; ".join(judgement.alarm) or "none", handed_out=judgement.choice.iteration)


class Watch:
    """Judges the loop after every iteration; remembers what it has seen."""

    def __init__(self, config: AutoIterationConfig, start: Start) -> None:
        self._config, self._start = config, start
        self._judge: RewardNet | None = None
        self._seen: list[Evaluation] = []

    def judge(self, label: str, policy: Policy, reward_net: RewardNet | None) -> JudgementRef:
        """The judgement on an iteration's policy; the reward net of the first call judges all of them."""
        if not self._seen:
            self._judge = reward_net
            self._seen.append(self._evaluated("policy given", self._start.policy))
        self._seen.append(self._evaluated(label, policy))
        return judge_iteration.named(f"{label} · judge")(
            self._config.stop,
            tuple(self._seen),
            self._start.source,
            self._start.prior,
            self._config.class_names,
        )

    def _evaluated(self, label: str, policy: Policy) -> Evaluation:
        start = self._start
        return evaluate_policy.named(f"{label} · signals")(
            self._config.evaluation, policy, start.policy, self._judge, start.target, start.rules, split="val",
        )  # fmt: skip


def collapsed(label: str, judgement: JudgementRef) -> bool:
    """Whether the alarm rings, which the console then says; never where stages are only planned."""
    here = current_environment()
    if here.plan is not None:
        return False
    found = read_judgement(judgement)
    if found.alarm and here.console is not None:
        here.console.print(
            f"{here.prefix}{label}: collapse alarm, the loop stops: {'; '.join(found.alarm)}. "
            f"Handed out: {_named(found.choice.iteration)}.",
            highlight=False,
            markup=False,
        )
    return bool(found.alarm)


def read_judgement(ref: JudgementRef) -> Judgement:
    """The content of a judgement's artifact."""
    path = current_environment().store.path(ref) / JUDGEMENT
    return Judgement.model_validate_json(path.read_text(encoding="utf-8"))


def handed_out(records: Sequence[PolicyRecord]) -> PolicyRecord:
    """The policy of a run that is handed out: the stop rule's choice, else the loop's last iteration.

    ``records`` begin with the policy given (source-only); that one is the answer where nothing better is known.
    """
    loop = [record for record in records if record.arm == MAIN]
    judged = [record.judgement for record in loop if record.judgement is not None]
    if not judged:
        return loop[-1] if loop else records[0]
    chosen = read_judgement(judged[-1]).choice.iteration
    return next((record for record in loop if record.iteration == chosen), records[0])


def packaged(config: AutoIterationConfig, start: Start, records: Sequence[PolicyRecord]) -> PackageRef:
    """The model package of the policy handed out, left in the run folder as ``policy/``."""
    # Where stages are only planned nothing has been judged: any record will do.
    planned = current_environment().plan is not None
    chosen = records[0] if planned else handed_out(records)
    # The policy given has no reward net of its own: the first one has learned from its mistakes.
    nets = [each.reward_net for each in records if each.arm == MAIN and each.reward_net is not None]
    described = Described(
        iteration=chosen.iteration,
        labels=config.target.labels,
        preprocess=config.preprocess,
        rules=start.rules,
        source=config.source.domain if config.source is not None else None,
        target=config.target.domain,
    )
    package = package_policy(
        described, config.trust, chosen.policy, chosen.reward_net or next(iter(nets), None), start.source,
        start.target, chosen.evaluation, config.seed,
    )  # fmt: skip
    publish_policy(config.name, records, package)
    return package


def publish_policy(name: str, records: Sequence[PolicyRecord], package: PackageRef) -> None:
    """Leave the policy handed out in the run folder: ``policy/`` is the package, with handed_out.json beside it."""
    here = current_environment()
    if here.plan is not None or here.run_folder is None:
        return
    chosen = handed_out(records)
    judged = [record.judgement for record in records if record.judgement is not None]
    why = read_judgement(judged[-1]).choice.why if judged else "the last iteration; stop.enabled is false"
    content = {
        "iteration": chosen.iteration,
        "why": why,
        "key": chosen.policy.key,
        "digest": chosen.policy.digest,
    }
    publish_package(package, name)
    here.run_folder.write(f"{POLICY_FOLDER}/{HANDED_OUT}", json.dumps(content, indent=1) + "\n")
    if here.console is not None:
        here.console.print(
            f"{here.prefix}policy handed out: {_named(chosen.iteration)}, in {here.run_folder.path / POLICY_FOLDER}",
            highlight=False, soft_wrap=True, markup=False,
        )  # fmt: skip


def _named(iteration: int) -> str:
    return f"iteration {iteration}" if iteration else "the policy given, unchanged"
