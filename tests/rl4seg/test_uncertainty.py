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
from rl4seg.confidence import Panel, certainty
from rl4seg.configs.network import NetworkConfig
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.configs.uncertainty import UncertaintyConfig
from rl4seg.evaluate import held_out
from rl4seg.fit_source_maps import fit_source_maps
from rl4seg.policies import Model, ModelSpec, new_model, spec_for
from rl4seg.reward_net import RewardModel
from rl4seg.runtime import start
from rl4seg.uncertainty import INFORMATION, measure, missing_methods, read_shown
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
        subject.maps = fit_source_maps(subject, labelled, store)
        content = measure(subject, store, held_out(store), {}, tmp_path)
    rows = {method["name"]: method for method in content["methods"]}
    assert set(rows) == {
        names.REWARD_RAW, names.REWARD, names.REWARD_MAP, names.PRODUCT, names.SOFTMAX, names.SOFTMAX_T,
        names.SOFTMAX_MAP,
        names.ENTROPY, names.ENTROPY_T, names.BOTH_MAP, names.TTA, names.DROPOUT, names.ENSEMBLE,
        *(INFORMATION.format(name) for name in (names.TTA, names.DROPOUT, names.ENSEMBLE)),
    }  # fmt: skip
    assert content["cases"] == 5  # the sixth test case has no label
    assert json.loads((tmp_path / "uncertainty.json").read_text())["methods"] == content["methods"]
    table = list(csv.DictReader((tmp_path / "cases.csv").open()))
    assert [float(row["dice_mean"]) for row in table] == sorted(float(row["dice_mean"]) for row in table)
    shown = read_shown(tmp_path / "shown.h5")
    assert [case.case for case in shown] == [row["case"] for row in table[:2]]
    assert shown[0].errors[names.SOFTMAX].max() <= 1
    assert set(json.loads((tmp_path / "seconds.json").read_text())) >= {"prediction", names.TTA}
    assert content["missing"] == []


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
    assert {row["name"] for row in content["missing"]} == {names.DROPOUT, "temperature and source maps"}


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
        worst = INFORMATION.format(names.TTA)
        assert float(rows[0][f"score {worst}"]) == pytest.approx(-np.log(3), abs=1e-5)
        softmax = next(m for m in content["methods"] if m["name"] == names.SOFTMAX)
        # region: the truth alone, all wrong with confidence e^9 / (e^9 + 2)
        assert softmax["figures"]["ece"]["value"] == pytest.approx(1 - 2 * np.exp(-9), abs=1e-4)
        assert softmax["figures"]["pearson"]["value"] is None
        with pytest.raises(DataError, match="none of the 1 held-out target cases has a label"):
            measure(subject, store, np.array([25]), {}, tmp_path)


def test_target_labels_change_no_map(discs: Path, source: Path, tmp_path: Path) -> None:
    """The same target without a single label gives the same maps."""
    bare = tmp_path / "bare.h5"
    cases = [disc_case(i, "train", labelled=False) for i in range(20)]
    import_cases(cases, len(cases), PreprocessConfig(shape=(32, 32)), LABELS, bare)
    with CaseStore(discs) as store, CaseStore(bare) as unlabelled, CaseStore(source) as labelled:
        subject = panel(store)
        with_labels = fit_source_maps(subject, labelled, store)
        assert with_labels == fit_source_maps(subject, labelled, unlabelled)
        assert with_labels is not None
        assert with_labels.source_cases == 8
        assert len({map_.rate for map_ in with_labels.maps.values()}) == 1
        assert fit_source_maps(subject, store, store) is None  # no validation split
