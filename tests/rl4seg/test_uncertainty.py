import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from reward_data.case_store import CaseStore, import_cases
from reward_data.errors import DataError
from reward_data.preprocess import PreprocessConfig
from rl4seg import confidence as names
from rl4seg.confidence import Judged, Panel, certainty, softmax_temperature
from rl4seg.configs.network import NetworkConfig
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.configs.uncertainty import UncertaintyConfig
from rl4seg.evaluate import held_out
from rl4seg.policies import Model, ModelSpec, new_model, spec_for
from rl4seg.reward_net import RewardModel
from rl4seg.runtime import start
from rl4seg.uncertainty import measure, missing_methods, pairs
from rl4seg.uncertainty_ledger import INFORMATION, SHOWN, Ledger, read_shown
from tests.rl4seg.conftest import LABELS, disc_case

RUNTIME = start(RuntimeConfig(device="cpu", threads=1, batch_size=4))
QUICK = UncertaintyConfig(augmentation_draws=2, dropout_passes=2, bootstrap_draws=100, shown_cases=2)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight labelled validation cases beside two training cases."""
    path = tmp_path_factory.mktemp("source") / "cases.h5"
    cases = [disc_case(40 + i, "val" if i < 8 else "train") for i in range(10)]
    import_cases(cases, len(cases), PreprocessConfig(shape=(32, 32)), LABELS, path)
    return path


def panel(store: CaseStore, config: UncertaintyConfig = QUICK) -> Panel:
    """A policy, a reward net and one more policy, all untrained but for a push towards the foreground."""
    network = NetworkConfig(features=(4, 4, 8, 8, 8, 4))
    policy, other = new_model(spec_for(network, store), 0), new_model(spec_for(network, store), 1)
    spec = ModelSpec(network=network, in_channels=4, class_names=("correct",), shape=store.shape)
    reward = RewardModel(new_model(spec, 2), 3, 1.5, RUNTIME)
    return Panel(policy, reward, [other], None, config, 0, RUNTIME)


def test_certainty_of_one_hot_and_of_equal_classes() -> None:
    assert certainty(torch.tensor([[1.0, 0, 0]]).reshape(1, 3, 1, 1)).item() == 1
    assert certainty(torch.full((1, 3, 1, 1), 1 / 3)).item() == pytest.approx(0, abs=1e-6)


def test_every_method_is_measured_and_files_agree(discs: Path, source: Path, tmp_path: Path) -> None:
    with CaseStore(discs) as store, CaseStore(source) as labelled:
        subject = panel(store)
        subject.temperature = softmax_temperature(subject.policy, labelled, RUNTIME)
        content = measure(subject, store, held_out(store), {}, tmp_path)
    rows = {method["name"]: method for method in content["methods"]}
    assert set(rows) == {
        names.REWARD_RAW, names.REWARD, names.PRODUCT, names.SOFTMAX, names.SOFTMAX_T,
        names.ENTROPY, names.ENTROPY_T, names.TTA, names.DROPOUT, names.ENSEMBLE,
        *(INFORMATION.format(name) for name in (names.TTA, names.DROPOUT, names.ENSEMBLE)),
    }  # fmt: skip
    assert content["cases"] == 5  # the sixth test case has no label
    assert json.loads((tmp_path / "uncertainty.json").read_text())["methods"] == content["methods"]
    table = list(csv.DictReader((tmp_path / "cases.csv").open()))
    assert [float(row["dice_mean"]) for row in table] == sorted(float(row["dice_mean"]) for row in table)
    shown = read_shown(tmp_path / "shown.h5")
    assert [case.case for case in shown] == [row["case"] for row in table[:2]]
    assert list(shown[0].errors) == list(SHOWN)
    assert shown[0].errors[names.SOFTMAX].max() <= 1
    assert set(json.loads((tmp_path / "seconds.json").read_text())) >= {"prediction", names.TTA}
    assert content["missing"] == []


def test_every_map_becomes_a_score_in_the_same_way(discs: Path) -> None:
    mask, sure = np.zeros((1, 32, 32), np.uint8), np.full((1, 32, 32), 0.9, np.float32)
    mask[0, 8:16, 8:16] = 1  # 64 pixels; reach round(.15 x 8) = 1: 36 pixels around
    sure[mask > 0] = 0.8
    told = np.where(mask > 0, 0.25 * np.log(3), 0.0)  # a quarter of the most that three classes can tell
    soft = np.eye(3, dtype=np.float32)[mask].transpose(0, 3, 1, 2)
    ledger = Ledger(20, 0)
    with CaseStore(discs) as store:
        ledger.add(store, 20, Judged(mask, soft, {names.SOFTMAX: sure}, {names.TTA: told}), 0)
    told_row = INFORMATION.format(names.TTA)
    # 1 - (64 x .2 + 36 x .1) / 128; 1 - 64 x .25 / 128; beside it the means over the mask
    assert ledger.scores == {
        names.SOFTMAX: [pytest.approx(0.871875)],
        told_row: [pytest.approx(0.875)],
    }
    assert ledger.means == {names.SOFTMAX: [pytest.approx(0.8)], told_row: [pytest.approx(0.75)]}


def test_the_same_seed_gives_the_same_bytes(discs: Path, tmp_path: Path) -> None:
    with CaseStore(discs) as store:
        for run in ("a", "b"):
            (tmp_path / run).mkdir()
            measure(panel(store), store, held_out(store), {}, tmp_path / run)
    for name in ("uncertainty.json", "cases.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


class Truthful(torch.nn.Module):
    """Reads the planted intensities with doubt: right nearly everywhere, and about as sure as it should be."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        centres = torch.tensor([20.0, 200.0, 110.0]).reshape(1, 3, 1, 1) / 255
        return -200 * (images - centres) ** 2


