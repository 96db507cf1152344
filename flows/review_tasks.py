"""The stages of a review: export the cases to look at, take in what came back, and learn from it.

The last two stand in the place of, or beside, `flows.tasks.synthesize_rewards`, once an expert has spoken.
"""

from __future__ import annotations

import json
from typing import Literal

from flows.stages import StageContext, stage
from flows.store import ArtifactRef, CaseSet, Policy, Predictions, RewardNet, RewardSet, ShapePriorRef
from flows.tasks import UserFile
from reward_data.anatomy import RuleSet
from reward_data.readers import DatasetConfig
from reward_data.review import ReviewConfig
from reward_data.synthesis import SynthesisConfig

EXPERT = "expert.h5"


class ReviewExport(ArtifactRef):
    """The cases that an expert is asked about."""

    kind: Literal["ReviewExport"] = "ReviewExport"


class Review(ArtifactRef):
    """What an expert has said: decisions and true masks."""

    kind: Literal["Review"] = "Review"


@stage(ReviewExport, title="review export")
def export_review(
    ctx: StageContext,
    config: ReviewConfig,
    policy: Policy,
    reward_net: RewardNet,
    predictions: Predictions,
    cases: CaseSet,
    dataset: DatasetConfig,
    files: UserFile | None,
    rules: RuleSet,
    earlier: tuple[Review, ...],
    iteration: int,
    seed: int,
) -> None:
    """Choose cases and write them for ITK-SNAP and 3D Slicer; see `flows.review_export`."""
    from flows.review_export import Exporter, write_export
    from reward_data.case_store import CaseStore
    from reward_data.expert import Expert
    from rl4seg.policies import load_model
    from rl4seg.reward_net import load_reward_model

    runtime = ctx.runtime()
    located = dataset.model_copy(update={"path": files.path if files else None})
    model, reward = load_model(ctx.path(policy), runtime), load_reward_model(ctx.path(reward_net), runtime)
    known = Expert.together([Expert.load(ctx.path(ref) / EXPERT) for ref in earlier])
    predicted = ctx.path(predictions) / "predictions.h5"
    with CaseStore(ctx.path(cases) / "cases.h5") as store:
        exporter = Exporter(store, model, reward, rules, located, runtime)
        export = write_export(exporter, config, predicted, known, iteration, seed, ctx.out, ctx.progress)
    ctx.record(cases=len(export.cases), least_trust=export.cases[0].trust)


@stage(Review, title="review")
def import_review(ctx: StageContext, export: ReviewExport, returned: UserFile, cases: CaseSet) -> None:
    """Take in what came back, as `rl4seg review import` or the dashboard's form has left it in the run folder."""
    from pathlib import Path

    import h5py
    import numpy as np

    from reward_data.case_store import CaseStore
    from reward_data.expert import Expert
    from reward_data.geometry import labels_to_grid
    from reward_data.review import Export, read_review, write_review

    exported = Export.read(ctx.path(export))
    with h5py.File(ctx.path(export) / "predicted.h5", "r") as file:
        predicted = dict(zip((case.case for case in exported.cases), file["masks"][:], strict=True))
    review = read_review(exported, Path(returned.path))
    truths: dict[str, np.typing.NDArray[np.uint8]] = {}
    with CaseStore(ctx.path(cases) / "cases.h5") as store:
        for item in review:
            case = item.exported.case
            if item.labels is not None:
                truths[case] = labels_to_grid(item.labels, store.geometry(store.ids.index(case)))
            elif item.decision == "accept":
                truths[case] = predicted[case]
    expert = Expert({item.exported.case: item.decision for item in review}, truths)
    expert.save(ctx.out / EXPERT)
    write_review(review, ctx.out / "returned")
    ctx.record(cases=len(review), **expert.counts())


@stage(RewardSet, title="synthesize")
def synthesize_reviewed(
    ctx: StageContext,
    config: SynthesisConfig,
    predictions: Predictions,
    policy: Policy,
    cases: CaseSet,
    rules: RuleSet,
    prior: ShapePriorRef | None,
    reviews: tuple[Review, ...],
    seed: int,
) -> None:
    """As `flows.tasks.synthesize_rewards`, with an expert's masks as truths and without the cases that he rejected."""
    from reward_data.case_store import CaseStore
    from reward_data.expert import Expert
    from reward_data.shape_prior import ShapePrior
    from reward_data.synthesis import synthesize
    from rl4seg.policies import TorchSegmenter, load_model
    from rl4seg.predict import Predictions as Masks

    runtime = ctx.runtime()
    masks = Masks.load(ctx.path(predictions) / "predictions.h5")
    shapes = ShapePrior.load(ctx.path(prior) / "shape_prior.npz") if prior else None
    expert = Expert.together([Expert.load(ctx.path(ref) / EXPERT) for ref in reviews])
    with CaseStore(ctx.path(cases) / "cases.h5") as store:
        segmenter = TorchSegmenter(load_model(ctx.path(policy), runtime), runtime)
        summary = synthesize(
            store, masks.indices, masks.masks, segmenter, rules, shapes, config, seed,
            ctx.out / "rewards.h5", ctx.checkpoint, ctx.progress, expert,
        )  # fmt: skip
    (ctx.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    counts = {f"expert_{name}": count for name, count in summary["reviewed"].items()}
    ctx.record(**{name: summary[name] for name in ("images", "valid", "accepted", "corrected")}, **counts)


@stage(RewardSet, title="relabel")
def relabel_rewards(ctx: StageContext, rewards: RewardSet, reviews: tuple[Review, ...]) -> None:
    """A reward dataset from before a review, with the expert's masks as truths."""
    from reward_data.expert import Expert
    from reward_data.reward_store import RewardStore, relabel

    expert = Expert.together([Expert.load(ctx.path(ref) / EXPERT) for ref in reviews])
    relabel(ctx.path(rewards) / "rewards.h5", expert, ctx.out / "rewards.h5")
    with RewardStore(ctx.out / "rewards.h5") as store:
        ctx.record(images=len(store.case_ids), examples=len(store), reviewed=int(store.reviewed.sum()))
