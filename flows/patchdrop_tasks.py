"""The stages of PatchDrop: open the inputs, make one call into the core, leave the outputs in ``ctx.out``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from flows.stages import StageContext, stage
from flows.store import ArtifactRef, Evaluation
from flows.tasks import UserFile
from reward_data.labelled_images import LabelledImagesConfig
from reward_data.types import Config
from rl4seg.configs.patchdrop import (
    Chooser,
    ClassifierTrainingConfig,
    KeepNetConfig,
    KeepTrainingConfig,
    LatencyConfig,
    ResNetConfig,
)

if TYPE_CHECKING:
    from rl4seg.patchdrop.models import DropModel


class ImageSet(ArtifactRef):
    """Labelled images, decoded."""

    kind: Literal["ImageSet"] = "ImageSet"


class DropModelRef(ArtifactRef):
    """A PatchDrop model: policy and classifiers, as far as there are."""

    kind: Literal["DropModelRef"] = "DropModelRef"


class Timing(ArtifactRef):
    """Seconds per image, as measured once."""

    kind: Literal["Timing"] = "Timing"


class DropReport(ArtifactRef):
    """What a run of PatchDrop has found: its page, its figures and its tables."""

    kind: Literal["DropReport"] = "DropReport"


class DropRecord(Config):
    """One arm of one seed: its model and how good it is."""

    arm: str = Field(description="Which arm.")
    seed: int = Field(description="Which seed.")
    model: DropModelRef = Field(description="The model.")
    evaluation: Evaluation = Field(description="Its figures on the held-out images.")
    trained: bool = Field(
        description="Whether the arm has a training of its own, so that its model has a history."
    )


@stage(ImageSet, title="import")
def import_labelled_images(
    ctx: StageContext, images: LabelledImagesConfig, train: UserFile | None, test: UserFile | None
) -> None:
    """Decode labelled images once. The paths of ``images`` are null here: see ``train`` and ``test``."""
    from reward_data.image_store import ImageStore, import_images

    paths = {"train": train and train.path, "test": test and test.path}
    import_images(images.model_copy(update=paths), ctx.out, ctx.progress)
    store = ImageStore(ctx.out)
    ctx.record(train=len(store.train), test=len(store.test), classes=len(store.class_names))


@stage(DropModelRef, title="classifier")
def train_image_classifier(
    ctx: StageContext,
    part: Literal["high", "low"],
    network: ResNetConfig,
    config: ClassifierTrainingConfig,
    grid: tuple[int, ...],
    low_size: tuple[int, ...],
    images: ImageSet,
    seed: int,
) -> None:
    """Train the high- or the low-resolution classifier."""
    from reward_data.image_store import ImageStore
    from rl4seg.patchdrop.classification import train_classifier
    from rl4seg.patchdrop.models import DropModel, spec_of

    store = ImageStore(ctx.path(images))
    model = DropModel(spec_of(store, low_size, grid)).with_part(part, network, seed)
    figures = train_classifier(
        model, part, store, config, seed, ctx.runtime(), ctx.out, ctx.checkpoint, ctx.progress
    )
    ctx.record(**figures)


@stage(DropModelRef, title="load classifier")
def load_image_classifier(
    ctx: StageContext,
    part: Literal["high", "low"],
    network: ResNetConfig,
    file: UserFile,
    grid: tuple[int, ...],
    low_size: tuple[int, ...],
    images: ImageSet,
) -> None:
    """Take the user's own classifier instead of training one."""
    from pathlib import Path

    from reward_data.image_store import ImageStore
    from rl4seg.patchdrop.models import FITS, DropModel, save_drop_model, spec_of
    from rl4seg.weights import load_weights

    model = DropModel(spec_of(ImageStore(ctx.path(images)), low_size, grid)).with_part(part, network, 0)
    load_weights(model.parts()[part], Path(file.path), FITS)
    save_drop_model(model, ctx.out)


@stage(DropModelRef, title="Pt")
def pretrain_policy(
    ctx: StageContext,
    policy: KeepNetConfig,
    start: UserFile | None,
    config: KeepTrainingConfig,
    high: DropModelRef,
    images: ImageSet,
    seed: int,
) -> None:
    """Pt: train the policy, the high-resolution classifier frozen."""
    from pathlib import Path

    from rl4seg.patchdrop.models import FITS, load_drop_model
    from rl4seg.weights import load_weights

    runtime = ctx.runtime()
    model = load_drop_model(ctx.path(high), runtime).with_part("policy", policy, seed)
    if start is not None:
        load_weights(model.parts()["policy"], Path(start.path), FITS)
    _train(ctx, model, False, images, config, seed)


def _train(
    ctx: StageContext, model: DropModel, learns: bool, images: ImageSet, config: KeepTrainingConfig, seed: int
) -> None:
    """Train the policy of ``model``, with ``learns`` its classifier too."""
    from reward_data.image_store import ImageStore
    from rl4seg.patchdrop.classification import train_policy

    store = ImageStore(ctx.path(images))
    figures = train_policy(
        model, learns, store, config, seed, ctx.runtime(), ctx.out, ctx.checkpoint, ctx.progress
    )
    ctx.record(**figures)


