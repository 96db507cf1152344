from __future__ import annotations

import errno
import os
import pickle
import resource
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pytest

from reward_data import case_store
from reward_data.case_store import CaseStore, import_cases
from reward_data.errors import ArtifactError, DataError
from reward_data.formats import read_image, write_mask
from reward_data.preprocess import PreprocessConfig, preprocess
from reward_data.readers import DatasetConfig, count_cases, read_cases
from reward_data.types import Case, LabelMap

LABELS = LabelMap()
CONFIG = PreprocessConfig(shape=(16, 16), aspect="pixels")


def make_cases(count: int = 5) -> list[Case]:
    """Cases of different native sizes; case 3 has no label; splits train, train, val, test, train, ..."""
    cases = []
    for i in range(count):
        rng = np.random.default_rng(i)
        shape = (20 + i, 30 - i)
        label = np.zeros(shape, np.uint8)
        label[5:15, 6:16], label[8:12, 9:13] = 2, 1
        split = ("train", "train", "val", "test")[i] if i < 4 else None
        case = Case(
            f"c{i}", f"g{i}", "d", split, rng.random((1, *shape), np.float32), label, (0.5, 1.0), np.eye(4)
        )
        cases.append(replace(case, label=None) if i == 3 else case)
    return cases


def build(path: Path, cases: list[Case] | None = None, config: PreprocessConfig = CONFIG) -> Path:
    cases = make_cases() if cases is None else cases
    import_cases(iter(cases), len(cases), config, LABELS, path)
    return path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CaseStore]:
    with CaseStore(build(tmp_path / "store.h5")) as opened:
        yield opened


def test_what_the_store_says(store: CaseStore) -> None:
    assert len(store) == 5
    assert store.ids == ("c0", "c1", "c2", "c3", "c4")
    assert store.groups[2] == "g2"
    assert store.domains == ("d",) * 5
    assert store.splits == ("train", "train", "val", "test", "train")
    assert store.has_label.tolist() == [True, True, True, False, True]
    assert (store.shape, store.channels, store.num_classes) == ((16, 16), 1, 3)
    assert store.class_names == ("background", "lv", "myo")
    assert store.spacing_known
    assert store.preprocess == CONFIG


def test_indices(store: CaseStore) -> None:
    assert store.indices().tolist() == [0, 1, 2, 3, 4]
    assert store.indices("train").tolist() == [0, 1, 4]
    assert store.indices(labelled=False).tolist() == [3]
    assert store.indices("test", labelled=True).tolist() == []
    with pytest.raises(DataError, match="split 'dev'"):
        store.indices("dev")


@pytest.mark.parametrize(("dtype", "step"), [("uint8", 1 / 510), ("float16", 2**-11)])
def test_images_and_labels_in_any_order(tmp_path: Path, dtype: Any, step: float) -> None:
    # uint8 rounds to half a step of 1/255; float16 has 11 bits below 1
    config = CONFIG.model_copy(update={"dtype": dtype})
    with CaseStore(build(tmp_path / "store.h5", config=config)) as store:
        order = np.array([4, 0, 2, 0])
        images, labels = store.images(order), store.labels(order)
    assert (images.dtype, images.shape, labels.shape) == (np.float32, (4, 1, 16, 16), (4, 16, 16))
    for row, index in enumerate(order):
        image, label, _ = preprocess(make_cases()[index], config)
        np.testing.assert_allclose(images[row], image, atol=step + 1e-7)
        np.testing.assert_array_equal(labels[row], label)


def test_missing_label_is_named(store: CaseStore) -> None:
    with pytest.raises(DataError, match="'c3' has no label"):
        store.labels([0, 3])
    with pytest.raises(DataError, match="'c3' has no label"):
        store.native_label(3)


