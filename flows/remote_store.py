"""Artifacts at an fsspec URL: worked on in a local store, shared through the URL, so that any machine can go on.

The URL is the one truth that several machines share, the local store a verified copy of parts of it:

- Look up: what stands at the URL counts. A local copy of it with every byte verified is a hit; otherwise it is fetched
  into the local store, the sha256 of every file checked against the manifest on arrival, and appears in one rename.
  A local artifact that the URL lacks (a push that failed, a run from before the URL was given) is sent there first.
- Build: here, then sent there. Where another machine has meanwhile sent an artifact of the same key, theirs is taken
  even if its bytes differ and the local one is thrown away: later stages' keys hold digests, so a machine that kept
  its own bytes would share nothing with the others from there on. First come, first kept; no machine is waited for.
- Broken there (a missing or altered file, an unreadable manifest) is like broken here: warned about, built again, and
  replaced. An artifact that a run has to build anew (``since``) replaces the older one in the same way.

A look at the URL costs one read of a manifest per stage. Between two machines there is no lock: started at the same
time on the same config they may both build a stage, and one build is thrown away. No stage ever waits for a machine
that has died.

Checkpoints inside a stage stay local: a run resumed on another machine starts its broken stage anew, and the finished
ones are Cached. Only a shared folder as the store carries checkpoints over.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import NamedTuple

from flows.artifacts import MANIFEST, ArtifactRef, Manifest, RefT
from flows.mirror import Mirror
from flows.store import ArtifactStore
from reward_data.errors import ArtifactError

log = logging.getLogger(__name__)
SECOND_LOOK_SECONDS = 0.5
LOOKS = 5  # how often what stands at the URL may change under our eyes


def open_store(folder: Path, url: str | None) -> ArtifactStore:
    """The artifact store in a folder, with a URL behind it where there is one: see ``RunConfig.store``.

    Raises:
        ConfigError: the URL's protocol is unknown or its driver not installed.
        ArtifactError: the folder or the URL cannot be used.
    """
    return ArtifactStore(folder) if url is None else RemoteStore(folder, url)


class _There(NamedTuple):
    """What stands at the URL under a key; ``manifest`` is None where that is no answer, ``problem`` why if broken."""

    content: bytes | None
    manifest: Manifest | None
    problem: str = ""


class RemoteStore(ArtifactStore):
    """A local store that shares its artifacts through a mirror.

    Args:
        root: the local folder.
        url: the place that is shared.
    """

    def __init__(self, root: Path | str, url: str) -> None:
        self._mirror = Mirror(url)
        super().__init__(root)
        self._broken: dict[
            str, tuple[bytes, str]
        ] = {}  # key -> manifest whose files are not what it says, the problem

    def lookup(self, key: str, type_: type[RefT], since: float | None = None) -> RefT | None:
        """As `ArtifactStore.lookup`, of what stands at the URL; fetches it where it is not here.

        Raises:
            ArtifactError: the artifact is of another kind than ``type_``, or the URL does not answer.
        """
        with self._lock(key, f"{type_.__name__} {key[:12]}"):
            return self._standing(key, type_, since)[0]

    def path(self, ref: ArtifactRef) -> Path:
        """As `ArtifactStore.path`; fetches the artifact where it is not here."""
        if self._verified(ref.key, type(ref))[0] != ref:
            with self._lock(ref.key, f"{ref.kind} {ref.key[:12]}"):
                there = self._there(ref.key, type(ref), None)
                if there.manifest is not None and there.manifest.digest == ref.digest:
                    self._fetched(there, type(ref))
        return super().path(ref)

    def _standing(self, key: str, type_: type[RefT], since: float | None) -> tuple[RefT | None, str]:
        """What answers for ``key`` here and there; called under the key's lock."""
        here, problem = super()._standing(key, type_, since)
        if here is not None:
            return self._settled(here, since), ""
        for _ in range(LOOKS):
            there = self._there(key, type_, since)
            if there.manifest is None:
                return None, problem or there.problem
            fetched = self._fetched(there, type_)
            if fetched is not None:
                return fetched, ""
        return None, f"is replaced in {self._mirror.url} again and again"

    def _settled(self, ref: RefT, since: float | None) -> RefT:
        """The artifact that all machines go by: theirs where one stands at the URL, else ``ref``, sent there."""
        content = (self.root / ref.key / MANIFEST).read_bytes()
        mine = Manifest.parse(content, ref.key)
        sent = False
        for _ in range(LOOKS):
            there = self._there(ref.key, type(ref), since)
            if there.manifest is not None and there.manifest.digest == ref.digest:
                return ref
            if there.manifest is not None:
                fetched = self._fetched(there, type(ref))
                if fetched is None:
                    continue  # broken, or replaced while it was fetched: look again
                log.warning(
                    "%s %s: another machine has built it with other bytes; theirs is taken",
                    ref.kind,
                    ref.key[:12],
                )
                if sent:
                    self._mirror.discard(mine)
                return fetched
            if there.problem:
                log.warning("%s %s %s: replacing it", ref.kind, ref.key[:12], there.problem)
            sent = True
            if self._mirror.push(self.root / ref.key, mine, content, instead_of=there.content):
                self._discard_replaced(there, mine)
                return ref
        raise ArtifactError(
            f"{self._mirror.url}: {ref.kind} {ref.key[:12]} is replaced there again and again; see who else writes "
            "there, then run the same command again: what has been finished is kept in the local store"
        )

    def _discard_replaced(self, there: _There, mine: Manifest) -> None:
        try:
            old = Manifest.parse(there.content or b"", mine.key)
        except ValueError:
            return
        if old.digest != mine.digest:
            self._mirror.discard(old)

    def _there(self, key: str, type_: type[ArtifactRef], since: float | None) -> _There:
        """What stands at the URL, as far as its manifest tells."""
        content = self._mirror.manifest(key)
        if content is None:
            return _There(None, None)
        known, problem = self._broken.get(key, (None, ""))
        if content == known:
            return _There(content, None, problem)
        try:
            manifest = Manifest.parse(content, key)
        except ValueError as error:
            time.sleep(SECOND_LOOK_SECONDS)  # it may be in the middle of being written
            self._broken[key] = content, f"has a broken manifest in {self._mirror.url} ({error})"
            return self._there(key, type_, since)
        manifest.ref(type_, self._mirror.url)
        older = since is not None and (manifest.committed or 0.0) < since
        return _There(content, None if older else manifest)

    def _fetched(self, there: _There, type_: type[RefT]) -> RefT | None:
        """Bring what stands at the URL here; None where it is broken there, which is remembered."""
        manifest, content = there.manifest, there.content
        if manifest is None or content is None:
            raise ArtifactError(f"nothing to fetch from {self._mirror.url}; run the same command again")
        label = f"{manifest.kind} {manifest.key[:12]}"
        with self._scratch(manifest.key, label) as out:
            problem = self._mirror.fetch(manifest, out)
            if problem:
                self._broken[manifest.key] = content, problem
                return None
            self._commit(out, manifest, content)
        return manifest.ref(type_, str(self.root))