def test_a_policy_that_is_right_and_sure_is_calibrated(discs: Path, tmp_path: Path) -> None:
    with CaseStore(discs) as store:
        subject = panel(store)
        subject.policy = Model(subject.policy.spec, Truthful())  # type: ignore[arg-type]
        subject.config = QUICK.model_copy(update={"dropout_passes": 0})
        content = measure(subject, store, held_out(store), missing_methods(subject), tmp_path)
    softmax = next(m for m in content["methods"] if m["name"] == names.SOFTMAX)
    assert softmax["figures"]["ece"]["value"] < 0.06
    assert (content["bad_cases"], softmax["figures"]["auroc"]["value"]) == (0, None)
    assert {row["name"] for row in content["missing"]} == {
        names.DROPOUT,
        "softmax and entropy with temperature",
    }


def test_an_empty_mask_has_no_trust_and_no_labels_are_refused(discs: Path, tmp_path: Path) -> None:
    class Nothing(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.tensor([9.0, 0, 0]).reshape(1, 3, 1, 1) + 0 * images

    with CaseStore(discs) as store:
        subject = panel(store, QUICK.model_copy(update={"dropout_passes": 0}))
        subject.policy = Model(subject.policy.spec, Nothing())  # type: ignore[arg-type]
        content = measure(subject, store, held_out(store), {}, tmp_path)
        rows = list(csv.DictReader((tmp_path / "cases.csv").open()))
        assert {row[f"score {names.SOFTMAX}"] for row in rows} == {"0"}
        assert {row[f"score {INFORMATION.format(names.TTA)}"] for row in rows} == {"0"}
        softmax = next(m for m in content["methods"] if m["name"] == names.SOFTMAX)
        # region: the truth alone, all wrong with confidence e^9 / (e^9 + 2)
        assert softmax["figures"]["ece"]["value"] == pytest.approx(1 - 2 * np.exp(-9), abs=1e-4)
        assert softmax["figures"]["pearson"]["value"] is None
        with pytest.raises(DataError, match="none of the 1 held-out target cases has a label"):
            measure(subject, store, np.array([25]), {}, tmp_path)


def test_the_question_takes_the_better_calibrated_softmax() -> None:
    ece = {
        names.REWARD_RAW: 0.3,
        names.REWARD: 0.1,
        names.PRODUCT: 0.2,
        names.SOFTMAX: 0.4,
        names.SOFTMAX_T: 0.05,
    }
    values = {name: {"ece": value} for name, value in ece.items()}
    assert next(pairs(values)) == (names.REWARD, names.SOFTMAX_T)
    values[names.SOFTMAX]["ece"] = 0.01
    assert next(pairs(values)) == (names.REWARD, names.SOFTMAX)
    assert {b for _, b in pairs(values)} == {names.SOFTMAX, names.SOFTMAX_T, names.REWARD_RAW}
    del values[names.SOFTMAX_T]
    assert next(pairs(values)) == (names.REWARD, names.SOFTMAX)
    del values[names.REWARD]
    assert list(pairs(values)) == []


def test_the_softmax_temperature_is_that_of_labelled_validation_pixels_inside_the_mask(
    discs: Path, source: Path
) -> None:
    """A policy that calls disc and ring ring (class 2), logits (0, 0, 1), and the background background.

    With a share f of ring among the mask's pixels cross-entropy is least where softmax says f of class 2:
    e^(1/T) / (e^(1/T) + 2) = f, so T = 1 / log(2 f / (1 - f)). Here f is about .69 and T .67
    (a few noisy pixels are on the wrong side); with the background f would be .92 and T .32.
    """

    class Ring(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            inside = (images > 0.28).float()
            return torch.cat([1 - inside, torch.zeros_like(inside), inside], 1)

    with CaseStore(discs) as store, CaseStore(source) as labelled:
        policy = Model(panel(store).policy.spec, Ring())  # type: ignore[arg-type]
        found = softmax_temperature(policy, labelled, RUNTIME)
        truth = labelled.labels(labelled.indices("val"))
        f = (truth == 2).sum() / (truth > 0).sum()
        assert found is not None
        assert found.images == 8  # of ten, two are for training
        assert found.value == pytest.approx(1 / np.log(2 * f / (1 - f)), rel=0.01)
        assert softmax_temperature(policy, store, RUNTIME) is None  # no validation split