def test_native_side(store: CaseStore) -> None:
    for index in (0, 4):
        case = make_cases()[index]
        np.testing.assert_array_equal(store.native_label(index), case.label)
        assert store.native_spacing_mm(index) == (0.5, 1.0)
        mask = store.restore(index, store.labels([index])[0])
        assert mask.labels.shape == case.image.shape[1:]
        assert mask.spacing_mm == case.spacing_mm
        np.testing.assert_array_equal(mask.affine, case.affine)
        assert (mask.labels == case.label).mean() > 0.93
        one_hot = np.stack([store.labels([index])[0] == k for k in range(3)]).astype(np.float32)
        np.testing.assert_array_equal(store.restore_probabilities(index, one_hot).labels, mask.labels)
    # c0: 20 x 30 pixels -> 11 x 16; 20 * .5 / 11 and 30 * 1 / 16 mm
    np.testing.assert_allclose(store.spacing_mm(0), (10 / 11, 30 / 16))


def test_equal_cases_give_equal_bytes(tmp_path: Path) -> None:
    first, second = (build(tmp_path / name).read_bytes() for name in ("a.h5", "folder/b.h5"))
    assert first == second
    assert build(tmp_path / "c.h5", make_cases(4)).read_bytes() != first


def test_spacing_is_known_only_if_all_are(tmp_path: Path) -> None:
    cases = make_cases()
    cases[1] = replace(cases[1], spacing_known=False)
    assert not CaseStore(build(tmp_path / "store.h5", cases)).spacing_known


def test_progress_counts_every_case(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    cases = make_cases(3)
    import_cases(
        cases, 3, CONFIG, LABELS, tmp_path / "s.h5", lambda done, total, _=None: calls.append((done, total))
    )
    assert calls == [(1, 3), (2, 3), (3, 3)]


def with_label(label: Any) -> list[Case]:
    cases = make_cases(2)
    return [cases[0], replace(cases[1], label=label)]


@pytest.mark.parametrize(
    ("cases", "message"),
    [
        ([], "no cases to import"),
        ([*make_cases(2), make_cases(1)[0]], "duplicate id 'c0'"),
        ([make_cases(1)[0], replace(make_cases(3)[2], group="g0")], "group 'g0' is in two splits"),
        (
            [make_cases(1)[0], replace(make_cases(2)[1], image=np.zeros((3, 21, 29), np.float32))],
            "'c1' has 3 channels",
        ),
        (with_label(np.full((21, 29), 3, np.uint8)), r"'c1' has label 3, wanted 0\.\.2"),
        (
            [
                make_cases(1)[0],
                replace(make_cases(2)[1], image=np.zeros((1, 5, 5, 5), np.float32), label=None),
            ],
            "3 spatial axes",
        ),
    ],
)
def test_bad_cases_leave_nothing(tmp_path: Path, cases: list[Case], message: str) -> None:
    with pytest.raises(DataError, match=message):
        build(tmp_path / "store.h5", cases)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("total", "message"), [(4, "got more cases than 4"), (6, "got 5 cases, wanted 6")])
def test_wrong_total_leaves_nothing(tmp_path: Path, total: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        import_cases(make_cases(), total, CONFIG, LABELS, tmp_path / "store.h5")
    assert list(tmp_path.iterdir()) == []


def test_disk_full_keeps_the_old_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = build(tmp_path / "store.h5")
    before = path.read_bytes()
    write = case_store._write_case

    def fill(file: h5py.File, index: int, *rest: Any) -> Any:
        if index == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, index, *rest)

    monkeypatch.setattr(case_store, "_write_case", fill)
    with pytest.raises(DataError, match=r"store\.h5: could not be written \(.*No space left.*MB are free"):
        build(path, make_cases(4))
    assert [file.name for file in tmp_path.iterdir()] == ["store.h5"]
    assert path.read_bytes() == before


@pytest.mark.parametrize("room", [0, 1_000, 5_000, 100_000, 300_000, 350_000])
def test_disk_that_really_refuses(tmp_path: Path, room: int) -> None:
    """A file size limit in a child process makes HDF5 itself fail, at the start, in the middle or when it closes.

    With h5py's own driver this crashes the process. The whole store takes 5 x 64 kB + some.
    """
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        try:
            build(tmp_path / "store.h5", config=CONFIG.model_copy(update={"shape": (256, 256)}))
        except DataError as error:
            os._exit(42 if "could not be written" in str(error) else 1)
        except BaseException:
            os._exit(2)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
    assert list(tmp_path.iterdir()) == []


