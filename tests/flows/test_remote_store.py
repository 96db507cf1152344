"""Artifacts shared by a URL: two machines are two folders here, the URL is real files or fsspec's memory."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import jsonschema
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import known_implementations

from flows import mirror, remote_store
from flows.config import AutoIterationConfig
from flows.config_base import RunConfig
from flows.config_loader import load_config
from flows.file_digests import tree_digest
from flows.remote_store import RemoteStore, open_store
from flows.run_environment import run_environment
from flows.store import ArtifactStore, Policy, RewardNet
from reward_data.errors import ArtifactError, ConfigError
from tests.flows import tiny

KEY = "a" * 64


def writer(text: str = "weights") -> Callable[[Path, Path], None]:
    def write(out: Path, checkpoint: Path) -> None:
        (out / "deep").mkdir()
        (out / "deep" / "weights.bin").write_text(text)
        (out / "figures.json").write_text("{}")

    return write


def never(out: Path, checkpoint: Path) -> None:
    pytest.fail("nothing had to be built")


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    return f"file://{tmp_path}/shared" if request.param == "file" else "memory://shared"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "PAUSES_SECONDS", (0.01, 0.01))
    monkeypatch.setattr(remote_store, "SECOND_LOOK_SECONDS", 0.01)


def files(url: str) -> dict[str, bytes]:
    """What lies at a URL: name, without the folder that is called like the digest -> contents."""
    system, path = fsspec.core.url_to_fs(url)
    found: dict[str, bytes] = {}
    for name in system.find(path):
        parts = name.rpartition("shared/")[2].split("/")
        short = "/".join(part for part in parts if len(part) != 64 or part == KEY)
        assert short not in found, "files of two builds"
        found[short] = system.cat_file(name)
    return found


WHOLE = {f"{KEY}/manifest.json", f"{KEY}/figures.json", f"{KEY}/deep/weights.bin"}


def change(url: str, name: str, content: bytes | None) -> None:
    """Damage what lies at a URL; None removes it."""
    system, path = fsspec.core.url_to_fs(url)
    place = next(found for found in system.find(path) if found.endswith(name))
    if content is None:
        system.rm(place)
    else:
        system.pipe_file(place, content)


def weights(store: ArtifactStore, ref: Policy) -> str:
    return (store.path(ref) / "deep" / "weights.bin").read_text()


# --- one after the other ---------------------------------------------------------------------------------------------


def test_what_one_machine_builds_another_one_fetches(url: str, tmp_path: Path) -> None:
    one = RemoteStore(tmp_path / "one", url)
    assert one.lookup(KEY, Policy) is None
    assert files(url) == {}
    built = one.build(KEY, Policy, ("x" * 64,), writer())
    assert set(files(url)) == WHOLE
    other = RemoteStore(tmp_path / "other", url)
    assert other.lookup(KEY, Policy) == built
    assert other.build(KEY, Policy, (), never) == built
    assert weights(other, built) == "weights"
    assert list((other.root / "_building").iterdir()) == []
    assert other.seconds(KEY) == one.seconds(KEY)
    third = RemoteStore(tmp_path / "third", url)
    assert weights(third, built) == "weights"  # by its reference alone
    assert RemoteStore(tmp_path / "third", url).build("b" * 64, Policy, (), writer()).digest == built.digest


def test_the_sha256_of_every_file_is_checked_when_it_arrives(url: str, tmp_path: Path) -> None:
    built = RemoteStore(tmp_path / "one", url).build(KEY, Policy, (), writer())
    change(url, "weights.bin", b"wEights")
    other = RemoteStore(tmp_path / "other", url)
    with pytest.raises(ArtifactError, match="run the same command again"):
        other.path(built)
    assert not (other.root / KEY).exists()
    assert list((other.root / "_building").iterdir()) == []


def test_a_local_artifact_that_the_url_lacks_is_sent_there(url: str, tmp_path: Path) -> None:
    built = ArtifactStore(tmp_path / "one").build(KEY, Policy, (), writer())
    assert RemoteStore(tmp_path / "one", url).lookup(KEY, Policy) == built
    assert RemoteStore(tmp_path / "other", url).lookup(KEY, Policy) == built


def test_a_damaged_copy_is_fetched_again(url: str, tmp_path: Path) -> None:
    store = RemoteStore(tmp_path / "one", url)
    built = store.build(KEY, Policy, (), writer())
    os.truncate(store.root / KEY / "deep" / "weights.bin", 1)
    assert store.lookup(KEY, Policy) == built
    shutil.rmtree(store.root / KEY)
    assert weights(store, built) == "weights"


@pytest.mark.parametrize("content", [b"wEights", b"", None], ids=["altered", "empty", "missing"])
def test_a_broken_one_is_built_again_and_replaced(
    url: str, tmp_path: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    RemoteStore(tmp_path / "one", url).build(KEY, Policy, (), writer())
    change(url, "weights.bin", content)
    other = RemoteStore(tmp_path / "other", url)
    assert other.lookup(KEY, Policy) is None
    built = other.build(KEY, Policy, (), writer(), label="PPO")
    what = "is missing" if content is None else "does not have the contents"
    assert f"PPO: the stored artifact is broken in {url}: deep/weights.bin {what}" in caplog.text
    assert set(files(url)) == WHOLE
    assert weights(RemoteStore(tmp_path / "third", url), built) == "weights"


def test_a_broken_one_that_is_built_with_other_bytes_leaves_none_of_its_files(
    url: str, tmp_path: Path
) -> None:
    RemoteStore(tmp_path / "one", url).build(KEY, Policy, (), writer("old"))
    change(url, "weights.bin", b"odd")
    RemoteStore(tmp_path / "other", url).build(KEY, Policy, (), writer("new"))
    assert files(url)[f"{KEY}/deep/weights.bin"] == b"new"  # `files` refuses the files of two builds


@pytest.mark.parametrize("content", [None, b"", b"not json", b"[]", b'{"files": {}}'])
def test_without_a_whole_manifest_there_is_no_artifact(
    url: str, tmp_path: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    built = RemoteStore(tmp_path / "one", url).build(KEY, Policy, (), writer())
    change(url, "manifest.json", content)
    other = RemoteStore(tmp_path / "other", url)
    assert other.lookup(KEY, Policy) is None
    assert other.build(KEY, Policy, (), writer()) == built
    assert ("has a broken manifest" in caplog.text) == (content is not None)
    assert json.loads(files(url)[f"{KEY}/manifest.json"])["kind"] == "Policy"


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/escaped", "manifest.json"])
def test_a_manifest_cannot_write_outside_of_its_artifact(url: str, tmp_path: Path, name: str) -> None:
    RemoteStore(tmp_path / "one", url).build(KEY, Policy, (), writer())
    manifest = json.loads(files(url)[f"{KEY}/manifest.json"])
    listed = {name: manifest["files"]["figures.json"]}
    digest = tree_digest({name: (file["sha256"], file["size"]) for name, file in listed.items()})
    change(url, "manifest.json", json.dumps(manifest | {"files": listed, "digest": digest}).encode())
    other = RemoteStore(tmp_path / "other", url)
    assert other.lookup(KEY, Policy) is None
    assert "forbidden name" in other._standing(KEY, Policy, None)[1]


@pytest.mark.parametrize("wrong", [{"key": "b" * 64}, {"digest": "0" * 64}, {"files": {}}])
def test_a_manifest_that_contradicts_itself_is_broken(
    url: str, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    RemoteStore(tmp_path / "one", url).build(KEY, Policy, (), writer())
    manifest = json.loads(files(url)[f"{KEY}/manifest.json"])
    change(url, "manifest.json", json.dumps(manifest | wrong).encode())
    other = RemoteStore(tmp_path / "other", url)
    assert "has a broken manifest" in other._standing(KEY, Policy, None)[1]


def test_another_kind_is_an_error(url: str, tmp_path: Path) -> None:
    RemoteStore(tmp_path / "one", url).build(KEY, Policy, (), writer())
    with pytest.raises(ArtifactError, match=r"shared: got a Policy, wanted a RewardNet"):
        RemoteStore(tmp_path / "other", url).lookup(KEY, RewardNet)


def test_checkpoints_stay_local(url: str, tmp_path: Path) -> None:
    def fails(out: Path, checkpoint: Path) -> None:
        (checkpoint / "state.pt").write_text("1")
        raise RuntimeError("killed")

    one = RemoteStore(tmp_path / "one", url)
    with pytest.raises(RuntimeError, match="killed"):
        one.build(KEY, Policy, (), fails)
    assert files(url) == {}
    assert (one.root / "_checkpoints" / KEY / "state.pt").exists()


# --- anew ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["new", "old"])
def test_what_is_built_anew_replaces_the_shared_one(url: str, tmp_path: Path, text: str) -> None:
    one = RemoteStore(tmp_path / "one", url)
    one.build(KEY, Policy, (), writer("old"))
    since = json.loads(files(url)[f"{KEY}/manifest.json"])["committed"] + 1e-6
    other = RemoteStore(tmp_path / "other", url)
    assert other.lookup(KEY, Policy) is not None  # fetched now, committed then
    assert other.lookup(KEY, Policy, since) is None
    new = other.build(KEY, Policy, (), writer(text), since=since)
    assert weights(other, new) == text
    retried = RemoteStore(tmp_path / "third", url)  # the run goes on elsewhere: it is not built anew twice
    assert retried.build(KEY, Policy, (), never, since=since) == new
    assert one.lookup(KEY, Policy, since) == new


# --- at the same time ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exclusive", [True, False])
def test_of_two_machines_that_build_at_once_the_first_one_is_right(
    url: str, tmp_path: Path, exclusive: bool, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = RemoteStore(tmp_path / "one", url), RemoteStore(tmp_path / "other", url)
    other._mirror._creates_only_new = exclusive

    def slower(out: Path, checkpoint: Path) -> None:
        one.build(KEY, Policy, (), writer("first"))  # meanwhile, elsewhere
        writer("second")(out, checkpoint)

    built = other.build(KEY, Policy, (), slower)
    assert built == one.lookup(KEY, Policy)
    assert weights(other, built) == "first"
    assert "theirs is taken" in caplog.text
    assert set(files(url)) == WHOLE


def test_without_exclusive_creation_a_look_comes_after_the_files(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = RemoteStore(tmp_path / "one", url), RemoteStore(tmp_path / "other", url)
    other._mirror._creates_only_new = False
    send, system = other._mirror._files.put_file, other._mirror._files

    def while_sending(*arguments: Any, **options: Any) -> None:
        monkeypatch.setattr(system, "put_file", send)
        one.build(KEY, Policy, (), writer("first"))
        send(*arguments, **options)

    monkeypatch.setattr(system, "put_file", while_sending)
    assert weights(other, other.build(KEY, Policy, (), writer("second"))) == "first"
    assert set(files(url)) == WHOLE


def test_a_manifest_that_comes_while_files_are_sent_is_not_overwritten(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = RemoteStore(tmp_path / "one", url), RemoteStore(tmp_path / "other", url)
    read = other._mirror._read
    monkeypatch.setattr(
        other._mirror, "_read", lambda path: None
    )  # neither look sees it: the creation has to refuse

    def slower(out: Path, checkpoint: Path) -> None:
        one.build(KEY, Policy, (), writer("first"))
        writer("second")(out, checkpoint)

    place = other._mirror._place

    def then_see(path: str, content: bytes, instead_of: bytes | None) -> None:
        place(path, content, instead_of)
        monkeypatch.setattr(other._mirror, "_read", read)

    monkeypatch.setattr(other._mirror, "_place", then_see)
    assert weights(other, other.build(KEY, Policy, (), slower)) == "first"
    assert set(files(url)) == WHOLE


# --- places that fail ------------------------------------------------------------------------------------------------


class Flaky(MemoryFileSystem):
    """Memory that refuses a number of uploads after the first ones."""

    protocol = "flaky"
    store: dict[str, Any] = {}  # noqa: RUF012  (fsspec's own way)
    pseudo_dirs = [""]  # noqa: RUF012
    works_for, failures = 0, 0
    error: Exception = OSError("connection lost")

    def put_file(self, lpath: str, rpath: str, callback: Any = None, **kwargs: Any) -> None:
        cls = type(self)
        if cls.works_for == 0 and cls.failures > 0:
            cls.failures -= 1
            raise cls.error
        cls.works_for = max(cls.works_for - 1, 0)
        super().put_file(lpath, rpath)


@pytest.fixture
def flaky() -> str:
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    Flaky.store.clear()
    Flaky.works_for, Flaky.failures, Flaky.error = 0, 0, OSError("connection lost")
    return "flaky://shared"


def test_a_lost_connection_is_tried_again(flaky: str, tmp_path: Path) -> None:
    one = RemoteStore(tmp_path / "one", flaky)
    Flaky.works_for, Flaky.failures = 1, 2
    built = one.build(KEY, Policy, (), writer())
    assert Flaky.failures == 0
    assert RemoteStore(tmp_path / "other", flaky).lookup(KEY, Policy) == built


def test_a_push_that_breaks_off_is_no_artifact_and_goes_on_later(flaky: str, tmp_path: Path) -> None:
    one = RemoteStore(tmp_path / "one", flaky)
    Flaky.works_for, Flaky.failures = 1, 3
    with pytest.raises(
        ArtifactError, match=r"cannot be sent \(connection lost\).*run the same command again"
    ):
        one.build(KEY, Policy, (), writer())
    assert set(files(flaky)) == {f"{KEY}/deep/weights.bin"}
    assert RemoteStore(tmp_path / "other", flaky).lookup(KEY, Policy) is None
    built = RemoteStore(tmp_path / "one", flaky).lookup(KEY, Policy)  # the same command: nothing is built
    assert built is not None
    assert RemoteStore(tmp_path / "other", flaky).lookup(KEY, Policy) == built


def test_a_builder_killed_while_it_sends_leaves_nothing_that_is_taken_for_whole(
    flaky: str, tmp_path: Path
) -> None:
    one = RemoteStore(tmp_path / "one", flaky)
    Flaky.works_for, Flaky.failures, Flaky.error = 1, 1, KeyboardInterrupt()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        one.build(KEY, Policy, (), writer("killed"))
    assert set(files(flaky)) == {f"{KEY}/deep/weights.bin"}
    other = RemoteStore(tmp_path / "other", flaky)
    assert other.lookup(KEY, Policy) is None
    built = other.build(KEY, Policy, (), writer("killed"))
    assert set(files(flaky)) == WHOLE
    assert one.lookup(KEY, Policy) == built


def test_a_place_that_no_longer_answers_is_one_clear_error(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    RemoteStore(tmp_path / "one", url).build(KEY, Policy, (), writer())
    other = RemoteStore(tmp_path / "other", url)

    def gone(*arguments: Any, **options: Any) -> None:
        raise TimeoutError

    with monkeypatch.context() as patch:
        patch.setattr(other._mirror._files, "get_file", gone)
        with pytest.raises(
            ArtifactError, match=r"cannot be fetched \(TimeoutError\); what has been finished"
        ):
            other.lookup(KEY, Policy)
        assert list((other.root / "_building").iterdir()) == []
    assert other.lookup(KEY, Policy) is not None


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sftpp://host/x", r"store=sftpp://host/x: .*did you mean sftp://\?"),
        ("nosuch://x", "give a folder, or one fsspec URL"),
        ("://x", "give a folder, or one fsspec URL"),
        ("simplecache::memory://x", "give a folder, or one fsspec URL"),
    ],
)
def test_an_address_of_no_known_kind_is_refused(url: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        open_store(tmp_path / "one", url)
    assert not (tmp_path / "one").exists()


def test_a_driver_that_is_not_installed_is_named(tmp_path: Path) -> None:
    entry = {"class": "no_such_package.NoSuchFileSystem", "err": "Install no_such_package to access nosuch"}
    known_implementations["uninstalled"] = entry
    try:
        with pytest.raises(ConfigError, match=r"driver of uninstalled://.*Install no_such_package"):
            open_store(tmp_path / "one", "uninstalled://bucket/x")
    finally:
        del known_implementations["uninstalled"]


class ReadOnly(MemoryFileSystem):
    """Memory that nobody may write."""

    protocol = "readonly"

    def put_file(self, *arguments: Any, **options: Any) -> None:
        raise PermissionError("read-only")


class Sticky(MemoryFileSystem):
    """Memory from which nothing goes away."""

    protocol = "sticky"

    def rm(self, *arguments: Any, **options: Any) -> None:
        """Do nothing."""


def test_a_place_that_cannot_be_used_is_refused_before_any_work(tmp_path: Path) -> None:
    fsspec.register_implementation("readonly", ReadOnly, clobber=True)
    fsspec.register_implementation("sticky", Sticky, clobber=True)
    (tmp_path / "file").touch()
    for url in ("readonly://x", "sticky://x", f"file://{tmp_path}/file/x", "http://127.0.0.1:9/x"):
        config = RunConfig(name="x", output=str(tmp_path / "runs"), store=url)
        with (
            pytest.raises(
                ConfigError if url.startswith("http") and not has_http() else ArtifactError
            ) as error,
            run_environment(config),
        ):
            pass
        assert f"store={url}: " in str(error.value)
        assert "choose a folder by store=PATH" in str(error.value)
        assert not (tmp_path / "runs").exists()


def has_http() -> bool:
    import importlib.util

    return importlib.util.find_spec("aiohttp") is not None


def test_nothing_is_left_of_the_trial(url: str, tmp_path: Path) -> None:
    open_store(tmp_path / "one", url)
    assert files(url) == {}


def test_what_can_be_created_only_once_is_found_out(tmp_path: Path, flaky: str) -> None:
    for url in (f"file://{tmp_path}/shared", "memory://shared"):
        assert RemoteStore(tmp_path / "one", url)._mirror._creates_only_new


# --- the configuration -----------------------------------------------------------------------------------------------


def test_a_folder_is_no_url(tmp_path: Path) -> None:
    config = RunConfig(store=str(tmp_path / "there"))
    assert (config.store_folder, config.store_url) == (tmp_path / "there", None)
    assert type(open_store(config.store_folder, config.store_url)) is ArtifactStore
    config = RunConfig(output=str(tmp_path), store="memory://shared")
    assert (config.store_folder, config.store_url) == (tmp_path / "store", "memory://shared")
    assert type(open_store(config.store_folder, config.store_url)) is RemoteStore


SECRETS = ["sftp://user:secret@host/x", "s3://AKIA:sec/ret@bucket/x", "abfs://box/x?sas=secret", "a://:pw@h"]
FINE = ["sftp://user@host:22/x@y", "s3://bucket/x", "file:///shared/a:b@c", "/folder/a:b@c?", "runs/store"]


@pytest.mark.parametrize("store", SECRETS)
def test_a_secret_in_the_url_is_refused_here_and_by_the_server(store: str) -> None:
    with pytest.raises(ConfigError, match=r"a URL without a password and without a query.*credentials"):
        load_config("auto_iteration/demo", [f"store={store}"], AutoIterationConfig)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"store": store}, RunConfig.model_json_schema())


@pytest.mark.parametrize("store", [*FINE, None])
def test_an_address_without_a_secret_is_fine(store: str | None) -> None:
    assert RunConfig(store=store).store == store
    jsonschema.validate({"store": store}, RunConfig.model_json_schema())


# --- real runs -------------------------------------------------------------------------------------------------------


@pytest.mark.flow
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc what processes do")
def test_a_run_killed_on_one_machine_goes_on_on_another(
    workshop: tiny.Workshop, undisturbed: tiny.Run, tmp_path: Path
) -> None:
    shared = f"store=file://{tmp_path}/shared"
    killed = workshop.start("machine-a", shared, embedded=True)
    killed.kill_in("iteration 1 · PPO")
    finished = killed.built()
    assert len(finished) >= 8
    other = workshop.start("machine-b", shared).wait()
    assert {label for label, status in other.status().items() if status == "cached"} >= set(finished)
    assert other.status()["iteration 1 · PPO"] == "built"
    assert other.digests() == undisturbed.digests()
    for left in ("_checkpoints", "_building"):
        assert list((other.store / left).iterdir()) == []
