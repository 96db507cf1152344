"""A place named by an fsspec URL where machines leave artifacts for each other. What is sent, what is taken.

Layout under the URL: ``<key>/manifest.json`` says which artifact stands, ``<key>/<digest>/`` holds its files. Files are
sent first, the manifest last, so who sees the manifest sees everything; object stores have no rename, and none is
needed: files of two different builds never lie in one folder, so nothing half-sent can be taken for whole, and sending
the same artifact again writes the same bytes to the same names. Where the driver can create a file only if there is
none (local, S3, memory; found out by trying), the first of two machines wins; elsewhere they look, write and look
again, and in the rare case that both saw nothing the last one wins and the other finds out at its next look.

What a killed sender leaves is a folder of files without a manifest. The next one who builds the same bytes writes over
it. No temporary names are used, and nothing is ever taken from there without its sha256 being that of the manifest.
"""

from __future__ import annotations

import difflib
import logging
import re
import tempfile
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.core import url_to_fs

from flows.artifacts import MANIFEST, FileRecord, Manifest
from flows.file_digests import sha256_file
from reward_data.errors import ArtifactError, ConfigError

log = logging.getLogger(__name__)
PAUSES_SECONDS = (0.5, 2.0, 5.0)
"""How long to wait before each new try of what has failed."""
LOCAL = ("file", "local")
T = TypeVar("T")


