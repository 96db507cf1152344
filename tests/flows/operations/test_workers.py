"""Which workers a machine gets."""

from __future__ import annotations

import pytest

from flows.operations.workers import Device, devices
from reward_data.errors import ConfigError


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")


@pytest.mark.usefixtures("four")
def test_one_per_visible_gpu_or_per_gpu_asked_for() -> None:
    assert devices(None) == [Device(f"gpu{i}", str(i)) for i in range(4)]
    assert devices("3, 1") == [Device("gpu3", "3"), Device("gpu1", "1")]
    assert devices("none") == [Device("cpu", "")]


@pytest.mark.parametrize("visible", ["", "-1"])
def test_the_cpu_where_no_gpu_is_visible(visible: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices(None) == [Device("cpu", "")]
    with pytest.raises(ConfigError, match="no GPU is visible; give some of these, or --gpus none"):
        devices("0")


def test_torch_is_asked_where_the_environment_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    count = torch.cuda.device_count()
    assert devices(None) == ([Device(f"gpu{i}", str(i)) for i in range(count)] or [Device("cpu", "")])


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize(
    ("gpus", "message"),
    [
        ("4", r"--gpus 4: the visible ones are 0,1,2,3"),
        ("0,one", r"the visible ones are"),
        ("", r"the visible ones are"),
        ("1,1", r"a GPU is named twice"),
    ],
)
def test_gpus_that_are_not_there_are_refused(gpus: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        devices(gpus)