def test_broken_stores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"missing\.h5: no readable case store"):
        CaseStore(tmp_path / "missing.h5")
    path = build(tmp_path / "store.h5")
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ArtifactError, match="import the data again"):
        CaseStore(path)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(ArtifactError, match="no readable case store"):
        CaseStore(tmp_path / "other.h5")


def test_fork_threads_and_pickle_read_the_same(store: CaseStore) -> None:
    expected = store.images([1])
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(store.images([1]), expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    np.testing.assert_array_equal(store.images([1]), expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(store)).images([1]), expected)
    results: list[bool] = []
    threads = [
        threading.Thread(target=lambda: results.append(bool((store.images([1]) == expected).all())))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 4
    store.close()
    np.testing.assert_array_equal(store.images([1]), expected)


def test_volumes(tmp_path: Path) -> None:
    label = np.zeros((8, 9, 5), np.uint8)
    label[2:6, 2:6, 1:4] = 1
    case = Case("v", "v", "d", None, label[None].astype(np.float32), label, (1.0, 1.0, 2.0), np.eye(4))
    config = PreprocessConfig(shape=(9, 9, 10))
    with CaseStore(build(tmp_path / "store.h5", [case], config)) as store:
        assert store.images([0]).shape == (1, 1, 9, 9, 10)
        np.testing.assert_array_equal(store.restore(0, store.labels([0])[0]).labels, label)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "native", "labelled_split"),
    [("Dataset101_CAMUS_A4C", (256, 256), "train"), ("Dataset102_CAMUS_A2C", (224, 224), "test")],
)
def test_camus(
    real_data: Path, tmp_path: Path, name: str, native: tuple[int, ...], labelled_split: str
) -> None:
    labels = LabelMap(merge={3: 0})
    dataset = DatasetConfig(
        path=str(real_data / name),
        labels=labels,
        group_pattern=r"^(patient\d+)",
        max_cases=6,
        spacing_known=name == "Dataset101_CAMUS_A4C",
    )
    config = PreprocessConfig(shape=(64, 64), aspect="pixels", intensity="divide_255")
    import_cases(read_cases(dataset), count_cases(dataset), config, labels, tmp_path / "store.h5")
    with CaseStore(tmp_path / "store.h5") as store:
        assert len(store) == 6
        assert store.spacing_known == dataset.spacing_known
        labelled = store.indices(labelled_split, labelled=True)
        assert len(labelled) > 0
        for index in labelled:
            mask = store.restore(int(index), store.labels([index])[0])
            truth = store.native_label(int(index))
            assert truth.shape == mask.labels.shape == native
            overlap = [2 * ((mask.labels == k) & (truth == k)).sum() for k in (1, 2)]
            sizes = [(mask.labels == k).sum() + (truth == k).sum() for k in (1, 2)]
            assert min(np.divide(overlap, sizes)) > 0.93  # LV and MYO at a quarter of the resolution
            # upright: the ventricle's tip, nearest to the probe, lies above the base; the cavity opens downwards
            below = np.argwhere(truth == 1)[:, 0].max()
            assert below >= np.argwhere(truth == 2)[:, 0].max() - 0.25 * native[0]
            assert np.argwhere(truth == 2)[:, 0].min() < np.argwhere(truth == 1)[:, 0].min()


@pytest.mark.realdata
def test_restored_camus_mask_lies_on_its_file(real_data: Path, tmp_path: Path) -> None:
    path = sorted((real_data / "Dataset101_CAMUS_A4C" / "imagesTr").iterdir())[0]
    picture = read_image(path)
    case = Case("c", "c", "d", None, picture.values, None, picture.spacing_mm, picture.affine)
    with CaseStore(build(tmp_path / "store.h5", [case], PreprocessConfig())) as store:
        write_mask(tmp_path / "mask.nii.gz", store.restore(0, np.zeros(store.shape, np.uint8)))
    before, after = nib.load(path), nib.load(tmp_path / "mask.nii.gz")
    assert after.shape == before.shape
    assert after.header.get_zooms() == before.header.get_zooms()
    np.testing.assert_array_equal(after.affine, before.affine)
