"""What goes into a reward dataset comes out again: once per image, with unique ids, in equal bytes."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import h5py
import numpy as np
import pytest

from reward_data.correction import Correction
from reward_data.distortions import Contrast, Distortion, Identity, Noise, Swap, WeightNoise
from reward_data.errors import ArtifactError, DataError
from reward_data.mask_damage import Affine, Damage, Morph, Warp
from reward_data.reward_store import ImageEntry, RewardStore, RewardStoreWriter, merge

SHAPE = (6, 5)
CORRECTED = Correction(steps=("fill_holes",), closing_radius=0.05)


def entry(number: int) -> ImageEntry:
    rng = np.random.default_rng(number)
    image = rng.integers(0, 256, (2, *SHAPE)).astype(np.uint8)
    truth = rng.integers(0, 3, SHAPE).astype(np.uint8)
    return ImageEntry(f"c{number}", "val" if number == 1 else "train", number != 2, image, truth)


def add(writer: RewardStoreWriter, number: int) -> None:
    """Image c<number>: c2 has a correction, the others their truth and its swap and noise."""
    one = entry(number)
    off = one.truth.copy()
    off[0, :3] = (off[0, :3] + 1) % 3  # 3 of 30 pixels wrong
    if number == 2:
        writer.add(one, [(CORRECTED, off)])
    else:
        swap, noise = Swap(other_id="c0"), Noise(sigma=0.1, seed=number)
        writer.add(one, [(Identity(), one.truth), (swap, off), (noise, one.truth)])


def build(path: Path, numbers: tuple[int, ...] = (0, 1, 2)) -> Path:
    with RewardStoreWriter(path, 2, SHAPE) as writer:
        for number in numbers:
            add(writer, number)
    return path


def test_contents_come_back(tmp_path: Path) -> None:
    with RewardStore(build(tmp_path / "r.h5")) as store:
        assert len(store) == 7
        assert store.ids == ("c0#0", "c0#1", "c0#2", "c1#0", "c1#1", "c1#2", "c2#0")
        assert store.image_index.tolist() == [0, 0, 0, 1, 1, 1, 2]
        assert store.case_ids == ("c0", "c1", "c2")
        assert store.anchors().tolist() == [0, 1]
        assert store.indices("val").tolist() == [3, 4, 5]
        assert store.indices("train").tolist() == [0, 1, 2, 6]
        assert store.kinds() == {"correction": 1, "identity": 2, "noise": 2, "swap": 2}
        assert store.mean_errors() == pytest.approx(
            {"correction": 0.1, "identity": 0, "noise": 0, "swap": 0.1}
        )
        assert store.provenance(6) == CORRECTED
        assert store.provenance(5) == Noise(sigma=0.1, seed=1)
        order = np.array([4, 6, 6, 0])
        images, proposed, errors = store.read(order)
        for row, (number, wrong) in enumerate([(1, 3), (2, 3), (2, 3), (0, 0)]):
            one = entry(number)
            assert np.array_equal(images[row], (one.image / np.float32(255)).astype(np.float32))
            assert np.array_equal(store.truths(np.array([number]))[0], one.truth)
            assert errors[row].sum() == wrong
            assert np.array_equal(errors[row], proposed[row] != one.truth)
        assert images.dtype == np.float32
        assert np.array_equal(store.images(order), images)
        assert np.array_equal(store.proposed(order), proposed)
        assert np.array_equal(store.errors(order), errors)


def test_bytes_are_equal_and_do_not_depend_on_parts(tmp_path: Path) -> None:
    whole = build(tmp_path / "whole.h5").read_bytes()
    assert build(tmp_path / "again.h5").read_bytes() == whole
    parts = [
        build(tmp_path / "a.h5", (0,)),
        build(tmp_path / "none.h5", ()),
        build(tmp_path / "b.h5", (1, 2)),
    ]
    merge(parts, tmp_path / "merged.h5")
    merge([tmp_path / "whole.h5"], tmp_path / "one.h5")
    assert (tmp_path / "merged.h5").read_bytes() == (tmp_path / "one.h5").read_bytes()
    with RewardStore(tmp_path / "merged.h5") as merged, RewardStore(tmp_path / "whole.h5") as single:
        assert merged.ids == single.ids
        everything = np.arange(len(single))
        for ours, theirs in zip(merged.read(everything), single.read(everything)):
            assert np.array_equal(ours, theirs)
        assert np.array_equal(merged.error_fraction, single.error_fraction)
        assert [merged.provenance(n) for n in range(7)] == [single.provenance(n) for n in range(7)]
        assert merged.image_splits == single.image_splits


def test_an_image_is_stored_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'c0' is in the reward dataset already"):
        build(tmp_path / "r.h5", (0, 1, 0))
    assert not list(tmp_path.iterdir())  # nothing half-written
    part = build(tmp_path / "a.h5")
    with pytest.raises(DataError, match="already"):
        merge([part, part], tmp_path / "twice.h5")
    assert not (tmp_path / "twice.h5").exists()


def test_broken_files_are_refused(tmp_path: Path) -> None:
    content = build(tmp_path / "r.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.h5").write_text("not HDF5")
    for name in ("cut.h5", "text.h5", "missing.h5"):
        with pytest.raises(ArtifactError, match="synthesize again"):
            RewardStore(tmp_path / name)


def test_a_disk_that_refuses_leaves_nothing(tmp_path: Path) -> None:
    """A child process with a file-size limit, as a full disk would refuse."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            import signal

            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
            build(tmp_path / "r.h5")
        except DataError as error:
            code = 0 if "could not be written" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not list(tmp_path.iterdir())


