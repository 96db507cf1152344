from __future__ import annotations

import errno
import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from flows import file_digests
from flows.store import ArtifactStore, Policy, RewardNet, digest_path
from reward_data.errors import ArtifactError, DataError

KEY = "a" * 64


def write(text: str):
    def builder(out: Path, checkpoint: Path) -> None:
        (out / "sub").mkdir()
        (out / "weights.bin").write_text(text)
        (out / "sub" / "spec.json").write_text("{}")

    return builder


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def test_digest_is_over_sorted_names_and_file_digests(store: ArtifactStore) -> None:
    ref = store.build(KEY, Policy, ("m",), write("abc"))
    # by hand: "sub/spec.json" sorts before "weights.bin"; each line is name, NUL, sha256 of the contents
    lines = "".join(
        f"{name}\0{hashlib.sha256(data).hexdigest()}\n"
        for name, data in (("sub/spec.json", b"{}"), ("weights.bin", b"abc"))
    )
    assert ref.digest == hashlib.sha256(lines.encode()).hexdigest()
    assert (ref.kind, ref.key, ref.size, ref.made_from) == ("Policy", KEY, 5, ("m",))


def test_a_second_store_object_finds_the_same_artifact(store: ArtifactStore) -> None:
    assert store.lookup(KEY, Policy) is None
    ref = store.build(KEY, Policy, (), write("abc"))
    again = ArtifactStore(store.root)
    assert again.lookup(KEY, Policy) == ref
    assert (again.path(ref) / "weights.bin").read_text() == "abc"
    assert again.seconds(KEY) is not None
    assert again.seconds("b" * 64) is None


def test_equal_contents_have_equal_digests_wherever_they_lie(store: ArtifactStore, tmp_path: Path) -> None:
    other = ArtifactStore(tmp_path / "elsewhere")
    one, two = store.build(KEY, Policy, (), write("abc")), other.build("b" * 64, Policy, (), write("abc"))
    assert one.digest == two.digest
    assert store.build("c" * 64, Policy, (), write("abd")).digest != one.digest


def delete(folder: Path) -> None:
    shutil.rmtree(folder)


def delete_file(folder: Path) -> None:
    (folder / "weights.bin").unlink()


def truncate(folder: Path) -> None:
    os.truncate(folder / "weights.bin", 1)


def alter_at_same_size(folder: Path) -> None:
    stat = (folder / "weights.bin").stat()
    (folder / "weights.bin").write_text("abd")
    os.utime(folder / "weights.bin", ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as a careless copy would


def add_file(folder: Path) -> None:
    (folder / "more").write_text("")


def cut_manifest(folder: Path) -> None:
    os.truncate(folder / "manifest.json", 20)


def lose_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def other_digest(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"digest": "0" * 64}))


DAMAGES = [
    delete,
    delete_file,
    truncate,
    alter_at_same_size,
    add_file,
    cut_manifest,
    lose_manifest,
    other_digest,
]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("memoised", [False, True])
def test_damage_is_seen_and_mended(store: ArtifactStore, damage, memoised: bool) -> None:
    ref = store.build(KEY, Policy, (), write("abc"))
    if memoised:
        time.sleep(0.07)  # files that have been quiet for 50 ms are remembered
        assert store.lookup(KEY, Policy) == ref
    damage(store.root / KEY)
    assert store.lookup(KEY, Policy) is None
    with pytest.raises(ArtifactError, match="run the same command again"):
        store.path(ref)
    assert store.build(KEY, Policy, (), write("abc")) == ref
    assert sorted(p.name for p in store.path(ref).iterdir()) == ["manifest.json", "sub", "weights.bin"]
    assert list((store.root / "_building").iterdir()) == []


def test_a_damaged_memo_costs_time_only(store: ArtifactStore) -> None:
    ref = store.build(KEY, Policy, (), write("abc"))
    (store.root / "_memo.sqlite").write_bytes(b"nonsense" * 100)
    assert store.lookup(KEY, Policy) == ref


