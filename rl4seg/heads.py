"""Networks with several outputs: any network of class logits learns by any loss, without a copy of its head.

What a network returns - one tensor, a sequence of tensors (deep supervision), a dictionary (auxiliary heads), or one
tensor with an axis of outputs (MONAI's deep supervision) - becomes logits by name. The loss is their weighted sum

    sum_o w_o L_o(logits_o, truth),    every logits_o resized to the truth
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from reward_data.errors import ConfigError
from rl4seg.configs.reward_tuning import HeadsConfig

MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}
Loss = Callable[[Tensor], Tensor]


def named_outputs(outputs: Any, dims: int) -> dict[str, Tensor]:
    """Logits by name; a lone tensor is "0", a sequence is numbered. Shape: (B, K, *S) each, ``dims`` spatial axes.

    Raises:
        ConfigError: no outputs, something that is no tensor, or one with other axes than (B, K, *S).
    """
    if isinstance(outputs, Tensor):
        stacked = outputs.ndim == dims + 3
        return named_outputs(list(outputs.unbind(1)) if stacked else [outputs], dims)
    if isinstance(outputs, Mapping):
        named = {str(name): value for name, value in outputs.items() if value is not None}
    elif isinstance(outputs, list | tuple):
        named = {str(place): value for place, value in enumerate(outputs)}
    else:
        raise ConfigError(
            f"the network returned a {type(outputs).__name__}, wanted class logits: a tensor, a sequence or a "
            "dictionary of tensors; wrap it"
        )
    bad = [
        f"{name} ({tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__})"
        for name, value in named.items()
        if not isinstance(value, Tensor) or value.ndim != dims + 2
    ]
    if bad or not named:
        raise ConfigError(
            f"the network's outputs {', '.join(bad) or 'are empty'}: wanted class logits (B, K, *S) with {dims} "
            "spatial axes; return those alone"
        )
    return named


def main_output(outputs: Mapping[str, Tensor], config: HeadsConfig) -> str:
    """Name of the output that predicts.

    Raises:
        ConfigError: the config names an output that is not there.
    """
    for name in (config.main, *config.weights):
        if name and name not in outputs:
            raise ConfigError(f"heads: no output {name!r}, the network has {list(outputs)}; correct the name")
    return config.main or next(iter(outputs))


def resized(logits: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Logits on the grid of the truth, interpolated where they are coarser. Shape: (B, K, *s) -> (B, K, *S)."""
    if logits.shape[2:] == shape:
        return logits
    return functional.interpolate(logits, size=shape, mode=MODES[len(shape)], align_corners=False)


def heads_loss(
    outputs: Mapping[str, Tensor],
    config: HeadsConfig,
    shape: tuple[int, ...],
    loss: Loss,
    auxiliary: Loss | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of the outputs' losses, and each by name, unweighted. An output of weight 0 is left alone.

    Args:
        outputs: as `named_outputs`.
        shape: spatial shape S of the truth.
        loss: of the main output's logits (B, K, *S), and of the others' where ``auxiliary`` is None.
        auxiliary: of the other outputs' logits.

    Raises:
        ConfigError: see `main_output`, or every weight is 0.
    """
    main = main_output(outputs, config)
    weights = {name: config.weights.get(name, 1.0 if name == main else config.others) for name in outputs}
    used = {name: weight for name, weight in weights.items() if weight}
    if not used:
        raise ConfigError(f"heads: all of the outputs {list(outputs)} have weight 0; give one a weight")
    losses = {
        name: (loss if name == main or auxiliary is None else auxiliary)(resized(outputs[name], shape))
        for name in used
    }
    total = torch.stack([used[name] * value for name, value in losses.items()]).sum()
    return total, losses


class MainOutput(nn.Module):
    """A network seen through its predicting output: images (B, C, *S) to logits (B, K, *S) on the images' grid."""

    def __init__(self, network: nn.Module, config: HeadsConfig | None = None) -> None:
        super().__init__()
        self.network, self.config = network, config or HeadsConfig()

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """All outputs, by name."""
        return named_outputs(self.network(images), images.ndim - 2)

    def forward(self, images: Tensor) -> Tensor:
        """The predicting output."""
        outputs = self.outputs(images)
        return resized(outputs[main_output(outputs, self.config)], tuple(images.shape[2:])).float()
