"""Every shared stage: open the inputs, make one call into the core, leave the outputs in ``ctx.out``.

Heavy modules are imported inside the bodies: a cached stage never pays for torch, and a stage's key covers exactly
the code that its body reaches.
"""

from __future__ import annotations

import json

from pydantic import Field

from flows.stages import StageContext, stage
from flows.store import CaseSet, Evaluation, Policy, Predictions, RewardNet, RewardSet, ShapePriorRef
from reward_data.anatomy import RuleSet
from reward_data.preprocess import PreprocessConfig
from reward_data.readers import DatasetConfig
from reward_data.synthesis import SynthesisConfig
from reward_data.types import Config
from rl4seg.configs.evaluation import ARGMAX, Decision, EvaluationConfig, Split
from rl4seg.configs.network import NetworkConfig
from rl4seg.configs.ppo import PPOConfig
from rl4seg.configs.reward_net import RewardNetConfig
from rl4seg.configs.supervised import SupervisedConfig


class UserFile(Config):
    """A file or folder of the user's: where it lies, which no key may know, and what it contains, which keys are."""

    path: str = Field(exclude=True, description="Where it is now.")
    digest: str = Field(description="sha256 of names and contents.")


@stage(CaseSet, title="import")
def import_dataset(
    ctx: StageContext, dataset: DatasetConfig, files: UserFile | None, preprocess: PreprocessConfig
) -> None:
    """Read a dataset once into a case store on the network's grid. ``dataset.path`` is null here: see ``files``."""
    from reward_data.case_store import CaseStore, import_cases
    from reward_data.readers import count_cases, read_cases

    located = dataset.model_copy(update={"path": files.path if files else None})
    import_cases(
        read_cases(located),
        count_cases(located),
        preprocess,
        dataset.labels,
        ctx.out / "cases.h5",
        ctx.progress,
    )
    with CaseStore(ctx.out / "cases.h5") as cases:
        ctx.record(cases=len(cases), labelled=int(cases.has_label.sum()))


@stage(Policy, title="source training")
def train_supervised(
    ctx: StageContext, config: SupervisedConfig, network: NetworkConfig, cases: CaseSet, seed: int
) -> None:
    """Supervised training on the labelled training cases of a store: the source policy, or the upper bound."""
    from reward_data.case_store import CaseStore
    from rl4seg.policies import spec_for
    from rl4seg.supervised import train_policy

    with CaseStore(ctx.path(cases) / "cases.h5") as store:
        chosen = store.indices("train", labelled=True)
        spec = spec_for(network, store)
        figures = train_policy(
            store, chosen, spec, config, seed, ctx.runtime(), ctx.out, ctx.checkpoint, ctx.progress
        )
    ctx.record(**figures)


@stage(Policy, title="load checkpoint")
def load_checkpoint(ctx: StageContext, checkpoint: UserFile, network: NetworkConfig, cases: CaseSet) -> None:
    """Take the user's own policy instead of training one."""
    from pathlib import Path

    from reward_data.case_store import CaseStore
    from rl4seg.policies import load_start, save_model, spec_for

    with CaseStore(ctx.path(cases) / "cases.h5") as store:
        save_model(load_start(Path(checkpoint.path), spec_for(network, store), ctx.runtime()), ctx.out)


@stage(ShapePriorRef, title="shape prior")
def fit_shape_prior(ctx: StageContext, components: int, cases: CaseSet) -> None:
    """Fit the PCA shape prior on the source's training masks."""
    from reward_data.case_store import CaseStore
    from reward_data.shape_prior import ShapePrior

    with CaseStore(ctx.path(cases) / "cases.h5") as store:
        masks = store.labels(store.indices("train", labelled=True))
        ShapePrior.fit(masks, store.num_classes, components).save(ctx.out / "shape_prior.npz")


@stage(Predictions, title="predict")
def predict_target(ctx: StageContext, policy: Policy, cases: CaseSet) -> None:
    """The policy's argmax masks on the target's training images."""
    from reward_data.case_store import CaseStore
    from rl4seg.policies import load_model
    from rl4seg.predict import predict

    runtime = ctx.runtime()
    with CaseStore(ctx.path(cases) / "cases.h5") as store:
        model = load_model(ctx.path(policy), runtime)
        predictions = predict(model, store, store.indices("train"), runtime, ctx.progress)
    predictions.save(ctx.out / "predictions.h5")
    ctx.record(images=len(predictions.indices), confidence=float(predictions.confidence.mean()))