@stage(DropModelRef, title="Ft")
def finetune_policy(
    ctx: StageContext,
    config: KeepTrainingConfig,
    start: DropModelRef,
    low: DropModelRef | None,
    images: ImageSet,
    seed: int,
) -> None:
    """Ft-1: train policy and high-resolution classifier; with ``low`` Ft-2: that classifier's logits are added."""
    from rl4seg.patchdrop.models import load_drop_model

    runtime = ctx.runtime()
    model = load_drop_model(ctx.path(start), runtime)
    if low is not None:
        model = model.joined(load_drop_model(ctx.path(low), runtime), two_streams=True)
    _train(ctx, model, True, images, config, seed)


@stage(DropModelRef, title="rival")
def finetune_rival(
    ctx: StageContext,
    config: KeepTrainingConfig,
    chooser: Chooser,
    start: DropModelRef,
    low: DropModelRef | None,
    counts_of: DropModelRef,
    images: ImageSet,
    seed: int,
) -> None:
    """The same fine-tuning of the classifier on patches chosen without looking, as many as a policy keeps."""
    import numpy as np

    from reward_data.image_store import ImageStore, spread
    from rl4seg.patchdrop.choosers import fixed_order
    from rl4seg.patchdrop.classification import train_rival
    from rl4seg.patchdrop.evaluation import policy_keep
    from rl4seg.patchdrop.models import DropModel, load_drop_model

    runtime, store = ctx.runtime(), ImageStore(ctx.path(images))
    loaded = load_drop_model(ctx.path(start), runtime)
    model = DropModel(loaded.spec.model_copy(update={"policy": None}), loaded.high, loaded.low)
    if low is not None:
        model = model.joined(load_drop_model(ctx.path(low), runtime), two_streams=True)
    keep = policy_keep(
        load_drop_model(ctx.path(counts_of), runtime), store, spread(store.train, 4000), runtime
    )
    counts, order = keep.sum(1).numpy().astype(np.int64), fixed_order(chooser, loaded.spec.grid, keep)
    figures = train_rival(
        model, counts, chooser, order, store, config, seed, runtime, ctx.out, ctx.checkpoint, ctx.progress
    )
    ctx.record(**figures)


@stage(Evaluation, title="evaluate")
def evaluate_drop(
    ctx: StageContext,
    model: DropModelRef,
    low: DropModelRef | None,
    chooser: Chooser,
    counts_of: DropModelRef | None,
    penalty: float,
    images: ImageSet,
    seed: int,
) -> None:
    """Measure a model on the held-out images; ``counts_of``: whose policy says how many patches a blind chooser has."""
    from reward_data.image_store import ImageStore
    from rl4seg.patchdrop.evaluation import ArmEvaluator, evaluate_arm
    from rl4seg.patchdrop.models import load_drop_model

    runtime = ctx.runtime()
    loaded = load_drop_model(ctx.path(model), runtime)
    if low is not None:
        loaded = loaded.joined(load_drop_model(ctx.path(low), runtime), two_streams=True)
    counts = None if counts_of is None else load_drop_model(ctx.path(counts_of), runtime)
    evaluator = ArmEvaluator(loaded, chooser, counts, ImageStore(ctx.path(images)), seed, runtime)
    ctx.record(**evaluate_arm(evaluator, penalty, ctx.out, ctx.progress))


@stage(Timing, title="time per image")
def time_drop(
    ctx: StageContext,
    config: LatencyConfig,
    whole: dict[str, DropModelRef],
    skipped: dict[str, DropModelRef],
    images: ImageSet,
) -> None:
    """Measure the time per image of classifiers alone and of policies that skip patches; writes ``latency.json``."""
    import json

    from reward_data.image_store import ImageStore
    from rl4seg.patchdrop.latency import TimedArm, measured, skipped_answer, whole_answer
    from rl4seg.patchdrop.models import load_drop_model

    runtime = ctx.runtime()
    models = {name: load_drop_model(ctx.path(ref), runtime) for name, ref in (whole | skipped).items()}
    arms = [TimedArm(name, whole_answer(models[name])) for name in whole]
    arms += [TimedArm(name, skipped_answer(models[name])) for name in skipped]
    found = measured(arms, ImageStore(ctx.path(images)), config, runtime)
    (ctx.out / "latency.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


@stage(DropReport, title="report")
def write_drop_report(
    ctx: StageContext,
    run_name: str,
    config_yaml: str,
    records: tuple[DropRecord, ...],
    timings: tuple[Timing, ...],
    images: ImageSet,
) -> None:
    """Write ``report.html``, ``patchdrop.json``, ``arms.csv``, ``images.csv`` and ``history.csv``."""
    from flows.reporting.patchdrop import ArmFolder, collect, write
    from reward_data.image_store import ImageStore

    folders = [
        ArmFolder(r.arm, r.seed, ctx.path(r.evaluation), ctx.path(r.model) if r.trained else None)
        for r in records
    ]
    content = collect(run_name, config_yaml, folders, [ctx.path(timing) for timing in timings])
    write(content, folders, ImageStore(ctx.path(images)), ctx.out)
    ctx.record(**{f"accuracy_{row.arm}": row.figures["accuracy"].mean for row in content.rows})
