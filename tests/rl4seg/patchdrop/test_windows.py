"""The segmentation twin: windows, stitching, tables and the policy, on images where all is known."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from reward_data.case_store import CaseStore, import_cases
from reward_data.errors import DataError
from reward_data.preprocess import PreprocessConfig
from reward_data.types import Case, LabelMap
from rl4seg.configs.patchdrop import DropWindowsConfig, KeepNetConfig, KeepTrainingConfig
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.patchdrop.window_cases import shared_out, write_coarse_cases, write_fine_cases
from rl4seg.patchdrop.window_evaluation import WindowEvaluator, evaluate_windows, time_windows
from rl4seg.patchdrop.window_policy import (
    WindowPolicySpec,
    keep_probabilities,
    load_window_policy,
    tables_of,
    train_window_policy,
)
from rl4seg.patchdrop.windows import (
    WindowSegmenter,
    cell_confusion,
    cell_entropy,
    cut_windows,
    entropy_share,
    miou_of,
)
from rl4seg.runtime import Runtime, start

WINDOWS = DropWindowsConfig(
    grid=(4, 4), margin=2, coarse_shape=(8, 8), policy_share=0.5, random_draws=4, repeats=1
)


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return start(RuntimeConfig(device="cpu", threads=1))


def threshold(images: Tensor) -> Tensor:
    """A network without weights: class 1 where it is brighter than .5; sure of it in proportion."""
    logits = 20 * (images[:, :1] - 0.5)
    return torch.cat([-logits, logits], 1)


def segmenter(runtime: Runtime) -> WindowSegmenter:
    return WindowSegmenter(threshold, threshold, (8, 8), (4, 4), 2, runtime)


def striped(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """32 x 32: dark, but for 3 cells of stripes one pixel wide, which are grey at a quarter of the resolution."""
    label = np.zeros((32, 32), np.uint8)
    for cell in rng.choice(16, 3, replace=False):
        top, left = cell // 4 * 8, cell % 4 * 8
        label[top : top + 8 : 2, left : left + 8] = 1
    return (0.1 + 0.8 * label).astype(np.float32)[None], label


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> CaseStore:
    rng, cases = np.random.default_rng(0), []
    for number in range(10):
        image, label = striped(rng)
        split = "train" if number < 6 else "test"
        cases.append(Case(f"c{number}", f"g{number // 2}", "d", split, image, label, (1.0, 1.0), np.eye(4)))
    path = tmp_path_factory.mktemp("striped") / "cases.h5"
    grid = PreprocessConfig(shape=(32, 32), aspect="stretch", intensity="none_clip01", dtype="float16")
    import_cases(iter(cases), len(cases), grid, LabelMap(names=("dark", "bright")), path)
    return CaseStore(path)


def test_windows_are_cells_with_a_margin_mirrored_at_the_border() -> None:
    image = torch.arange(16.0).reshape(1, 4, 4)
    first, last = cut_windows(image, (2, 2), 1, [0, 3])[:, 0]
    assert first.tolist() == [[5, 4, 5, 6], [1, 0, 1, 2], [5, 4, 5, 6], [9, 8, 9, 10]]
    assert last.tolist() == [[5, 6, 7, 6], [9, 10, 11, 10], [13, 14, 15, 14], [9, 10, 11, 10]]


def test_a_stitched_mask_has_the_fine_answer_in_kept_cells_and_the_coarse_one_elsewhere(
    runtime: Runtime, store: CaseStore
) -> None:
    twin, truth = segmenter(runtime), torch.from_numpy(store.labels([0])[0]).long()
    image = torch.from_numpy(store.images([0])[0])
    view = twin.look(image[None])
    everything, nothing = torch.ones(16, dtype=torch.bool), torch.zeros(16, dtype=torch.bool)
    assert torch.equal(
        twin.segment(image, view, everything), truth
    )  # at full resolution the threshold is right
    coarse = twin.segment(image, view, nothing)
    assert not torch.equal(coarse, truth)
    one = nothing.clone()
    one[6] = True  # row 1, column 2: pixels 8..15, 16..23
    mixed = twin.segment(image, view, one)
    assert torch.equal(mixed[8:16, 16:24], truth[8:16, 16:24])
    mixed[8:16, 16:24] = coarse[8:16, 16:24]
    assert torch.equal(mixed, coarse)


def test_dropped_windows_are_never_computed(runtime: Runtime, store: CaseStore) -> None:
    seen: list[int] = []

    def counting(images: Tensor) -> Tensor:
        seen.append(len(images))
        return threshold(images)

    twin = WindowSegmenter(threshold, counting, (8, 8), (4, 4), 2, runtime)
    image = torch.from_numpy(store.images([0])[0])
    view = twin.look(image[None])
    for count in (0, 1, 5):
        twin.segment(image, view, torch.arange(16) < count)
    assert seen == [1, 5]


def test_confusion_and_miou_by_hand() -> None:
    # 2 x 4, two cells of 2 x 2, 3 classes. Left: truth 0 0 / 1 1, mask 0 1 / 1 1. Right: truth 2s, mask 2 2 / 2 0.
    truth = torch.tensor([[[0, 0, 2, 2], [1, 1, 2, 2]]])
    mask = torch.tensor([[[0, 1, 2, 2], [1, 1, 2, 0]]])
    counts = cell_confusion(mask, truth, (1, 2), 3)
    assert counts[0, 0].tolist() == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
    assert counts[0, 1].tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 3]]
    # left alone: class 0: 1 / 2, class 1: 2 / 3, class 2 is nowhere: mean 7/12
    assert float(miou_of(counts[0, 0])) == pytest.approx(7 / 12)
    # both: class 0: 1 of (1 + 1 + 1) = 1/3, class 1: 2/3, class 2: 3/4; mean 7/12
    assert float(miou_of(counts.sum(1)[0])) == pytest.approx((1 / 3 + 2 / 3 + 3 / 4) / 3)


def test_entropy_by_hand() -> None:
    # (.5, .5) has log 2, all of it; (1, 0) none
    probabilities = torch.tensor([[[[0.5, 1.0]], [[0.5, 0.0]]]])
    torch.testing.assert_close(entropy_share(probabilities), torch.tensor([[[1.0, 0.0]]]), atol=1e-6, rtol=0)


def test_the_table_says_what_stitching_would(runtime: Runtime, store: CaseStore) -> None:
    twin = segmenter(runtime)
    table = tables_of(twin, store, np.array([0, 3]), False)
    rng = torch.Generator().manual_seed(0)
    keep = torch.rand(2, 3, 16, generator=rng) < 0.5
    found = table.miou(torch.tensor([0, 1]), keep)
    for row, index in enumerate((0, 3)):
        image, truth = (
            torch.from_numpy(store.images([index])[0]),
            torch.from_numpy(store.labels([index])).long(),
        )
        for m in range(3):
            mask = twin.segment(image, twin.look(image[None]), keep[row, m])
            wanted = miou_of(cell_confusion(mask[None], truth, (1, 1), 2)[0, 0])
            assert float(found[row, m]) == pytest.approx(float(wanted), abs=1e-6)
    assert (
        len(tables_of(twin, store, np.array([0]), True)) == 4
    )  # as it is, and flipped along each axis and both


def test_groups_stay_on_one_side_and_the_networks_get_their_views(store: CaseStore, tmp_path: Path) -> None:
    networks, policy = shared_out(store, 0.34)
    assert networks.tolist() == [0, 1, 2, 3]
    assert policy.tolist() == [4, 5]
    for name, write in (("coarse", write_coarse_cases), ("fine", write_fine_cases)):
        (tmp_path / name).mkdir()
        write(store, WINDOWS.model_copy(update={"policy_share": 0.34}), tmp_path / name)
    with (
        CaseStore(tmp_path / "coarse" / "cases.h5") as coarse,
        CaseStore(tmp_path / "fine" / "cases.h5") as fine,
    ):
        assert (len(coarse), coarse.shape) == (4, (8, 8))
        assert (len(fine), fine.shape) == (4 * 16, (12, 12))
        # the middle of the sixth window of the second image is its sixth cell
        np.testing.assert_array_equal(fine.labels([16 + 5])[0, 2:10, 2:10], store.labels([1])[0, 8:16, 8:16])
        np.testing.assert_allclose(
            fine.images([16 + 5])[0, 0, 2:10, 2:10], store.images([1])[0, 0, 8:16, 8:16], atol=3e-3
        )


def test_one_group_is_not_enough(tmp_path: Path) -> None:
    image, label = striped(np.random.default_rng(0))
    case = Case("a", "g", "d", "train", image, label, (1.0, 1.0), np.eye(4))
    grid = PreprocessConfig(shape=(32, 32), aspect="stretch", intensity="none_clip01")
    import_cases(iter([case]), 1, grid, LabelMap(names=("dark", "bright")), tmp_path / "cases.h5")
    with CaseStore(tmp_path / "cases.h5") as one, pytest.raises(DataError, match="wanted two at least"):
        shared_out(one, 0.5)


@pytest.mark.learning
def test_the_policy_learns_to_keep_the_cells_that_need_it(
    runtime: Runtime, store: CaseStore, tmp_path: Path
) -> None:
    twin = segmenter(runtime)
    _, own = shared_out(store, 0.67)
    table = tables_of(twin, store, own, True)
    spec = WindowPolicySpec(
        windows=WINDOWS,
        policy=KeepNetConfig(head="grid", features=8),
        class_names=store.class_names,
        channels=1,
    )
    config = KeepTrainingConfig(
        steps=150, batch_size=16, samples=8, penalty=-5, learning_rate=1e-2, alpha_end=0.95
    )
    train_window_policy(spec, table, config, 0, runtime, tmp_path, tmp_path / "checkpoint")
    loaded, policy = load_window_policy(tmp_path, runtime)
    assert loaded == spec
    evaluator = WindowEvaluator(twin, policy, store, 4, 0)
    out = tmp_path / "evaluation"
    out.mkdir()
    evaluate_windows(evaluator, out)
    arms = json.loads((out / "summary.json").read_text())["arms"]
    # three of 16 cells have stripes; with them the mask is right everywhere
    assert arms["policy"] == {"miou": pytest.approx(1.0), "windows": pytest.approx(3, abs=0.5)}
    assert arms["full sliding window"]["miou"] == pytest.approx(1.0)
    assert arms["coarse only"]["miou"] < 0.95
    assert arms["random windows"]["miou"] < arms["policy"]["miou"] - 0.02
    assert arms["oracle windows"]["miou"] >= arms["policy"]["miou"]
    curves = list(csv.DictReader((out / "curves.csv").open()))
    ends = {row["chooser"]: float(row["miou"]) for row in curves if row["windows"] == "16"}
    assert set(ends.values()) == {1.0}
    seconds = time_windows(evaluator, 1)
    assert set(seconds) == {
        "coarse only",
        "full sliding window",
        "policy",
        "entropy windows",
        "random windows",
    }
    assert min(seconds.values()) > 0


def test_probabilities_and_entropy_are_of_cells(runtime: Runtime, store: CaseStore) -> None:
    view = segmenter(runtime).look(torch.from_numpy(store.images([0, 1])))
    spec = WindowPolicySpec(
        windows=WINDOWS,
        policy=KeepNetConfig(head="grid", features=4),
        class_names=store.class_names,
        channels=1,
    )
    probabilities, keep = keep_probabilities(spec.build(0).eval(), view.policy_input, runtime)
    assert probabilities.shape == keep.shape == cell_entropy(view, (4, 4)).shape == (2, 16)
    assert torch.equal(keep, probabilities >= 0.5)
