"""The smallest whole run: two domains of discs in rings as nnU-Net folders, a rule set, a config, and real processes.

A run of it trains six tiny networks in a few seconds; what takes time is starting Prefect.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import yaml

NETWORK = {"name": "basic_unet", "features": [4, 4, 8, 8, 8, 4], "fold": 1}
LABELS = {"names": ["background", "disc", "ring"]}
REWARD_STEPS = 30
PPO_EPOCHS, PPO_BATCH = 5, 4
TRAINING_IMAGES = 12  # of 16 in the target, the others are in imagesTs
PPO_ROUNDS = PPO_EPOCHS * TRAINING_IMAGES // PPO_BATCH
START_SECONDS = 90.0  # Prefect's start on a busy machine, at the very most


# --- data ------------------------------------------------------------------------------------------------------------


def disc_in_ring(rng: np.random.Generator, dark: bool) -> tuple[np.ndarray, np.ndarray]:
    """One image (32, 32) and its label: 1 = disc, 2 = the ring around it; the target domain is darker and noisier."""
    rows, columns = np.mgrid[:32, :32]
    centre, radius = rng.uniform(13, 19, 2), rng.uniform(4, 6)
    distance = np.hypot(rows - centre[0], columns - centre[1])
    label = np.where(distance < radius, 1, np.where(distance < radius + 3.5, 2, 0)).astype(np.uint8)
    grey = np.array([40.0, 90.0, 200.0])[label] * (0.6 if dark else 1.0)
    image = grey + rng.normal(0, 25 if dark else 10, label.shape)
    return np.clip(image, 0, 255).astype(np.uint8), label


def write_domain(folder: Path, seed: int, dark: bool) -> Path:
    """An nnU-Net raw folder: 12 training images and 4 test images, all with labels."""
    rng = np.random.default_rng(seed)
    for number in range(16):
        suffix = "Tr" if number < TRAINING_IMAGES else "Ts"
        image, label = disc_in_ring(rng, dark)
        name = f"{folder.name}-{number:02d}"
        files = {f"images{suffix}/{name}_0000.nii.gz": image, f"labels{suffix}/{name}.nii.gz": label}
        for path, values in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(values, np.eye(4)), folder / path)
    content = {
        "channel_names": {"0": "grey"},
        "labels": {name: value for value, name in enumerate(LABELS["names"])},
        "numTraining": TRAINING_IMAGES,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def write_config(folder: Path) -> Path:
    """Both domains, the rules and the config of a run of two iterations and the control with PPO off."""
    folder.mkdir(parents=True, exist_ok=True)
    rules = [{"kind": "present", "structure": name} for name in ("disc", "ring")]
    rules.append({"kind": "one_piece", "structure": ["disc", "ring"]})
    (folder / "rules.yaml").write_text(yaml.safe_dump({"classes": LABELS["names"], "rules": rules}))
    domains = {
        name: {
            "path": str(write_domain(folder / name, seed, dark)),
            "domain": name,
            "labels": LABELS,
            "validation_fraction": 0.0,
        }
        for seed, (name, dark) in enumerate((("source", False), ("target", True)))
    }
    config = {
        "name": "tiny",
        "iterations": 2,
        **domains,
        "preprocess": {"shape": [32, 32]},
        "rules": str(folder / "rules.yaml"),
        "policy": {"network": NETWORK},
        "source_training": {"steps": 40, "batch_size": 8, "learning_rate": 0.02, "checkpoint_seconds": 0},
        "shape_components": 4,
        "synthesis": {"agreement": 0.0, "chunk": 1},
        "reward_net": {"network": NETWORK, "steps": REWARD_STEPS, "batch_size": 8, "checkpoint_seconds": 0},
        "ppo": {
            "epochs": PPO_EPOCHS,
            "batch_size": PPO_BATCH,
            "updates": 2,
            "samples": 3,
            "anchor_batch": 4,
            "reward": {"verdict": 1.0, "learned": 1.0},
            "checkpoint_seconds": 0,
        },
        "evaluation": {"montage_cases": 2},
        "stop": {"enabled": False},  # so small a policy moves too far; see test_stop
        "runtime": {"device": "cpu", "threads": 1},
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


# --- processes -------------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """One `rl4seg run` in a process of its own."""

    process: subprocess.Popen[str]
    output: Path
    name: str
    store: Path
    started: float
    said: str = ""
    seconds: float = 0.0
    ended: list[dict[str, Any]] | None = None

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.output / self.name

    def rows(self) -> list[dict[str, Any]]:
        """The stages so far, as lineage.json has them; kept at the end, as the next run of that name begins anew."""
        file = self.folder / "lineage.json"
        if self.ended is not None or not file.exists():
            return self.ended or []
        lineage = json.loads(file.read_text())
        rows: list[dict[str, Any]] = (
            lineage["stages"] if lineage["process"]["pid"] == self.process.pid else []
        )
        return rows

    def status(self) -> dict[str, str]:
        """Stage label -> built, cached, running or failed."""
        return {row["label"]: row["status"] for row in self.rows()}

    def digests(self) -> dict[str, str]:
        """Stage label -> digest of its artifact, the report apart, whose table holds wall times."""
        return {row["label"]: row["digest"] for row in self.rows() if row["stage"] != "write_report"}

    def artifact(self, label: str) -> Path:
        """The folder of a stage's artifact."""
        return self.store / next(row["key"] for row in self.rows() if row["label"] == label)

    def built(self) -> list[str]:
        """Labels of the stages that this run has built itself."""
        return [label for label, status in self.status().items() if status == "built"]

    def wait(self) -> Run:
        """Wait for the end; the exit code has to be 0."""
        self.said, _ = self.process.communicate(timeout=3 * START_SECONDS)
        self.seconds = time.monotonic() - self.started
        self.ended = self.rows()
        assert self.process.returncode == 0, self.said
        assert "Traceback" not in self.said, self.said
        return self

    def kill_in(self, label: str, files: int = 5) -> Path:
        """`kill -9` of a run with a server of its own, and of nothing else, in a stage that has written checkpoints.

        Returns the folder of the checkpoint. The run's server has to end by itself.
        """
        seen: set[tuple[str, int]] = set()
        checkpoint: Path | None = None
        while len(seen) < files:
            assert self.process.poll() is None, (
                f"ended before it could be killed:\n{self.process.communicate()}"
            )
            assert time.monotonic() < self.started + 2 * START_SECONDS, "never came so far"
            time.sleep(0.002)
            if checkpoint is None:
                running = [row for row in self.rows() if (row["label"], row["status"]) == (label, "running")]
                checkpoint = self.store / "_checkpoints" / running[0]["key"] if running else None
            else:
                seen |= {
                    (f.name, f.stat().st_mtime_ns) for f in checkpoint.glob("*") if is_checkpoint(f.name)
                }
        assert checkpoint is not None
        children = child_processes(self.process.pid)
        self.process.send_signal(signal.SIGKILL)
        self.said, _ = self.process.communicate()
        self.ended = self.rows()
        until = time.monotonic() + 15
        while left := [pid for pid in children if is_alive(pid)]:
            assert time.monotonic() < until, f"processes left behind by kill -9: {left}"
            time.sleep(0.1)
        assert children, "the run had no server"
        assert self.status()[label] == "running", "the stage had ended already"
        return checkpoint