def test_size_of_an_example(tmp_path: Path) -> None:
    """60 kB at 256 x 256, the image's share included, even when an image has one example only."""
    rng, (row, column) = np.random.default_rng(0), np.mgrid[:256, :256] / 256
    image = (np.clip(rng.rayleigh(50, (1, 256, 256)), 0, 255) * (np.abs(column - 0.5) < 0.7 * row)).astype(
        np.uint8
    )
    truth = (np.hypot(row - 0.5, column - 0.5) < 0.3).astype(np.uint8)
    with RewardStoreWriter(tmp_path / "r.h5", 1, (256, 256)) as writer:
        for number in range(4):
            one = ImageEntry(f"c{number}", "train", True, image, truth)
            writer.add(one, [(CORRECTED, np.roll(truth, number, 0))])
    assert (tmp_path / "r.h5").stat().st_size / 4 < 60e3


def test_rows_that_were_given_out_can_be_written_to(tmp_path: Path) -> None:
    """The store remembers the last row that it unpacked: a copy, and only for the same row."""
    with RewardStore(build(tmp_path / "r.h5")) as store:
        for example in (0, 0, 1, 1, 0, 2, 3, 3, 6):
            row = np.array([example])
            image, number = int(store.image_index[example]), example % 3 if example < 6 else 0
            wrong = 3 if number == 1 or example == 6 else 0  # see `add`
            proposed, truth, picture = store.proposed(row), store.truths(np.array([image])), store.images(row)
            assert np.array_equal(truth[0], entry(image).truth)
            assert np.count_nonzero(proposed != truth) == wrong
            assert np.array_equal(np.rint(picture[0] * 255), entry(image).image)
            proposed[:], truth[:], picture[:] = 9, 9, 9
            assert np.count_nonzero(store.errors(row)) == wrong


EVERY_KIND: tuple[Distortion | Correction, ...] = (
    Identity(),
    Swap(other_id="patient #7/ä"),
    WeightNoise(sigma=0.005, seed=2**31 - 1),
    Contrast(factor=0.7),
    Noise(sigma=0.1, seed=3),
    Morph(operation="dilate", class_value=2, radius=1 / 3),
    Warp(strength=0.1, length=2 / 3, seed=4),
    Affine(rotation_degrees=-7.3, scale=1.1, shift=(0.1, -0.2, 1e-17)),
    Damage(what="cut_end", size=0.3, seed=5),
    CORRECTED,
)


def test_provenance_of_every_kind_comes_back_also_after_merging(tmp_path: Path) -> None:
    with RewardStoreWriter(tmp_path / "r.h5", 2, SHAPE) as writer:
        writer.add(entry(0), [(record, entry(0).truth) for record in EVERY_KIND])
    merge([build(tmp_path / "a.h5", (1,)), tmp_path / "r.h5"], tmp_path / "m.h5")
    for name, first in (("r.h5", 0), ("m.h5", 3)):  # c1 has three examples
        with RewardStore(tmp_path / name) as store:
            assert tuple(store.provenance(first + n) for n in range(len(EVERY_KIND))) == EVERY_KIND
            assert len(set(store.ids)) == len(store)
            assert store.image_index[first:].tolist() == [store.case_ids.index("c0")] * len(EVERY_KIND)


def test_an_image_takes_its_place_once_however_many_examples(tmp_path: Path) -> None:
    """Noise cannot be packed: one image of 128 x 128 is 16.4 kB, each further example an empty mask."""
    image = np.random.default_rng(0).integers(0, 256, (1, 128, 128)).astype(np.uint8)
    empty, sizes = np.zeros((128, 128), np.uint8), []
    for count in (1, 30):
        with RewardStoreWriter(tmp_path / f"{count}.h5", 1, (128, 128)) as writer:
            writer.add(ImageEntry("c", "train", True, image, empty), [(Identity(), empty)] * count)
        sizes.append((tmp_path / f"{count}.h5").stat().st_size)
        merge([tmp_path / f"{count}.h5"], tmp_path / "merged.h5")
        with RewardStore(tmp_path / "merged.h5") as store:
            assert np.array_equal(np.rint(store.anchor_images(np.array([0]))[0] * 255), image)
    assert image.size < sizes[0]
    assert sizes[1] - sizes[0] < image.size / 2  # nowhere near a second copy, let alone 29


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    content = build(tmp_path / "r.h5").read_bytes()
    for share in (0, 0.01, 0.3, 0.7, 0.99):
        (tmp_path / "cut.h5").write_bytes(content[: int(share * len(content))])
        with pytest.raises(ArtifactError, match=r"cut\.h5.*synthesize again"):
            RewardStore(tmp_path / "cut.h5")
    (tmp_path / "short.h5").write_bytes(content[:-1])
    with pytest.raises(ArtifactError):
        RewardStore(tmp_path / "short.h5")


def test_a_file_of_another_kind_or_version_is_refused(tmp_path: Path) -> None:
    for name, content in (("kind", b'{"kind": "other", "version": 1}'), ("list", b"[]"), ("none", b"{}")):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["meta"] = np.frombuffer(content, np.uint8)
        with pytest.raises(ArtifactError, match=r"wanted rl4seg\.reward_store version"):
            RewardStore(tmp_path / f"{name}.h5")
