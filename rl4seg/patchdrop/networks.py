"""Classifiers that can skip patches, and the policy network."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from reward_data.errors import ConfigError
from rl4seg.configs.patchdrop import Family, KeepNetConfig, ResNetConfig
from rl4seg.patchdrop.grid import join_patches, keep_pixels, patch_count, patch_shape, split_patches
from rl4seg.runtime import seeded

GROUP_SIZE = 8  # channels per group of a group normalisation


class _Shape(NamedTuple):
    block: str
    layers: tuple[int, ...]
    widths: tuple[int, ...]
    kernel: int
    stride: int
    pool: bool


FAMILIES: dict[Family, _Shape] = {
    "small": _Shape("basic", (1, 1, 1), (16, 32, 64), 3, 1, False),
    "r32": _Shape("basic", (5, 5, 5), (16, 32, 64), 3, 1, False),
    "r18": _Shape("basic", (2, 2, 2, 2), (64, 128, 256, 512), 7, 2, True),
    "r34": _Shape("basic", (3, 4, 6, 3), (64, 128, 256, 512), 7, 2, True),
    "r50": _Shape("bottleneck", (3, 4, 6, 3), (64, 128, 256, 512), 7, 2, True),
}


def build_resnet(config: ResNetConfig, channels: int, outputs: int, dims: int, *seed_path: int) -> nn.Module:
    """A MONAI ResNet with the stages of its family, freshly initialised; equal seeds, equal weights.

    Three-stage families (those for 32 pixels) have no fourth one: MONAI's is taken out.

    Raises:
        ConfigError: more patch-wise stages than there are stages.
    """
    from monai.networks.nets import ResNet

    shape = FAMILIES[config.family]
    layers, widths = list(config.layers or shape.layers), list(config.widths or shape.widths)
    if len(layers) != len(widths):
        raise ConfigError(
            f"{len(layers)} stages of blocks and {len(widths)} widths; give layers and widths of one length"
        )
    stages = len(layers)
    if config.patch_stages > stages:
        raise ConfigError(
            f"patch_stages={config.patch_stages}, but family {config.family} has {stages} stages"
        )
    missing = 4 - stages
    with seeded(*seed_path):
        network = ResNet(
            shape.block, layers + [1] * missing, widths + widths[-1:] * missing, spatial_dims=dims,
            n_input_channels=channels, conv1_t_size=config.kernel or shape.kernel,
            conv1_t_stride=config.stride or shape.stride, no_max_pool=not shape.pool, num_classes=outputs,
            bias_downsample=False,
        )  # fmt: skip
    if missing:
        network.layer4 = nn.Identity()
    if config.norm == "group":
        _to_group_norm(network)
    module: nn.Module = network
    return module


def _to_group_norm(network: nn.Module) -> None:
    """Put group normalisation in the place of every batch normalisation (MONAI's ``norm`` reaches the first only)."""
    for name, module in network.named_children():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            channels = module.num_features
            groups = channels // GROUP_SIZE if channels % GROUP_SIZE == 0 else 1
            setattr(network, name, nn.GroupNorm(groups, channels))
        else:
            _to_group_norm(module)


def has_running_statistics(network: nn.Module) -> bool:
    """Whether train and eval mode give different answers."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


class DropClassifier(nn.Module):
    """A classifier of images of which some patches were dropped.

    With ``patch_stages`` = 0 dropped patches have the mean colour and the whole image is convolved, as published. With
    more, the first convolution and that many stages see each patch by itself, and only those that are kept; where a
    patch was dropped the features are zero, and the other stages see the whole map. Dropping costs less time then, in
    training too, and an image of which everything is dropped still has an answer.

    Shape: (B, C, *S) in [0, 1], keep (B, P) bool or None for all -> (B, K).
    """

    mean: Tensor
    sd: Tensor

    def __init__(
        self,
        config: ResNetConfig,
        grid: tuple[int, ...],
        colours: tuple[tuple[float, ...], tuple[float, ...]],
        outputs: int,
        *seed_path: int,
    ) -> None:
        super().__init__()
        self.grid, self.patch_stages = grid, config.patch_stages
        column = (1, -1, *[1] * len(grid))
        for name, values in zip(("mean", "sd"), colours, strict=True):
            self.register_buffer(name, torch.tensor(values).reshape(column))
        self.resnet = build_resnet(config, len(colours[0]), outputs, len(grid), *seed_path)

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Class logits, in float32 whatever the autocast precision."""
        values = (images - self.mean) / self.sd
        if self.patch_stages == 0:
            if keep is not None:
                values = values * keep_pixels(keep, self.grid, tuple(images.shape[2:])).to(values)
            return self._answer(self._stem(values))
        return self._answer(self._features(values, keep))

    def of_maps(self, images: Tensor, keep: Tensor) -> Tensor:
        """The logits of several keep maps of the same images, each patch seen once. Shape: (B, M, P) -> (B, M, K).

        Patches do not see each other in the patch-wise stages, so what was computed for one map holds for all.
        """
        if self.patch_stages == 0:
            return torch.stack([self(images, part) for part in keep.unbind(1)], 1)
        whole = self._features((images - self.mean) / self.sd, keep.any(1))
        shape = tuple(whole.shape[2:])
        return torch.stack(
            [self._answer(whole * keep_pixels(part, self.grid, shape).to(whole)) for part in keep.unbind(1)],
            1,
        )

    def _answer(self, features: Tensor) -> Tensor:
        """The stages that see the whole map, and the last layer."""
        for stage in self._stages()[self.patch_stages :]:
            features = stage(features)
        pooled = self.resnet.get_submodule("avgpool")(features).flatten(1)
        logits: Tensor = self.resnet.get_submodule("fc")(pooled)
        return logits.float()

    def _stages(self) -> list[nn.Module]:
        return [self.resnet.get_submodule(f"layer{number}") for number in (1, 2, 3, 4)]

    def _stem(self, values: Tensor) -> Tensor:
        """First convolution, and pooling where the family has it."""
        for name in ("conv1", "bn1", "act") + (() if self.resnet.no_max_pool else ("maxpool",)):
            values = self.resnet.get_submodule(name)(values)
        return values

    def _features(self, values: Tensor, keep: Tensor | None) -> Tensor:
        """Features of the kept patches in their places, zero elsewhere."""
        patches = split_patches(values, self.grid)
        batch, count = patches.shape[:2]
        if keep is None:
            keep = torch.ones(batch, count, dtype=torch.bool, device=values.device)
        kept = keep.flatten().nonzero()[:, 0]
        chosen = patches.flatten(0, 1)[kept if len(kept) else slice(0, 1)]
        seen = self._stem(chosen)
        for stage in self._stages()[: self.patch_stages]:
            seen = stage(seen)
        placed = seen.new_zeros(batch * count, *seen.shape[1:])
        if len(kept):
            placed = placed.index_copy(0, kept, seen)
        return join_patches(placed.reshape(batch, count, *seen.shape[1:]), self.grid)


class KeepNetwork(nn.Module):
    """The policy: one logit per patch of "keep it". Shape: (B, C, *s) -> (B, P)."""

    mean: Tensor
    sd: Tensor

    def __init__(
        self,
        config: KeepNetConfig,
        grid: tuple[int, ...],
        colours: tuple[tuple[float, ...], tuple[float, ...]],
        *seed_path: int,
    ) -> None:
        super().__init__()
        channels, column = len(colours[0]), (1, -1, *[1] * len(grid))
        for name, values in zip(("mean", "sd"), colours, strict=True):
            self.register_buffer(name, torch.tensor(values).reshape(column))
        if config.head == "dense":
            self.inner = build_resnet(config.network, channels, patch_count(grid), len(grid), *seed_path)
        else:
            with seeded(*seed_path):
                self.inner = GridNetwork(channels, config.features, grid)

    def forward(self, low: Tensor) -> Tensor:
        """Logits, in float32 whatever the autocast precision."""
        logits: Tensor = self.inner((low - self.mean) / self.sd)
        return logits.float()


class GridNetwork(nn.Module):
    """Convolutions, pooled to the grid on the way: the same content earns the same logit wherever it lies.

    Shape: (B, C, *s) -> (B, P).
    """

    def __init__(self, channels: int, features: int, grid: tuple[int, ...]) -> None:
        super().__init__()
        self.grid, dims = grid, len(grid)
        self.pool = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[dims - 1]
        pools = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
        self.to_grid: nn.Module = pools[dims - 1](grid)
        convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]

        def layer(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(
                convolution(inputs, outputs, 3, padding=1), nn.GroupNorm(1, outputs), nn.ReLU(inplace=True)
            )

        self.fine = layer(channels, features)
        self.middle = layer(features, features)
        self.near = layer(features, features)
        self.last = convolution(features, 1, 1)

    def forward(self, low: Tensor) -> Tensor:
        """Logits of the patches, row by row."""
        features = self.fine(low)
        if all(size >= 4 * cells for size, cells in zip(features.shape[2:], self.grid)):
            features = self.pool(features, 2)
        features = self.to_grid(self.middle(features))
        logits: Tensor = self.last(self.near(features))
        return logits.flatten(1)


def check_fits(config: ResNetConfig, grid: tuple[int, ...], shape: tuple[int, ...], where: str) -> None:
    """Refuse a network that cannot run patch by patch on this grid.

    Raises:
        ConfigError: the grid does not divide the image, there are too few stages, or a patch ends with no pixel.
    """
    patch = patch_shape(shape, grid)
    network = DropClassifier(config, grid, ((0.5,), (0.5,)), 2, 0).eval()
    if config.patch_stages == 0:
        return
    with torch.no_grad():
        whole = network._stem(torch.zeros(1, 1, *shape))
        part = network._stem(torch.zeros(1, 1, *patch))
        for stage in network._stages()[: config.patch_stages]:
            whole, part = stage(whole), stage(part)
    if tuple(n * g for n, g in zip(part.shape[2:], grid)) != tuple(whole.shape[2:]):
        raise ConfigError(
            f"{where}.patch_stages={config.patch_stages}: a patch of {' x '.join(map(str, patch))} pixels cannot be "
            "halved that often; use fewer patch-wise stages, a smaller stride or a coarser grid"
        )