@stage(RewardSet, title="synthesize")
def synthesize_rewards(
    ctx: StageContext,
    config: SynthesisConfig,
    predictions: Predictions,
    policy: Policy,
    cases: CaseSet,
    rules: RuleSet,
    prior: ShapePriorRef | None,
    seed: int,
) -> None:
    """Judge every prediction; make reward examples from accepted and corrected ones."""
    from reward_data.case_store import CaseStore
    from reward_data.shape_prior import ShapePrior
    from reward_data.synthesis import synthesize
    from rl4seg.policies import TorchSegmenter, load_model
    from rl4seg.predict import Predictions as Masks

    runtime = ctx.runtime()
    masks = Masks.load(ctx.path(predictions) / "predictions.h5")
    shapes = ShapePrior.load(ctx.path(prior) / "shape_prior.npz") if prior else None
    with CaseStore(ctx.path(cases) / "cases.h5") as store:
        segmenter = TorchSegmenter(load_model(ctx.path(policy), runtime), runtime)
        summary = synthesize(
            store, masks.indices, masks.masks, segmenter, rules, shapes, config, seed,
            ctx.out / "rewards.h5", ctx.checkpoint, ctx.progress,
        )  # fmt: skip
    (ctx.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    ctx.record(**{name: summary[name] for name in ("images", "valid", "accepted", "corrected")})


@stage(RewardNet, title="reward net")
def train_reward(
    ctx: StageContext,
    config: RewardNetConfig,
    reward_sets: tuple[RewardSet, ...],
    policy: Policy,
    source: CaseSet | None,
    class_names: tuple[str, ...],
    seed: int,
) -> None:
    """Train and calibrate the reward net on all reward datasets so far and on the policy's mistakes on worse images."""
    from contextlib import ExitStack

    from reward_data.case_store import CaseStore
    from reward_data.reward_store import RewardStore
    from rl4seg.degraded_examples import DegradedExamples
    from rl4seg.policies import load_model
    from rl4seg.reward_net import RewardExamples, train_reward_net

    runtime = ctx.runtime()
    with ExitStack() as stack:
        stores = [stack.enter_context(RewardStore(ctx.path(ref) / "rewards.h5")) for ref in reward_sets]
        labelled = stack.enter_context(CaseStore(ctx.path(source) / "cases.h5")) if source else None
        model = load_model(ctx.path(policy), runtime)
        degraded = DegradedExamples(model, stores[-1], labelled, config, seed, runtime)
        figures = train_reward_net(
            RewardExamples(stores), class_names, config, seed, runtime, ctx.out, ctx.checkpoint, ctx.progress, degraded,
        )  # fmt: skip
    ctx.record(**figures)


@stage(Policy, title="PPO")
def finetune_policy(
    ctx: StageContext,
    config: PPOConfig,
    policy: Policy,
    reward_net: RewardNet | None,
    reward_set: RewardSet,
    cases: CaseSet,
    source: CaseSet | None,
    rules: RuleSet,
    iteration: int,
    seed: int,
) -> None:
    """Fine-tune the policy on the unlabelled target images; ``source`` is replayed where the config asks for it."""
    from contextlib import ExitStack

    from reward_data.case_store import CaseStore
    from reward_data.reward_store import RewardStore
    from rl4seg.policies import load_model
    from rl4seg.ppo import finetune
    from rl4seg.reward_net import load_reward_model
    from rl4seg.runtime import derive_seed
    from rl4seg.target_data import target_data

    runtime = ctx.runtime()
    reward = load_reward_model(ctx.path(reward_net), runtime) if reward_net else None
    with ExitStack() as stack:
        store = stack.enter_context(CaseStore(ctx.path(cases) / "cases.h5"))
        rewards = stack.enter_context(RewardStore(ctx.path(reward_set) / "rewards.h5"))
        labelled = stack.enter_context(CaseStore(ctx.path(source) / "cases.h5")) if source else None
        data = target_data(store, rewards, labelled, config, derive_seed(seed, iteration), runtime)
        model = load_model(ctx.path(policy), runtime)
        figures = finetune(model, reward, data, rules, iteration, ctx.out, ctx.checkpoint, ctx.progress)
    ctx.record(**figures)


@stage(Evaluation, title="evaluate")
def evaluate_policy(
    ctx: StageContext,
    config: EvaluationConfig,
    policy: Policy,
    reference: Policy,
    reward_net: RewardNet | None,
    cases: CaseSet,
    rules: RuleSet,
    decision: Decision = ARGMAX,
    split: Split = "test",
) -> None:
    """Score a policy on held-out cases; see `rl4seg.evaluate.held_back` for which."""
    from reward_data.case_store import CaseStore
    from rl4seg.evaluate import Evaluator, evaluate, held_back
    from rl4seg.policies import load_model
    from rl4seg.reward_net import load_reward_model

    runtime = ctx.runtime()
    reward = load_reward_model(ctx.path(reward_net), runtime) if reward_net else None
    model, source = load_model(ctx.path(policy), runtime), load_model(ctx.path(reference), runtime)
    with CaseStore(ctx.path(cases) / "cases.h5") as store:
        evaluator = Evaluator(model, source, reward, rules, store, config, decision, runtime)
        evaluate(evaluator, held_back(store, split), ctx.out, ctx.progress)
