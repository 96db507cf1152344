"""The segmentation twin as the network of a model package, so that whatever predicts can use it.

fine/                              the fine network (`rl4seg.policies`); the coarse one is the package's own
windows.json, policy.safetensors   the policy (`rl4seg.patchdrop.window_policy`)
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from rl4seg.networks import SegmentationNetwork
from rl4seg.patchdrop.networks import KeepNetwork
from rl4seg.patchdrop.window_policy import (
    WindowPolicySpec,
    keep_probabilities,
    load_window_policy,
    save_window_policy,
    segmenter_of,
)
from rl4seg.policies import Model, load_model, save_model
from rl4seg.runtime import Runtime

FOLDER, FINE = "windows", "fine"
TINY = 1e-12  # below which a probability counts as this


class WindowedNetwork(nn.Module):
    """Coarse network, fine network and policy where a segmentation network is expected: log-probabilities for logits.

    Every image by itself, with the windows that the policy keeps. Shape: (B, C, *G) -> (B, K, *G).
    """

    def __init__(
        self, coarse: Model, fine: Model, policy: KeepNetwork, spec: WindowPolicySpec, runtime: Runtime
    ) -> None:
        super().__init__()
        self.coarse, self.fine, self.policy = coarse.network, fine.network, policy
        self.segmenter = segmenter_of((coarse, fine), spec.windows, runtime)
        self.runtime = runtime

    def forward(self, images: Tensor) -> Tensor:
        """Log-probabilities of the stitched answers."""
        return torch.stack([self._one(image) for image in images]).clamp(min=TINY).log()

    def _one(self, image: Tensor) -> Tensor:
        view = self.segmenter.look(image[None])
        keep = keep_probabilities(self.policy, view.policy_input, self.runtime)[1][0]
        return self.segmenter.answer(image, view, keep)


def save_windowed(
    coarse: Model, fine: Model, policy: KeepNetwork, spec: WindowPolicySpec, shape: tuple[int, ...], out: Path
) -> None:
    """Write the networks of a package; ``shape`` is that of a whole image."""
    save_model(Model(coarse.spec.model_copy(update={"shape": shape}), coarse.network), out)
    save_model(fine, out / FOLDER / FINE)
    save_window_policy(spec, policy, out / FOLDER)


def windowed_model(model: Model, folder: Path, runtime: Runtime) -> Model:
    """The model of a package whose own network is the coarse one, with the windows in ``folder``.

    Raises:
        ArtifactError: a file is missing or unreadable.
    """
    spec, policy = load_window_policy(folder, runtime)
    fine = load_model(folder / FINE, runtime)
    network = WindowedNetwork(model, fine, policy, spec, runtime)
    return Model(model.spec, cast(SegmentationNetwork, network))