class Mirror:
    """Opens the place and tries it out: a small file is written, read back and removed.

    Args:
        url: an fsspec URL of a folder, e.g. ``s3://bucket/prefix``; created where absent, buckets apart.

    Raises:
        ConfigError: no such protocol, or its driver is not installed.
        ArtifactError: the place cannot be reached, or not be written, read and cleaned.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        protocol = _known_protocol(url)
        try:
            self._files, root = url_to_fs(url, **({"auto_mkdir": True} if protocol in LOCAL else {}))
            self._root = root.rstrip("/")
            self._creates_only_new = self._try_out()
        except ImportError as error:
            raise ConfigError(
                f"store={url}: the driver of {protocol}:// is not installed ({error}); install that package where the "
                "stages run, or choose a folder by store=PATH"
            ) from error
        except Exception as error:  # drivers raise what they like
            raise ArtifactError(
                f"store={url}: cannot be written, read and cleaned up here ({_words(error)}); check the address, the "
                f"network, and the credentials in the environment or configuration of the driver of {protocol}://, or "
                "choose a folder by store=PATH"
            ) from error

    def manifest(self, key: str) -> bytes | None:
        """The content of an artifact's manifest as it is now; None where there is none."""
        self._files.invalidate_cache()
        return self._retried(f"the manifest of {key[:12]} cannot be read", lambda: self._read(self._at(key)))

    def fetch(self, manifest: Manifest, out: Path) -> str:
        """Bring an artifact's files into ``out``; returns what is wrong with them, "" where all are as committed.

        Raises:
            ArtifactError: the place does not answer.
        """
        for name, wanted in manifest.files.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            problem = self._fetch_file(f"{self._folder(manifest)}/{name}", out / name, wanted)
            if problem:
                return f"is broken in {self.url}: {name} {problem}"
        log.info("fetched %s %s from %s", manifest.kind, manifest.key[:12], self.url)
        return ""

    def push(self, folder: Path, manifest: Manifest, content: bytes, instead_of: bytes | None) -> bool:
        """Send the artifact in ``folder``; returns whether it stands now, or another one has come in between.

        Args:
            folder: where its files are.
            manifest: its manifest, and ``content``, the bytes of it.
            instead_of: the manifest that it replaces, None where there was none.

        Raises:
            ArtifactError: the place does not answer.
        """
        failed = f"{manifest.kind} {manifest.key[:12]} cannot be sent"
        for name in manifest.files:
            path = f"{self._folder(manifest)}/{name}"
            self._retried(failed, partial(self._files.put_file, str(folder / name), path))
        self._retried(failed, lambda: self._place(self._at(manifest.key), content, instead_of))
        stands = self.manifest(manifest.key) == content
        if stands:
            log.info("sent %s %s to %s", manifest.kind, manifest.key[:12], self.url)
        return stands

    def discard(self, manifest: Manifest) -> None:
        """Remove the files of an artifact that does not stand; where this fails they cost space and nothing else."""
        try:
            self._files.rm(self._folder(manifest), recursive=True)
        except FileNotFoundError:
            return
        except Exception as error:  # drivers raise what they like
            log.info("%s: left behind (%s)", self._folder(manifest), _words(error))

    def _at(self, key: str) -> str:
        return f"{self._root}/{key}/{MANIFEST}"

    def _folder(self, manifest: Manifest) -> str:
        return f"{self._root}/{manifest.key}/{manifest.digest}"

    def _read(self, path: str) -> bytes | None:
        try:
            return bytes(self._files.cat_file(path))
        except FileNotFoundError:
            return None

    def _place(self, path: str, content: bytes, instead_of: bytes | None) -> None:
        """Write a manifest, unless what stands there is no longer ``instead_of``."""
        self._files.invalidate_cache()
        if self._read(path) != instead_of:
            return
        if instead_of is not None or not self._creates_only_new:
            self._files.pipe_file(path, content)
            return
        try:
            with self._files.open(path, "xb") as stream:
                stream.write(content)
        except FileExistsError:
            log.info("%s: another machine was first", path)

    def _fetch_file(self, path: str, target: Path, wanted: FileRecord) -> str:
        def get() -> str:
            try:
                self._files.get_file(path, str(target))
            except FileNotFoundError:
                return "is missing"
            if target.stat().st_size != wanted.size or sha256_file(target) != wanted.sha256:
                return "does not have the contents that were committed"
            return ""

        failed = f"{path} cannot be fetched"
        return self._retried(failed, get) and self._retried(
            failed, get
        )  # a second look: it may be the line's fault

    def _retried(self, failed: str, action: Callable[[], T]) -> T:
        for pause in PAUSES_SECONDS:
            try:
                return action()
            except Exception as error:  # drivers raise what they like
                log.warning("%s: %s (%s), trying again in %g s", self.url, failed, _words(error), pause)
                time.sleep(pause)
        try:
            return action()
        except Exception as error:  # drivers raise what they like
            raise ArtifactError(
                f"{self.url}: {failed} ({_words(error)}); what has been finished is kept in the local store: see that "
                "the place can be reached, then run the same command again, it goes on from there"
            ) from error

    def _try_out(self) -> bool:
        """Write, read and remove a small file; returns whether the driver refuses to create a file that exists."""
        name, content = f"{self._root}/_probe-{uuid.uuid4().hex}", uuid.uuid4().hex.encode()
        with tempfile.TemporaryDirectory() as scratch:
            local = Path(scratch) / "probe"
            local.write_bytes(content)
            self._files.put_file(str(local), name)
        try:
            if self._read(name) != content:
                raise OSError("a file that was written did not come back")
            refuses = self._refuses_existing(name, content)
        finally:
            self._files.rm(name)
        self._files.invalidate_cache()
        if self._read(name) is not None:
            raise OSError("a file that was removed is still there")
        return refuses

    def _refuses_existing(self, name: str, content: bytes) -> bool:
        try:
            with self._files.open(name, "xb") as stream:
                stream.write(content)
        except FileExistsError:
            return True
        except Exception as error:  # drivers raise what they like
            log.debug("%s: no exclusive creation (%s)", self.url, _words(error))
        return False


def _known_protocol(url: str) -> str:
    protocol = re.split(r"://|::", url)[0]
    known = sorted({*fsspec.available_protocols(), *fsspec.registry})
    if "::" in url or protocol not in known:
        close = difflib.get_close_matches(protocol, known, 1)
        hint = f"; did you mean {close[0]}://?" if close and "::" not in url else ";"
        raise ConfigError(
            f"store={url}: not an address that this can work with{hint} give a folder, or one fsspec URL such as "
            "s3://bucket/prefix, gs://bucket/prefix, sftp://host/path or file:///shared/path"
        )
    return protocol


def _words(error: Any) -> str:
    """What an exception says, or its name where it says nothing."""
    return str(error) or type(error).__name__
