"""PatchDrop as a flow: learn when and where to look at high resolution.

Read it from the bottom: `patchdrop` is the whole story,

    import -> low and high classifier -> Pt -> Ft-1 -> Ft-2 -> evaluate, with rivals at equal patches -> time -> report

Every call below is a cached stage: run the flow a second time and each one answers from the artifact store.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from flows import patchdrop_config
from flows.config_loader import dump_config
from flows.handing_out import publish_report
from flows.patchdrop_config import PatchDropConfig, checkpoint_file
from flows.patchdrop_tasks import (
    DropModelRef,
    DropRecord,
    DropReport,
    ImageSet,
    Timing,
    evaluate_drop,
    finetune_policy,
    finetune_rival,
    import_labelled_images,
    load_image_classifier,
    pretrain_policy,
    time_drop,
    train_image_classifier,
    write_drop_report,
)
from flows.prefect_settings import flow
from flows.preflight import user_checkpoint
from flows.restart import restarted_from
from flows.run_environment import run_environment
from flows.stages import current_environment
from flows.tasks import UserFile
from reward_data.labelled_images import input_files
from rl4seg.configs.patchdrop import MODEL_FOLDER, Chooser

LOW, HIGH, BOTH = "LR alone", "HR alone", "HR + LR, all patches"
PT, FT1, FT2 = "Pt", "Ft-1", "Ft-2"


def image_set(config: PatchDropConfig) -> ImageSet:
    """The labelled images, decoded once."""
    images = config.images
    digests = {path: digest_of(path) for path in (images.train, images.test) if path is not None}
    files = {path: UserFile(path=path, digest=digest) for path, digest in digests.items()}
    bare = images.model_copy(update={"train": None, "test": None})
    return import_labelled_images.named("import")(
        bare, files.get(images.train or ""), files.get(images.test or "")
    )


def digest_of(path: str) -> str:
    """Digest of a listing and of all that it names: a file or folder; of a CSV also the images of its rows."""
    return current_environment().store.digest_inputs(path, input_files(path))


@dataclass
class SeedOfDrop:
    """What one seed of a run does, and the records that it has made so far."""

    config: PatchDropConfig
    images: ImageSet
    seed: int
    records: list[DropRecord] = field(default_factory=list)

    @property
    def prefix(self) -> str:
        """Where there are several seeds, labels say which."""
        return f"seed {self.seed} · " if len(self.config.all_seeds()) > 1 else ""

    def classifier(self, part: Literal["high", "low"]) -> DropModelRef:
        """The user's classifier, or one that is trained."""
        config, network = self.config, getattr(self.config.networks, part)
        given, label = getattr(config.checkpoints, part), {"high": "HR", "low": "LR"}[part]
        if given is not None:
            file = user_checkpoint(str(checkpoint_file(given, part)))
            return load_image_classifier.named(f"{label} · load")(
                part, network, file, config.grid, config.low_size, self.images
            )
        training = config.high_training if part == "high" else config.low_training
        return train_image_classifier.named(f"{self.prefix}{label} · train")(
            part, network, training, config.grid, config.low_size, self.images, self.seed
        )

    def measure(
        self,
        arm: str,
        model: DropModelRef,
        chooser: Chooser = "policy",
        trained: bool = False,
        counts_of: DropModelRef | None = None,
        low: DropModelRef | None = None,
    ) -> None:
        """Evaluate one arm and keep its record."""
        penalty = self.config.pretraining.penalty
        evaluation = evaluate_drop.named(f"{self.prefix}{arm} · evaluate")(
            model, low, chooser, counts_of, penalty, self.images, self.seed
        )
        self.records.append(
            DropRecord(arm=arm, seed=self.seed, model=model, evaluation=evaluation, trained=trained)
        )

    def rival(
        self,
        stage: str,
        chooser: Chooser,
        start: DropModelRef,
        low: DropModelRef | None,
        policy: DropModelRef,
    ) -> DropModelRef:
        """The classifier fine-tuned as in ``stage``, on as many patches as ``policy`` keeps, chosen blindly."""
        settings = self.config.finetuning if stage == FT1 else self.config.two_streams
        assert settings is not None
        model = finetune_rival.named(f"{self.prefix}{stage} · {chooser} · train")(
            settings, chooser, start, low, policy, self.images, self.seed
        )
        self.measure(f"{stage} · {chooser}", model, chooser, counts_of=policy)
        return model


