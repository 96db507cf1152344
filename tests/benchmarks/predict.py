"""Throughput and memory of `rl4seg predict` against its bare networks: ``python -m tests.benchmarks.predict MODEL``.

MODEL is a run or a package; its networks are used on images of 256 x 256, and give sensible masks if they were trained
on that. Files are made on the fly. For every kind of file, once with masks alone and once with all, repeatedly and in
turn: images per second of the command and of the networks that it calls (same batch, same threads, measured before and
after in the same process), their ratio, and the memory of the process. Where others use the machine, clocks say little;
so the core time per image of both is there, too, of the networks with one thread, since threads that wait take time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from itertools import product
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import torch
from PIL import Image

from flows.predict.command import predict
from flows.predict.request import request_from
from reward_data.inputs import list_inputs
from reward_data.phantom import PhantomConfig, phantom_case
from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.package import load_package, package_folder, save_package
from rl4seg.reward_net import reward_input
from rl4seg.runtime import start

WRITTEN = {"masks": "masks", "all": "errors,overlays"}
SIDE, BATCH, ORIGINALS, BATCHES = 256, 16, 48, 10


def at_256(model: Path, folder: Path) -> Path:
    """The package, its networks used on images of 256 x 256."""
    package = load_package(package_folder(model), start(RuntimeConfig(device="cpu")))
    shape = {"shape": (SIDE, SIDE)}
    package.spec = package.spec.model_copy(
        update={"preprocess": package.spec.preprocess.model_copy(update=shape)}
    )
    for part in (package.model, *([package.reward.model] if package.reward else [])):
        part.spec = part.spec.model_copy(update=shape)
    save_package(package, folder)
    return folder


def write_files(folder: Path, kind: str, count: int) -> None:
    """Phantom images, each shown with noise of its own."""
    folder.mkdir()
    config = PhantomConfig(domain="target", cases=ORIGINALS, shape=(SIDE, SIDE), seed=3)
    originals = [phantom_case(config, index).image[0] for index in range(min(ORIGINALS, count))]
    rng = np.random.default_rng(0)
    for number in range(count):
        image = originals[number % len(originals)]
        image = (image - image.min()) / np.ptp(image) + rng.normal(0, 0.02, image.shape)
        values = np.rint(255 * image.clip(0, 1)).astype(np.uint8)
        if kind == "png":
            Image.fromarray(values).save(folder / f"{number:05d}.png", compress_level=1)
        else:
            nib.save(nib.Nifti1Image(values.T, np.diag([0.3, 0.3, 1, 1])), folder / f"{number:05d}.nii.gz")


class Memory:
    """Resident memory of this process in MB, five times a second."""

    def __init__(self) -> None:
        self.seen: list[float] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        while not self._ended.wait(0.2):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.seen.append(pages * page / 2**20)


class Bare(NamedTuple):
    """Policy and reward net alone: images per second with all threads, core time in ms per image with one."""

    rate: float
    core_ms: float


def bare_networks(model: Path, source: Path, threads: int) -> Bare:
    """Both networks on the first images, without anything around them."""
    runtime = start(RuntimeConfig(device="cpu", threads=threads, batch_size=BATCH))
    package = load_package(model, runtime)
    files = list_inputs(source)[:BATCH]
    batch = torch.from_numpy(np.stack([read(file.path) for file in files])[:, None])
    with torch.no_grad():
        masks = package.model.network(batch).argmax(1)
        inputs = reward_input(batch, masks, package.model.num_classes)

        def once() -> None:
            package.model.network(batch)
            if package.reward is not None:
                package.reward.model.network(inputs)

        began = time.perf_counter()
        for _ in range(BATCHES):
            once()
        rate = BATCHES * len(files) / (time.perf_counter() - began)
        torch.set_num_threads(1)
        began = time.process_time()
        for _ in range(BATCHES):
            once()
        return Bare(rate, 1000 * (time.process_time() - began) / (BATCHES * len(files)))


def read(path: Path) -> np.ndarray:
    values = np.asarray(Image.open(path)) if path.suffix == ".png" else np.asarray(nib.load(path).dataobj).T
    return values.astype(np.float32) / 255


def measure(model: Path, source: Path, save: str, threads: int) -> dict[str, float]:
    """One configuration, in a process of its own."""
    before = bare_networks(model, source, threads)
    count = len(list_inputs(source))
    with tempfile.TemporaryDirectory() as scratch, Memory() as memory:
        request = request_from(
            model, source, Path(scratch) / "out", device="cpu", threads=threads, batch_size=BATCH, save=save
        )
        began, core, first = time.perf_counter(), time.process_time(), len(memory.seen)
        predict(request)
        rate, core_ms = count / (time.perf_counter() - began), 1000 * (time.process_time() - core) / count
    after = bare_networks(model, source, threads)
    bare, bare_core_ms = ((one + two) / 2 for one, two in zip(before, after, strict=True))
    seen = memory.seen[first:]
    fifth = max(1, len(seen) // 5)
    return {
        "rate": rate,
        "bare": bare,
        "ratio": rate / bare,
        "core_ms": core_ms,
        "bare_core_ms": bare_core_ms,
        "peak": max(seen),
        "second_fifth": float(np.mean(seen[fifth : 2 * fifth])),
        "last_fifth": float(np.mean(seen[-fifth:])),
        "load": os.getloadavg()[0],
    }


COLUMNS = {
    "rate": "images/s", "bare": "bare networks", "ratio": "ratio", "core_ms": "core-ms", "bare_core_ms": "bare core-ms",
    "core_ratio": "core ratio", "peak": "peak MB", "second_fifth": "MB early", "last_fifth": "MB late", "load": "load",
}  # fmt: skip


def row(kind: str, written: str, found: dict[str, float]) -> str:
    """A line of the table."""
    values = found | {"core_ratio": found["bare_core_ms"] / found["core_ms"]}
    cells = [f"{values[key]:.2f}" if "ratio" in key else f"{values[key]:.1f}" for key in COLUMNS]
    return "| " + " | ".join([kind, written, *cells]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="run or model package")
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=1, help="of everything, in turn")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of torch")
    parser.add_argument("--kinds", nargs="+", choices=("nifti", "png"), default=("nifti", "png"))
    parser.add_argument("--written", nargs="+", choices=tuple(WRITTEN), default=tuple(WRITTEN))
    parser.add_argument("--source", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--save", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.source is not None:
        print("RESULT", json.dumps(measure(given.model, given.source, given.save, given.threads)))
        return
    print(f"{given.files} files of {SIDE} x {SIDE}, batches of {BATCH}, {given.threads} threads")
    print("| files | written | " + " | ".join(COLUMNS.values()) + " |")
    print("|---" * (len(COLUMNS) + 2) + "|")
    with tempfile.TemporaryDirectory() as scratch:
        model = at_256(given.model, Path(scratch) / "model")
        for kind in given.kinds:
            write_files(Path(scratch) / kind, kind, given.files)
        for kind, written in list(product(given.kinds, given.written)) * given.repeats:
            command = [
                sys.executable,
                "-m",
                "tests.benchmarks.predict",
                str(model),
                "--save",
                WRITTEN[written],
            ]
            command += ["--source", str(Path(scratch) / kind), "--threads", str(given.threads)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            print(row(kind, written, json.loads(done.stdout.split("RESULT", 1)[1])), flush=True)


if __name__ == "__main__":
    main()