def test_wrong_kind_is_an_error(store: ArtifactStore) -> None:
    ref = store.build(KEY, Policy, (), write("abc"))
    with pytest.raises(ArtifactError, match="got a Policy, wanted a RewardNet"):
        store.lookup(KEY, RewardNet)
    with pytest.raises(ArtifactError, match="got a Policy, wanted a RewardNet"):
        store.path(RewardNet(**ref.model_dump(exclude={"kind"})))


def test_a_reference_to_a_replaced_artifact_is_an_error(store: ArtifactStore) -> None:
    ref = store.build(KEY, Policy, (), write("abc"))
    with pytest.raises(ArtifactError, match="replaced"):
        store.path(ref.model_copy(update={"digest": "0" * 64}))


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("write failed: No space left on device")],
)
def test_disk_full_says_what_to_do_and_leaves_nothing(store: ArtifactStore, error: Exception) -> None:
    def builder(out: Path, checkpoint: Path) -> None:
        (out / "half").write_text("x")
        (checkpoint / "step").write_text("7")
        raise error

    with pytest.raises(ArtifactError, match=r"disk is full.*free some space"):
        store.build(KEY, Policy, (), builder)
    assert not (store.root / KEY).exists()
    assert list((store.root / "_building").iterdir()) == []
    assert (store.root / "_checkpoints" / KEY / "step").read_text() == "7"


def test_a_stage_that_writes_nothing_is_an_error(store: ArtifactStore) -> None:
    with pytest.raises(ArtifactError, match="wrote nothing"):
        store.build(KEY, Policy, (), lambda out, checkpoint: None)


def test_the_checkpoint_survives_a_failure_and_goes_after_success(store: ArtifactStore) -> None:
    seen = []

    def builder(out: Path, checkpoint: Path) -> None:
        seen.append(sorted(p.name for p in checkpoint.iterdir()))
        if not seen[-1]:
            (checkpoint / "epoch_3").touch()
            raise ValueError("killed")
        write("abc")(out, checkpoint)

    with pytest.raises(ValueError, match="killed"):
        store.build(KEY, Policy, (), builder)
    store.build(KEY, Policy, (), builder)
    assert seen == [[], ["epoch_3"]]
    assert list((store.root / "_checkpoints").iterdir()) == []


def test_no_store_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="choose a writable folder"):
        ArtifactStore(tmp_path / "file" / "store")


