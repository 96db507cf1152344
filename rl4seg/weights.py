"""Weights of a network on disk: safetensors, or a torch file of plain tensors; nothing that could run code."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from reward_data.errors import ArtifactError


def save_weights(network: nn.Module, path: Path) -> None:
    """Write a safetensors file; equal weights give equal bytes."""
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    save_file(state, path)
    path.chmod(0o644)  # safetensors keeps its files to their owner; a package is to be shared


def load_weights(network: nn.Module, path: Path, remedy: str = "Set policy.network.* to match") -> None:
    """Load a state dict (safetensors, or a torch file of plain tensors) into ``network``.

    Raises:
        ArtifactError: the file is missing or unreadable, or names and shapes are not those of the network; it then
            says how they differ, and ``remedy``.
    """
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, SafetensorError, ValueError, EOFError, KeyError) as error:
        raise ArtifactError(
            f"{path}: not a readable checkpoint ({error}); give .safetensors or a torch state dict"
        ) from error
    except (
        Exception
    ) as error:  # torch raises its own pickle.UnpicklingError for anything that is not plain tensors
        raise ArtifactError(
            f"{path}: refused, it holds more than plain tensors; save model.state_dict()"
        ) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    got = {name: tuple(getattr(value, "shape", ())) for name, value in state.items()}
    if wanted != got:
        raise ArtifactError(f"{path}: weights of another architecture. {_difference(wanted, got)}. {remedy}.")
    network.load_state_dict(state)


def _difference(wanted: dict[str, tuple[int, ...]], got: dict[str, tuple[int, ...]]) -> str:
    missing = sorted(wanted.keys() - got.keys())
    extra = sorted(got.keys() - wanted.keys())
    shapes = [
        f"{n} is {got[n]}, wanted {wanted[n]}"
        for n in sorted(wanted.keys() & got.keys())
        if wanted[n] != got[n]
    ]
    parts = [
        f"{len(missing)} missing (e.g. {missing[0]})" if missing else "",
        f"{len(extra)} unknown (e.g. {extra[0]})" if extra else "",
    ]
    parts.append(f"{len(shapes)} of other shape (e.g. {shapes[0]})" if shapes else "")
    return "; ".join(part for part in parts if part)