@dataclass(frozen=True)
class Workshop:
    """Where runs of one config happen; all keep their Prefect records in one place, like those of one user.

    They use one server, at ``api``, but for those that are started with ``embedded``: these bring their own.
    """

    config: Path
    folder: Path
    api: str
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(
        self,
        output: str,
        *overrides: str,
        name: str = "tiny",
        command: str = "run",
        embedded: bool = False,
        **environment: str,
    ) -> Run:
        """Start ``rl4seg run``, or another command with a config; runs of one ``output`` share its store."""
        place = self.folder / output
        words = (command, str(self.config), *overrides, f"name={name}", f"output={place}")
        server = {} if embedded else {"PREFECT_API_URL": self.api}
        return Run(
            self._process(*words, **server, **environment), place, name, place / "store", time.monotonic()
        )

    def call(self, *words: str) -> Run:
        """Any other command of ``rl4seg``, to its end."""
        process = self._process(*words, PREFECT_API_URL=self.api)
        return Run(process, self.folder, "", self.folder / "store", time.monotonic()).wait()

    def _process(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        program = str(Path(sys.executable).with_name("rl4seg"))
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
        own = {"PREFECT_HOME": str(self.folder / "prefect"), "OMP_NUM_THREADS": "1", **environment}
        process = subprocess.Popen(
            [program, *words],
            env=inherited | own,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.processes.append(process)
        return process

    def close(self) -> None:
        """End what a failed test has left running."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.communicate()


def is_checkpoint(name: str) -> bool:
    """Whether a file of a checkpoint folder is finished: a part of a synthesis, or the state of a training."""
    return name == "state.pt" or (name.startswith("part-") and name.endswith(".h5"))


def child_processes(pid: int) -> list[int]:
    """Ids of the direct children, whichever thread has started them."""
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        children += map(int, (task / "children").read_text().split())
    return children


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Arrivals:
    """Counts the files that are renamed into a folder, by asking the kernel (inotify): none is missed, none guessed.

    Departures are asked for as well: the kernel takes equal events in a row for one.
    """

    MOVED_FROM, MOVED_TO = 0x40, 0x80

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._stream = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        watch = libc.inotify_add_watch(self._stream, os.fsencode(folder), self.MOVED_FROM | self.MOVED_TO)
        if min(self._stream, watch) < 0:
            raise OSError(ctypes.get_errno(), f"{folder} cannot be watched")

    def names(self) -> list[str]:
        """The names of the files that have arrived, in order; stops watching."""
        names: list[str] = []
        try:
            while True:
                events = os.read(self._stream, 65536)
                place = 0
                while place < len(events):
                    _, mask, _, size = struct.unpack_from("iIII", events, place)
                    place += 16 + size
                    if mask & self.MOVED_TO:
                        names.append(os.fsdecode(events[place - size : place].rstrip(b"\0")))
        except BlockingIOError:
            return names
        finally:
            os.close(self._stream)