def test_a_folder_that_cannot_lock_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(stream: object, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    store = ArtifactStore(tmp_path / "store")
    monkeypatch.setattr("fcntl.flock", refuse)  # as network folders without a lock service do
    with pytest.raises(ArtifactError, match=r"cannot lock files.*store=file:///PATH"):
        store.build(KEY, Policy, (), write("abc"))


def test_the_manifest_tells_when_and_how_long(store: ArtifactStore) -> None:
    before = time.time()
    store.build(KEY, Policy, ("m",), write("abc"))
    file = store.root / KEY / "manifest.json"
    manifest = json.loads(file.read_text())
    assert before <= manifest["committed"] <= time.time()
    assert file.stat().st_mtime == pytest.approx(manifest["committed"], abs=1e-3)
    assert manifest["files"]["weights.bin"] == {"sha256": hashlib.sha256(b"abc").hexdigest(), "size": 3}
    assert store.seconds(KEY) == manifest["seconds"] >= 0


def test_a_manifest_from_before_times_were_kept_is_read(store: ArtifactStore) -> None:
    ref = store.build(KEY, Policy, (), write("abc"))
    file = store.root / KEY / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["committed"]
    file.write_text(json.dumps(manifest))
    assert store.lookup(KEY, Policy) == ref


def test_user_inputs_are_known_by_names_and_contents(store: ArtifactStore, tmp_path: Path) -> None:
    root = tmp_path / "data"
    (root / "imagesTr").mkdir(parents=True)
    image, unlisted = root / "imagesTr" / "a.png", root / "imagesTr" / "b.png"
    for path in (image, unlisted, root / "dataset.json"):
        path.write_text("1")
    before, whole = store.digest_inputs(root, [image]), store.digest_inputs(root)
    unlisted.write_text("2")
    assert store.digest_inputs(root, [image]) == before
    assert store.digest_inputs(root) != whole
    (root / "dataset.json").write_text("2")
    changed = store.digest_inputs(root, [image])
    assert changed != before
    image.write_text("2")
    assert store.digest_inputs(root, [image]) != changed
    moved = shutil.copytree(root, tmp_path / "moved")
    assert store.digest_inputs(moved, [moved / "imagesTr" / "a.png"]) == store.digest_inputs(root, [image])
    assert digest_path(moved) == digest_path(root)
    with pytest.raises(DataError, match="no such file"):
        store.digest_inputs(root, [root / "gone.png"])
    with pytest.raises(DataError, match="no such file"):
        digest_path(tmp_path / "gone")


def test_a_second_look_at_twenty_artifacts_reads_no_file(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [f"{i:064d}" for i in range(20)]
    for key in keys:
        store.build(key, Policy, (), write(key))
    time.sleep(0.07)
    for key in keys:
        store.lookup(key, Policy)
    read: list[Path] = []
    monkeypatch.setattr(file_digests, "sha256_file", read.append)
    started = time.perf_counter()
    assert all(store.lookup(key, Policy) for key in keys)
    assert time.perf_counter() - started < 0.5  # measured .02 s
    assert read == []


# --- several processes -----------------------------------------------------------------------------------------------


def slow_builder(out: Path, checkpoint: Path) -> None:
    with (out.parents[2] / "builds.log").open("a") as stream:
        stream.write("x")
    time.sleep(0.5)
    (out / "weights.bin").write_text("abc")


def build_in_process(root: Path, barrier) -> None:
    store = ArtifactStore(root)
    barrier.wait(30)
    store.build(KEY, Policy, (), slow_builder)


def hold_lock(root: Path, holding) -> None:
    def builder(out: Path, checkpoint: Path) -> None:
        (out / "half").touch()
        (checkpoint / "step").touch()
        holding.set()
        time.sleep(60)

    ArtifactStore(root).build(KEY, Policy, (), builder)


def test_two_processes_build_once(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(2)
    workers = [spawn.Process(target=build_in_process, args=(tmp_path / "store", barrier)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert (tmp_path / "builds.log").read_text() == "x"
    assert ArtifactStore(tmp_path / "store").lookup(KEY, Policy) is not None


def test_a_killed_holder_hangs_nobody_and_leaves_only_its_checkpoint(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    holding = spawn.Event()
    holder = spawn.Process(target=hold_lock, args=(tmp_path, holding))
    holder.start()
    assert holding.wait(30)
    ArtifactStore(tmp_path)  # a new store cleans up, but not after the living
    assert len(list((tmp_path / "_building").iterdir())) == 1
    os.kill(holder.pid, signal.SIGKILL)
    holder.join(30)
    store = ArtifactStore(tmp_path)
    assert list((tmp_path / "_building").iterdir()) == []
    assert [p.name for p in (tmp_path / "_checkpoints" / KEY).iterdir()] == ["step"]
    started = time.perf_counter()
    store.build(KEY, Policy, (), write("abc"))
    assert time.perf_counter() - started < 5


def test_waiting_for_another_builder_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(2)
    worker = spawn.Process(target=build_in_process, args=(tmp_path / "store", barrier))
    worker.start()
    barrier.wait(30)
    while not (tmp_path / "builds.log").exists():
        time.sleep(0.01)
    with caplog.at_level(logging.WARNING):
        ArtifactStore(tmp_path / "store").build(KEY, Policy, (), slow_builder, label="iteration 1 · PPO")
    worker.join(30)
    assert (tmp_path / "builds.log").read_text() == "x"
    assert [r.message for r in caplog.records] == ["iteration 1 · PPO: another process builds it, waiting"]