def drop_arms(config: PatchDropConfig, images: ImageSet, seed: int) -> tuple[list[DropRecord], Timing | None]:
    """Every arm of one seed, evaluated, and the times per image."""
    run = SeedOfDrop(config, images, seed)
    blind: list[Chooser] = [name for name in ("random", "centre", "frequent") if getattr(config.rivals, name)]
    trained = [name for name in blind if name != "frequent"] if config.rivals.trained else []

    # The two classifiers, each by itself.
    low, high = run.classifier("low"), run.classifier("high")
    run.measure(LOW, low, "none", trained=config.checkpoints.low is None)
    run.measure(HIGH, high, "all", trained=config.checkpoints.high is None)
    run.measure(BOTH, high, "all", low=low)

    # Pt: the policy alone learns. Its rivals keep as many patches of the same images for the same classifier.
    given = config.checkpoints.policy
    start = user_checkpoint(str(checkpoint_file(given, "policy"))) if given else None
    policy = pretrain_policy.named(f"{run.prefix}{PT}")(
        config.networks.policy, start, config.pretraining, high, images, seed
    )
    run.measure(PT, policy, trained=True)
    for chooser in blind:
        run.measure(f"{PT} · {chooser}", policy, chooser)
    skipped, rivals = {PT: policy}, dict.fromkeys(trained, high)

    # Ft-1: the classifier learns as well; so do the classifiers of its rivals, on their own patches.
    if config.finetuning is not None:
        policy = finetune_policy.named(f"{run.prefix}{FT1}")(config.finetuning, policy, None, images, seed)
        run.measure(FT1, policy, trained=True)
        rivals = {name: run.rival(FT1, name, start, None, policy) for name, start in rivals.items()}
        skipped[FT1] = policy

    # Ft-2: from there on with the low-resolution classifier's logits added.
    if config.two_streams is not None:
        policy = finetune_policy.named(f"{run.prefix}{FT2}")(config.two_streams, policy, low, images, seed)
        run.measure(FT2, policy, trained=True)
        for name, begun in rivals.items():
            run.rival(FT2, name, begun, low, policy)
        skipped[FT2] = policy

    if config.latency is None:
        return run.records, None
    timing = time_drop.named(f"{run.prefix}time per image")
    return run.records, timing(config.latency, {LOW: low, HIGH: high}, skipped, images)


def drop(config: PatchDropConfig) -> DropReport:
    """Every stage of a run, from the images to the report; the model of the first seed's last stage is handed out."""
    images = image_set(config)
    found = [drop_arms(config, images, seed) for seed in config.all_seeds()]
    records = tuple(record for part, _ in found for record in part)
    timings = tuple(timing for _, timing in found if timing is not None)
    report = write_drop_report.named("report")(config.name, dump_config(config), records, timings, images)
    last = [record for record in found[0][0] if record.arm in (PT, FT1, FT2)][-1]
    publish_report(report)
    publish_model(last.model)
    return report


def publish_model(model: DropModelRef) -> None:
    """Copy the last policy with its classifiers into the run folder, if there is one."""
    here = current_environment()
    if here.plan is None and here.run_folder is not None:
        here.run_folder.publish(here.store.path(model), MODEL_FOLDER)


@flow(
    name="patchdrop",
    flow_run_name="patchdrop {config.name}",
    persist_result=False,
    validate_parameters=True,
)
def patchdrop(config: PatchDropConfig, restart_from: str | None = None) -> DropReport:
    """Learn which patches to see at high resolution, and compare with rivals at equal patches.

    Args:
        config: What to run.
        restart_from: A stage that runs anew with all that follow from it, e.g. Ft-1; empty = none.
    """
    with run_environment(config):
        patchdrop_config.check(config)
        with restarted_from(restart_from, drop, config):
            return drop(config)
