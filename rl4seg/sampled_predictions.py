"""Class probabilities as a mean over samples: test-time augmentation, dropout at test time, an ensemble.

Every sample of every image is drawn by a generator of its own, seeded by (seed, case, sample): what is drawn depends
neither on the batch that an image is in nor on the device. The networks stay in eval mode and are left as they were.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from reward_data.errors import ConfigError
from reward_data.types import Float64
from rl4seg.augment import BatchAugmentation, apply_to_images, draw
from rl4seg.configs.augment import AugmentConfig
from rl4seg.metrics import mutual_information
from rl4seg.policies import Model
from rl4seg.runtime import Runtime, derive_seed

AUGMENTATION, DROPOUT = 41, 42  # branches of the seed tree
DROPOUT_LAYERS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
WHOLE_CHANNELS = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
ACTIVATIONS = (
    nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Softplus,
)  # fmt: skip


class Sampled(NamedTuple):
    """Mean probabilities (B, K, *S), and what the samples disagree about: mutual information (B, *S) in nats."""

    probabilities: Tensor
    information: Float64


def averaged(samples: Iterable[tuple[Tensor, Tensor]]) -> Sampled:
    """The mean of (probabilities (B, K, *S), weight (B, 1, *S)); every pixel needs some weight."""
    total: Tensor | None = None
    for probabilities, weight in samples:
        entropy = torch.special.entr(probabilities).sum(1, keepdim=True)
        part = torch.cat([probabilities, entropy, torch.ones_like(entropy)], 1) * weight
        total = part if total is None else total + part
    if total is None:
        raise ValueError("no samples to average; wanted at least one")
    mean = total[:, :-1] / total[:, -1:]
    probabilities, entropy = mean[:, :-1], mean[:, -1]
    return Sampled(probabilities, mutual_information(probabilities.cpu().numpy(), entropy.cpu().numpy()))


@torch.no_grad()
def probabilities_of(model: Model, images: Tensor, runtime: Runtime) -> Tensor:
    """One plain pass in eval mode. Shape: (B, C, *S) -> (B, K, *S)."""
    model.network.eval()
    with runtime.autocast():
        logits = model.network(images)
    probabilities: Tensor = logits.float().softmax(1)
    return probabilities


def _generators(cases: Sequence[int], *path: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(derive_seed(*path, case)) for case in cases]


# --- test-time augmentation ------------------------------------------------------------------------------------------


def draw_per_image(
    config: AugmentConfig, images: Tensor, generators: Sequence[torch.Generator]
) -> BatchAugmentation:
    """One augmentation per image (B, C, *S), each from its own generator."""
    parts = [draw(config, images[i : i + 1], generator) for i, generator in enumerate(generators)]
    names = ("theta", "brightness", "contrast", "gamma", "noise")
    return BatchAugmentation(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def undo_affine(record: BatchAugmentation, probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """Bring what was seen in the moved image back: (probabilities (B, K, *S), weight (B, 1, *S) in [0, 1]).

    The weight is the share of a pixel that was inside the moved image; without any the probabilities mean nothing.
    """
    dims = probabilities.ndim - 2
    square = torch.eye(dims + 1).repeat(len(probabilities), 1, 1)
    square[:, :dims] = record.theta
    inverse = torch.linalg.inv(square)[:, :dims].to(probabilities)
    padded = torch.cat([probabilities, torch.ones_like(probabilities[:, :1])], 1)
    grid = functional.affine_grid(inverse, list(padded.shape), align_corners=False)
    moved = functional.grid_sample(padded, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    weight = moved[:, -1:].clamp(0, 1)
    return moved[:, :-1] / weight.clamp_min(1e-6), weight


@torch.no_grad()
def augmented(
    model: Model,
    images: Tensor,
    cases: Sequence[int],
    config: AugmentConfig,
    draws: int,
    seed: int,
    runtime: Runtime,
) -> Sampled:
    """Test-time augmentation: the plain image and ``draws`` moved and recoloured ones, moved back and averaged.

    Wang et al. 2019, arXiv 1807.07356. Shape: images (B, C, *S).
    """

    def samples() -> Iterator[tuple[Tensor, Tensor]]:
        plain = probabilities_of(model, images, runtime)
        yield plain, torch.ones_like(plain[:, :1])
        for number in range(draws):
            record = draw_per_image(config, images, _generators(cases, seed, AUGMENTATION, number))
            yield undo_affine(record, probabilities_of(model, apply_to_images(record, images), runtime))

    return averaged(samples())


# --- dropout at test time --------------------------------------------------------------------------------------------


def trained_with_dropout(model: Model) -> bool:
    """Whether the network has dropout layers that do something in training."""
    return bool(_dropout_layers(model))


def _dropout_layers(model: Model) -> list[nn.Module]:
    return [m for m in model.network.modules() if isinstance(m, DROPOUT_LAYERS) and m.p > 0]


@contextmanager
def dropout_on(model: Model, rate: float, generators: Sequence[torch.Generator]) -> Iterator[None]:
    """Dropout inside the block, the network itself in eval mode: hooks that are gone afterwards.

    A network trained with dropout drops where and as much as in training (Gal & Ghahramani 2016, arXiv 1506.02142).
    Any other drops ``rate`` of the values after every activation, that is after its convolution blocks: training-free
    injection (Ledda, Fumera & Roli 2023, arXiv 2302.02924).

    Raises:
        ConfigError: the network has neither dropout nor activation layers to hook.
    """
    layers = _dropout_layers(model)
    chosen = layers or [m for m in model.network.modules() if isinstance(m, ACTIVATIONS)]
    if not chosen:
        raise ConfigError(
            f"network {model.spec.network.name!r} has no dropout and no activation layers to put dropout after; "
            "leave the method out by dropout_passes=0"
        )
    rates = [float(getattr(layer, "p", rate)) if layers else rate for layer in chosen]
    hooks = [
        layer.register_forward_hook(partial(_drop, own, generators))
        for layer, own in zip(chosen, rates, strict=True)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _drop(
    rate: float, generators: Sequence[torch.Generator], layer: nn.Module, inputs: Any, output: Tensor
) -> Tensor:
    """A forward hook: values (or whole channels) set to 0 with probability ``rate``, the others scaled up."""
    shape = list(output.shape[1:])
    if isinstance(layer, WHOLE_CHANNELS):
        shape[1:] = [1] * (len(shape) - 1)
    kept = torch.stack([torch.rand(shape, generator=generator) >= rate for generator in generators])
    return output * kept.to(output) / (1 - rate)


@torch.no_grad()
def with_dropout(
    model: Model,
    images: Tensor,
    cases: Sequence[int],
    passes: int,
    rate: float,
    seed: int,
    runtime: Runtime,
) -> Sampled:
    """The mean over ``passes`` passes with dropout on; see `dropout_on`. Shape: images (B, C, *S)."""

    def samples() -> Iterator[tuple[Tensor, Tensor]]:
        for number in range(passes):
            with dropout_on(model, rate, _generators(cases, seed, DROPOUT, number)):
                probabilities = probabilities_of(model, images, runtime)
            yield probabilities, torch.ones_like(probabilities[:, :1])

    return averaged(samples())


# --- an ensemble -----------------------------------------------------------------------------------------------------


def ensemble(models: Sequence[Model], images: Tensor, runtime: Runtime) -> Sampled:
    """The mean over several policies (Lakshminarayanan et al. 2017, arXiv 1612.01474). Shape: images (B, C, *S)."""
    passes = (probabilities_of(model, images, runtime) for model in models)
    return averaged((probabilities, torch.ones_like(probabilities[:, :1])) for probabilities in passes)
