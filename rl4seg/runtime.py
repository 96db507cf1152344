"""Device, precision, threads and every global seed, in this one place."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from reward_data.errors import ConfigError
from rl4seg.configs.runtime import RuntimeConfig


@dataclass(frozen=True)
class Runtime:
    """A resolved RuntimeConfig, handed to every function that touches a network."""

    device: torch.device
    bfloat16: bool
    batch_size: int

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """The precision scope of every forward pass."""
        if not self.bfloat16:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def tensor(self, array: np.ndarray, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """A numpy array on this runtime's device."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device, dtype)


def start(config: RuntimeConfig) -> Runtime:
    """Resolve the device, set threads, and ask torch for repeatable kernels.

    Raises:
        ConfigError: a CUDA device is asked for and none is visible, or the name is not a device.
    """
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"runtime.device={name!r} is no device; use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"runtime.device={name!r}, but no CUDA device is visible; use runtime.device=cpu")
    if config.threads or "OMP_NUM_THREADS" not in os.environ:  # which torch has read itself
        torch.set_num_threads(config.threads or len(os.sched_getaffinity(0)))
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=device.type != "cpu")
    bfloat16 = config.precision == "bfloat16" or (config.precision == "auto" and device.type == "cuda")
    return Runtime(device, bfloat16, config.batch_size)


@contextlib.contextmanager
def side_by_side(runtime: Runtime) -> Iterator[int]:
    """How many forward passes to run at once, from as many Python threads of the caller.

    On a CPU one per thread of torch, each with a single one: passes that share threads wait for each other in every
    layer, and for whatever else the cores do. Elsewhere 1. The number of torch's threads is put back at the end.
    """
    threads = torch.get_num_threads()
    if runtime.device.type != "cpu" or threads == 1:
        yield 1
        return
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def derive_seed(*path: int) -> int:
    """One 63-bit seed from a path of integers, e.g. (run seed, stage, step); equal paths, equal seeds."""
    return int(
        np.random.SeedSequence([int(p) % 2**32 for p in path]).generate_state(2, np.uint32).view(np.uint64)[0]
        >> 1
    )


def step_generator(*path: int) -> torch.Generator:
    """The CPU generator of one training step; also seeds torch's global generator (dropout) for that step.

    Randomness is a function of (seed, step), so a run resumed at a step draws what it would have drawn.
    """
    seed = derive_seed(*path)
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


@contextlib.contextmanager
def seeded(*path: int) -> Iterator[None]:
    """Initialise networks from a seed without touching the caller's global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(*path))
        yield
