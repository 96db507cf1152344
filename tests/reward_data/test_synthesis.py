"""Acceptance, pairing, replay, resuming to the same bytes, and a clear error when nothing is usable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter

from reward_data.anatomy import is_valid, load_rules, violations
from reward_data.case_store import CaseStore, import_cases
from reward_data.correction import Correction, agreement, agrees, apply_correction
from reward_data.distortions import Distortion, DistortionConfig, Swap, WeightNoise, replay
from reward_data.errors import DataError
from reward_data.mask_damage import Damage, damage_mask
from reward_data.phantom import PhantomConfig, phantom_case
from reward_data.preprocess import PreprocessConfig
from reward_data.reward_store import RewardStore
from reward_data.shape_prior import ShapePrior
from reward_data.synthesis import SynthesisConfig, synthesize
from reward_data.types import Case, Float32, LabelMap
from tests.reward_data.test_anatomy import ventricle
from tests.reward_data.test_shape_prior import PRIOR

RULES = load_rules("lv_myo")
COUNT = 14
LEVELS = np.array([0.0, 1.0, 0.5])  # grey value of background, lv, myo
CONFIG = SynthesisConfig(chunk=4, agreement=0.9)
KINDS = {
    "identity", "swap", "weight_noise", "contrast", "noise", "morph", "warp", "affine", "damage", "correction"
}  # fmt: skip


def case(index: int) -> Case:
    """A drawn ventricle whose classes are its grey values; two images per patient."""
    rng = np.random.default_rng([4, index])
    label = ventricle(64, rng)
    image = (255 * LEVELS[label] * rng.uniform(0.9, 1, label.shape)).astype(np.float32)[None]
    return Case(f"c{index:02d}", f"g{index // 2}", "target", None, image, label, (1.0, 1.0), np.eye(4))


class NearestLevel:
    """Class of the nearest grey value. Keeps count of what it was asked; noise in the weights moves the levels."""

    num_classes = 3

    def __init__(self, levels: np.ndarray = LEVELS, log: list[str] | None = None) -> None:
        self.levels = levels
        self.log: list[str] = [] if log is None else log

    def probabilities(self, images: Float32) -> Float32:
        self.log.append("clean" if self.levels is LEVELS else "noisy")
        distance = np.abs(images[:, 0, None] - self.levels[:, None, None])
        weights = np.exp(-10 * distance)
        return (weights / weights.sum(1, keepdims=True)).astype(np.float32)

    def perturbed(self, sigma: float, seed: int) -> NearestLevel:
        self.log.append("perturbed")
        return NearestLevel(LEVELS + 10 * sigma * np.random.default_rng(seed).standard_normal(3), self.log)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CaseStore]:
    path = tmp_path_factory.mktemp("cases") / "cases.h5"
    config = PreprocessConfig(shape=(64, 64), aspect="pixels")
    import_cases((case(index) for index in range(COUNT)), COUNT, config, LabelMap(), path)
    with CaseStore(path) as opened:
        yield opened


def predictions(store: CaseStore) -> np.ndarray:
    """The labels; 3 and 10 upside down (hopeless), 5 with an island and 6 with a hole (to be corrected)."""
    masks = store.labels(np.arange(COUNT))
    masks[3], masks[10] = masks[3][::-1], masks[10][::-1]
    masks[5] = damage_mask(Damage(what="island", size=0.2, seed=1), masks[5])
    masks[6] = damage_mask(Damage(what="hole", size=0.2, seed=1), masks[6])
    return masks


def run(store: CaseStore, folder: Path, config: SynthesisConfig = CONFIG, **changes):  # type: ignore[no-untyped-def]
    given = {
        "indices": np.arange(COUNT), "masks": predictions(store), "segmenter": NearestLevel(), "rules": RULES,
        "prior": PRIOR, "config": config, "seed": 7, "out": folder / "rewards.h5", "checkpoint": folder / "parts",
    }  # fmt: skip
    return synthesize(store, **(given | changes))


def test_acceptance_is_validity_and_agreement(store: CaseStore, tmp_path: Path) -> None:
    summary = run(store, tmp_path)
    masks = predictions(store)
    valid = np.array([is_valid(mask, RULES, (1.0, 1.0)) for mask in masks])
    agreed = np.array([agrees(mask, PRIOR, 0.9) for mask in masks])
    assert valid.tolist() == [i not in (3, 5, 6, 10) for i in range(COUNT)]
    with RewardStore(tmp_path / "rewards.h5") as rewards:
        anchors = [rewards.case_ids[i] for i in rewards.anchors()]
        assert anchors == [store.ids[i] for i in np.flatnonzero(valid & agreed)]
        assert {"c05", "c06"} <= set(rewards.case_ids)
        assert not {"c03", "c10"} & set(rewards.case_ids)
        assert summary["images"] == COUNT
        assert summary["valid"] == pytest.approx(valid.mean())
        assert summary["agreed"] == pytest.approx(agreed.mean())
        assert summary["accepted"] == pytest.approx((valid & agreed).mean())
        assert summary["corrected"] == pytest.approx((len(rewards.case_ids) - len(anchors)) / COUNT)
        assert sum(summary["examples"].values()) == len(rewards)
        assert summary["examples"]["weight_noise"] == 4 * len(anchors)
        assert summary["mean_error"]["identity"] == 0 < summary["mean_error"]["swap"]
    broken = [{item.rule for item in violations(mask, RULES, (1.0, 1.0))} for mask in masks]
    for rule in set().union(*broken):
        assert summary["violated"].pop(rule) == pytest.approx(sum(rule in found for found in broken) / COUNT)
    assert not summary["violated"]


def test_a_valid_mask_that_disagrees_with_the_prior_is_not_accepted(store: CaseStore, tmp_path: Path) -> None:
    masks = predictions(store)
    scores = [agreement(mask, PRIOR.reconstruct(mask), 3).min() for mask in masks]
    valid = [is_valid(mask, RULES, (1.0, 1.0)) for mask in masks]
    middle = float(np.median([score for score, ok in zip(scores, valid) if ok]))
    summary = run(store, tmp_path, CONFIG.model_copy(update={"agreement": middle}))
    accepted = sum(ok and score > middle for score, ok in zip(scores, valid))
    assert 0 < accepted < sum(valid)
    assert summary["accepted"] == pytest.approx(accepted / COUNT)
    assert summary["valid"] == pytest.approx(sum(valid) / COUNT)


def test_every_example_replays_exactly(store: CaseStore, tmp_path: Path) -> None:
    summary = run(store, tmp_path)
    assert set(summary["examples"]) == KINDS  # none is left untested
    masks = dict(zip(store.ids, predictions(store), strict=True))
    images = dict(zip(store.ids, store.images(np.arange(COUNT)), strict=True))
    with RewardStore(tmp_path / "rewards.h5") as rewards:
        for example in range(len(rewards)):
            image = rewards.image_index[example : example + 1]
            name, truth = rewards.case_ids[int(image[0])], rewards.truths(image)[0]
            proposed, record = rewards.proposed(np.array([example]))[0], rewards.provenance(example)
            if isinstance(record, Correction):
                assert np.array_equal(proposed, masks[name])
                assert np.array_equal(truth, apply_correction(record, proposed, PRIOR))
                continue
            assert np.array_equal(truth, masks[name])
            assert not isinstance(record, Swap) or record.other_id != name
            again = TypeAdapter(Distortion).validate_json(record.model_dump_json())
            assert np.array_equal(
                proposed, replay(again, truth, images[name], masks.__getitem__, NearestLevel())
            )


def test_policies_are_perturbed_once_and_image_noise_asks_the_clean_one(
    store: CaseStore, tmp_path: Path
) -> None:
    segmenter = NearestLevel()
    run(store, tmp_path, segmenter=segmenter)
    assert segmenter.log.count("perturbed") == 4
    # four chunks with accepted images: 4 noisy policies each; at most 16 distorted images each, 4 at a time
    assert segmenter.log.count("noisy") == 16
    assert segmenter.log.count("clean") <= 16


def test_a_patient_is_on_one_side(store: CaseStore, tmp_path: Path) -> None:
    run(store, tmp_path)
    with RewardStore(tmp_path / "rewards.h5") as rewards:
        sides: dict[str, set[str]] = {}
        for name, split in zip(rewards.case_ids, rewards.image_splits):
            sides.setdefault(store.groups[store.ids.index(name)], set()).add(split)
    assert all(len(found) == 1 for found in sides.values())
    assert {"train"} in sides.values()
    assert {"val"} in sides.values()


class Killed(Exception):
    pass


@pytest.mark.parametrize("after", [1, 2, 4])
def test_interrupted_and_resumed_gives_the_same_bytes(store: CaseStore, tmp_path: Path, after: int) -> None:
    undisturbed = run(store, tmp_path / "whole")
    parts = 0

    def kill(done: int, total: int, metrics: Mapping[str, float] | None = None) -> None:
        nonlocal parts
        parts += done > total / 2
        if parts == after:
            raise Killed

    with pytest.raises(Killed):
        run(store, tmp_path / "cut", progress=kill)
    assert not (tmp_path / "cut" / "rewards.h5").exists()
    finished = sorted((tmp_path / "cut" / "parts").glob("part-*.h5"))
    assert len(finished) == after
    ages = [part.stat().st_mtime_ns for part in finished]
    assert run(store, tmp_path / "cut") == undisturbed
    assert [part.stat().st_mtime_ns for part in finished] == ages  # kept, not made again
    rewards = [(tmp_path / name / "rewards.h5").read_bytes() for name in ("whole", "cut")]
    assert rewards[0] == rewards[1]


def test_parts_of_other_inputs_or_broken_ones_are_not_used(store: CaseStore, tmp_path: Path) -> None:
    expected = tmp_path / "expected"
    run(store, expected)
    run(store, tmp_path, seed=8)
    assert (tmp_path / "rewards.h5").read_bytes() != (expected / "rewards.h5").read_bytes()
    run(store, tmp_path)
    assert (tmp_path / "rewards.h5").read_bytes() == (expected / "rewards.h5").read_bytes()
    (tmp_path / "parts" / "part-00001.h5").write_bytes(b"cut short")
    run(store, tmp_path)
    assert (tmp_path / "rewards.h5").read_bytes() == (expected / "rewards.h5").read_bytes()


def test_examples_depend_on_neither_chunks_nor_order(store: CaseStore, tmp_path: Path) -> None:
    def content(folder: Path) -> dict[str, tuple[str, bytes]]:
        with RewardStore(folder / "rewards.h5") as rewards:
            everything = rewards.proposed(np.arange(len(rewards)))
            return {
                name: (rewards.provenance(n).model_dump_json(), everything[n].tobytes())
                for n, name in enumerate(rewards.ids)
            }

    run(store, tmp_path / "a")
    run(store, tmp_path / "b", CONFIG.model_copy(update={"chunk": 100}))
    order = np.arange(COUNT)[::-1]
    run(store, tmp_path / "c", indices=order, masks=predictions(store)[order])
    assert content(tmp_path / "a") == content(tmp_path / "b") == content(tmp_path / "c")


def test_switches(store: CaseStore, tmp_path: Path) -> None:
    off = {name: {"enabled": False} for name in DistortionConfig.model_fields if name != "swap"}
    config = SynthesisConfig(
        chunk=5, agreement=0, corrections=False, distortions=DistortionConfig.model_validate(off)
    )
    summary = run(store, tmp_path, config, prior=None)
    assert summary["examples"] == {"swap": COUNT - 4}
    assert summary["agreed"] == 1
    assert summary["corrected"] == 0
    anchored = CONFIG.model_copy(update={"anchor_corrections": True})
    run(store, tmp_path / "anchored", anchored)
    with RewardStore(tmp_path / "anchored" / "rewards.h5") as rewards:
        assert len(rewards.anchors()) == len(rewards.case_ids)


def test_nothing_usable_says_why(store: CaseStore, tmp_path: Path) -> None:
    masks = store.labels(np.arange(COUNT))[:, ::-1]
    with pytest.raises(
        DataError, match=r"none of 14 predictions .* rules broken most: .*14 of 14.*rl4seg anatomy"
    ):
        run(store, tmp_path, masks=masks)
    assert not (tmp_path / "rewards.h5").exists()
    with pytest.raises(DataError, match="none of 14"):
        run(store, tmp_path, masks=np.zeros_like(masks))


def test_masks_that_do_not_fit_the_store(store: CaseStore, tmp_path: Path) -> None:
    for masks in (np.zeros((3, 64, 64), np.uint8), np.zeros((COUNT, 32, 64), np.uint8)):
        with pytest.raises(DataError, match="one mask per case"):
            run(store, tmp_path, masks=masks)


def test_phantom_cases_through_the_real_chain(tmp_path: Path) -> None:
    """Imported phantom cases, a prior of their labels, the labels as predictions: most are accepted."""
    config, count = PhantomConfig(cases=16, domain="target", seed=3), 16
    preprocess = PreprocessConfig(shape=(64, 64))
    cases = (phantom_case(config, index) for index in range(count))
    import_cases(cases, count, preprocess, LabelMap(), tmp_path / "cases.h5")
    with CaseStore(tmp_path / "cases.h5") as store:
        masks = store.labels(np.arange(count))
        prior = ShapePrior.fit(masks, store.num_classes)
        summary = run(
            store, tmp_path, SynthesisConfig(chunk=8), indices=np.arange(count), masks=masks, prior=prior
        )
    assert summary["accepted"] >= 0.8
    with RewardStore(tmp_path / "rewards.h5") as rewards:
        sigmas = {r.sigma for r in map(rewards.provenance, range(len(rewards))) if isinstance(r, WeightNoise)}
        assert sigmas == {0.005, 0.01, 0.015, 0.02}


def splits(path: Path) -> dict[str, str]:
    with RewardStore(path) as rewards:
        return dict(zip(rewards.case_ids, rewards.image_splits))


def test_the_validation_patients_do_not_depend_on_what_is_accepted(store: CaseStore, tmp_path: Path) -> None:
    """Cases that a better policy adds in a later iteration must not move a patient to the other side."""
    masks = store.labels(np.arange(COUNT))
    run(store, tmp_path / "all", masks=masks, prior=None)
    every = splits(tmp_path / "all" / "rewards.h5")
    assert len(every) == COUNT
    # seven patients at .2: round(1.4) = 1 of them, with its two images
    assert sorted(every.values()).count("val") == 2
    for number, empty in enumerate((range(0, COUNT, 2), range(5), range(9, COUNT))):
        fewer, folder = masks.copy(), tmp_path / str(number)
        fewer[list(empty)] = 0  # neither accepted nor, without a prior, corrected
        run(store, folder, masks=fewer, prior=None)
        found = splits(folder / "rewards.h5")
        assert set(found) == {store.ids[i] for i in range(COUNT) if i not in empty}
        assert found == {name: every[name] for name in found}
    run(store, tmp_path / "seed", masks=masks, prior=None, seed=8)
    assert splits(tmp_path / "seed" / "rewards.h5") == every


@pytest.mark.parametrize(
    ("family", "kinds"),
    [
        ("identity", {"identity"}),
        ("swap", {"swap"}),
        ("model", {"weight_noise"}),
        ("image", {"contrast", "noise"}),
        ("morphology", {"morph"}),
        ("warp", {"warp", "affine"}),
        ("damage", {"damage"}),
        (None, {"correction"}),
    ],
)
def test_a_switch_takes_its_own_kinds_away(
    store: CaseStore, tmp_path: Path, family: str | None, kinds: set[str]
) -> None:
    off = DistortionConfig.model_validate({family: {"enabled": False}} if family else {})
    config = CONFIG.model_copy(update={"distortions": off, "corrections": family is not None})
    assert set(run(store, tmp_path, config)["examples"]) == KINDS - kinds


class Forgetful:
    """A prior that reproduces every class but one, of which it sees nothing."""

    num_classes = 3
    mean = components = deviations = np.zeros(1, np.float32)

    def __init__(self, forgotten: int) -> None:
        self.forgotten = forgotten

    def reconstruct(self, mask: np.ndarray) -> np.ndarray:
        return np.where(mask == self.forgotten, 0, mask).astype(np.uint8)


@pytest.mark.parametrize("forgotten", [1, 2])
def test_every_class_has_to_agree_with_the_prior(store: CaseStore, tmp_path: Path, forgotten: int) -> None:
    masks = store.labels(np.arange(COUNT))
    config = CONFIG.model_copy(update={"corrections": False})
    with pytest.raises(DataError, match="no mask agrees with the shape prior"):
        run(store, tmp_path / "forgets", config, masks=masks, prior=Forgetful(forgotten))
    assert run(store, tmp_path / "knows", config, masks=masks, prior=Forgetful(3))["accepted"] == 1


def test_the_most_broken_rules_are_named_first(store: CaseStore, tmp_path: Path) -> None:
    """Without any foreground both classes are missing; 4 of 14 masks keep the LV, so that one is missing less often."""
    masks = np.zeros((COUNT, 64, 64), np.uint8)
    masks[:4] = np.where(store.labels(np.arange(4)) == 1, 1, 0)
    with pytest.raises(
        DataError, match=r"broken most: present\(myo\) \(14 of 14\), present\(lv\) \(10 of 14\)"
    ):
        run(store, tmp_path, masks=masks, prior=None)


def test_a_case_that_is_predicted_twice_is_refused(store: CaseStore, tmp_path: Path) -> None:
    masks = store.labels(np.arange(COUNT))
    with pytest.raises(DataError, match="'c00' is in the reward dataset already"):
        run(store, tmp_path, indices=np.array([0, 1, 0]), masks=masks[[0, 1, 0]])
    assert not (tmp_path / "rewards.h5").exists()
