"""The folder of one run: what was asked for, with which versions, and where every artifact comes from."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reward_data.errors import ArtifactError, ConfigError

PACKAGES = (
    "rl4seg", "torch", "monai", "prefect", "pydantic", "numpy", "scipy", "scikit-image", "h5py", "nibabel",
    "safetensors",
)  # fmt: skip
LINEAGE = "lineage.json"
Status = Literal["running", "built", "cached", "failed", "stopped", "waiting"]


class StageRow(BaseModel):
    """One stage of a run, as lineage.json keeps it.

    ``seconds`` is what building the artifact took, whenever that was; ``path`` is relative to the store; ``stopped``
    is a running stage whose process is no more, ``waiting`` one that an expert has to answer; its ``error`` says how.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str
    label: str
    status: Status
    key: str
    kind: str
    digest: str | None = None
    size: int | None = None
    made_from: tuple[str, ...] = ()
    seconds: float | None = None
    path: str | None = None
    metrics: dict[str, Any] = Field(default_factory=dict)
    error: str | None = None


class ProcessRecord(BaseModel):
    """The process that runs or ran a run.

    ``folder`` is its current folder, from which relative paths start; ``flow_run`` its id in Prefect, ``deployed``
    whether a worker started it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    pid: int
    host: str
    folder: str = ""
    flow_run: str | None = None
    deployed: bool = False

    @classmethod
    def current(cls) -> ProcessRecord:
        """This process, with the flow run in it, if any."""
        flow_run, deployed = None, False
        if "prefect" in sys.modules:
            from prefect.context import FlowRunContext

            context = FlowRunContext.get()
            if context is not None and context.flow_run is not None:
                flow_run, deployed = str(context.flow_run.id), context.flow_run.deployment_id is not None
        return cls(
            pid=os.getpid(),
            host=socket.gethostname(),
            folder=str(Path.cwd()),
            flow_run=flow_run,
            deployed=deployed,
        )

    def alive(self) -> bool:
        """Whether it runs; one of another machine is taken to."""
        if self.host != socket.gethostname():
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


class RunFolder:
    """Writes the files of a run folder, each in one rename: a killed run leaves them readable.

    Args:
        path: the folder; an earlier run of the same name keeps its other files, its lineage starts anew.
        above: the folder of a run that this one is a part of: its lineage tells of these stages as well.
        prefix: what labels begin with there.
    """

    def __init__(self, path: Path, above: RunFolder | None = None, prefix: str = "") -> None:
        self.path, self._above, self._prefix = path, above, prefix
        self._places_above: list[int] = []
        self.rows: list[StageRow] = []
        self._process = ProcessRecord.current()

    @classmethod
    def create(
        cls,
        path: Path | str,
        config_yaml: str,
        seeds: Mapping[str, int],
        above: RunFolder | None = None,
        prefix: str = "",
    ) -> RunFolder:
        """Make the folder with config.yaml, versions.json, seeds.json and an empty lineage.json; see the class.

        Raises:
            ConfigError: the folder cannot be written.
        """
        run = cls(Path(path), above, prefix)
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            run._clean()
            _write(run.path / "config.yaml", config_yaml)
            _write(run.path / "versions.json", _json(versions()))
            _write(run.path / "seeds.json", _json(dict(seeds)))
            run._save()
        except OSError as error:
            raise ConfigError(
                f"{path}: the run folder cannot be written ({error.strerror}); choose another by output=FOLDER"
            ) from error
        return run

    def begin(self, stage: str, label: str, key: str, kind: str) -> int:
        """Note that a stage has started; returns its place for `finish`."""
        self.rows.append(StageRow(stage=stage, label=label, status="running", key=key, kind=kind))
        self._save()
        if self._above is not None:
            self._places_above.append(self._above.begin(stage, self._prefix + label, key, kind))
        return len(self.rows) - 1

    def finish(self, place: int, status: Status, **values: Any) -> None:
        """Note how the stage at ``place`` ended; ``values`` are fields of `StageRow`."""
        self.rows[place] = StageRow.model_validate(
            self.rows[place].model_dump() | {"status": status, **values}
        )
        self._save()
        if self._above is not None:
            self._above.finish(self._places_above[place], status, **values)

    def publish(self, folder: Path, into: str = "") -> None:
        """Copy the files of an artifact to the top of the run folder, or into a folder there."""
        for source in sorted(path for path in folder.rglob("*") if path.is_file()):
            if source.name != "manifest.json":
                target = self.path / into / source.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                with _renamed_to(target) as temporary:
                    shutil.copyfile(source, temporary)

    def write(self, name: str, text: str) -> None:
        """Write a text file of the run folder, in a folder that is there."""
        _write(self.path / name, text)

    def _clean(self) -> None:
        """Remove the temporary files of processes that have died while writing."""
        for left in self.path.glob(f".*.{socket.gethostname()}.*.tmp"):
            pid = left.name.split(".")[-3]
            if pid.isdigit() and not ProcessRecord(pid=int(pid), host=socket.gethostname()).alive():
                left.unlink(missing_ok=True)

    def _save(self) -> None:
        process = self._process.model_dump(mode="json")
        stages = [row.model_dump(mode="json") for row in self.rows]
        _write(self.path / LINEAGE, _json({"process": process, "stages": stages}))


def read_status(path: Path | str) -> list[StageRow]:
    """The stages of a run in order, finished or not.

    Raises:
        ArtifactError: the folder holds no lineage, or an unreadable one.
    """
    process, rows = _read(Path(path))
    alive = process.alive()
    return [
        row.model_copy(update={"status": "stopped"}) if row.status == "running" and not alive else row
        for row in rows
    ]


def read_process(path: Path | str) -> ProcessRecord:
    """The process that last worked on a run.

    Raises:
        ArtifactError: the folder holds no lineage, or an unreadable one.
    """
    return _read(Path(path))[0]


def _read(path: Path) -> tuple[ProcessRecord, list[StageRow]]:
    file = path / LINEAGE
    if not file.is_file():
        raise ArtifactError(f"{path}: no {LINEAGE} here; give the folder of a run, e.g. runs/NAME")
    try:
        lineage = json.loads(file.read_text(encoding="utf-8"))
        process = ProcessRecord.model_validate(lineage["process"])
        return process, [StageRow.model_validate(row) for row in lineage["stages"]]
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise ArtifactError(
            f"{file}: not a lineage of this program ({error}); run the same command again"
        ) from error


def versions() -> dict[str, str | None]:
    """Python, platform, the packages that matter (without importing them) and the git commit of the code, if any."""
    found: dict[str, str | None] = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found | {"commit": _commit()}


def _commit() -> str | None:
    """The checked-out commit, ``+changes`` where files differ from it; None outside a checkout."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--abbrev=40",
        "--dirty=+changes",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _write(path: Path, text: str) -> None:
    with _renamed_to(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def _renamed_to(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that becomes it at the end."""
    prefix = f".{path.name}.{socket.gethostname()}.{os.getpid()}."
    descriptor, name = tempfile.mkstemp(prefix=prefix, suffix=".tmp", dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
