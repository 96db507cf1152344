"""The expert in the loop: export the least trusted cases, wait without holding a worker, learn from what comes back.

Read `ask`. A run that waits ends here: one of a worker is suspended and starts anew by Resume; one of `rl4seg run`
ends with exit code 0 and goes on by `rl4seg resume RUN`. Both find what came back in the run folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flows import preflight
from flows.review_folder import ReviewFolder
from flows.review_tasks import (
    Review,
    ReviewExport,
    export_review,
    import_review,
    relabel_rewards,
    synthesize_reviewed,
)
from flows.stages import current_environment
from flows.store import Policy, Predictions, RewardNet, RewardSet
from flows.tasks import UserFile, predict_target, synthesize_rewards
from reward_data.errors import ConfigError

if TYPE_CHECKING:
    from flows.arms import Start
    from flows.config import AutoIterationConfig


def ask(
    config: AutoIterationConfig,
    start: Start,
    label: str,
    iteration: int,
    policy: Policy,
    reward_net: RewardNet,
    earlier: Sequence[Review],
) -> Review:
    """What the expert says about the policy's masks after an iteration; the run ends here while he has not spoken.

    Args:
        label: of the iteration, e.g. "iteration 1".
        policy: the iteration's result.
        reward_net: the iteration's; whom it trusts least is shown first.
        earlier: the reviews before this one; their cases are not asked about again.

    Raises:
        ConfigError: there is no run folder, or another export in it has been worked on.
    """
    predictions = predict_target.named(f"{label} · review predict")(policy, start.target)
    export = export_review.named(f"{label} · review export")(
        config.review, policy, reward_net, predictions, start.target, *preflight.dataset_inputs(config.target),
        start.rules, tuple(earlier), iteration, config.seed,
    )  # fmt: skip
    returned = _returned(label, iteration, export)
    return import_review.named(f"{label} · review")(export, returned, start.target)


def _returned(label: str, iteration: int, export: ReviewExport) -> UserFile:
    """What came back, by path and digest; waits for it."""
    here = current_environment()
    if here.plan is not None:  # nothing can be read yet, and whoever plans does not wait
        return UserFile(path="", digest="planned")
    if here.run_folder is None:
        raise ConfigError(
            "a review needs a run folder to export to; run it as a flow, by rl4seg run or submit"
        )
    folder = ReviewFolder(here.run_folder.path, iteration)
    folder.publish(here.store.path(export))
    while (returned := folder.returned) is None:
        from flows.review_wait import wait

        wait(folder, label, export)
    return UserFile(path=str(returned), digest=here.store.digest_inputs(returned))


def synthesized(
    config: AutoIterationConfig,
    start: Start,
    label: str,
    predictions: Predictions,
    policy: Policy,
    reviews: Sequence[Review],
) -> RewardSet:
    """The reward dataset of some predictions, with all that experts have said so far; without reviews the plain one."""
    if not reviews:
        return synthesize_rewards.named(label)(
            config.synthesis, predictions, policy, start.target, start.rules, start.prior, config.seed,
        )  # fmt: skip
    return synthesize_reviewed.named(label)(
        config.synthesis, predictions, policy, start.target, start.rules, start.prior, tuple(reviews), config.seed,
    )  # fmt: skip


def relabelled(label: str, rewards: Sequence[RewardSet], reviews: Sequence[Review]) -> list[RewardSet]:
    """Earlier reward datasets as experts see them: their masks as truths, rejected cases left out."""
    return [
        relabel_rewards.named(f"{label} · relabel {number}")(each, tuple(reviews))
        for number, each in enumerate(rewards, start=1)
    ]
