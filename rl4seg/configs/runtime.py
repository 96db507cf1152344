"""Settings of device, precision and threads."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from reward_data.types import Config


class RuntimeConfig(Config):
    """Where and how the networks run. It changes speed and rounding, not what a stage means."""

    device: str = Field(
        default="auto", description="auto (CUDA where visible, else CPU), cpu, cuda or cuda:N."
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="auto: bfloat16 autocast on CUDA, float32 on CPU."
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        description="CPU threads of torch. Null: OMP_NUM_THREADS, or every core this process may use; where others use "
        "them too, one thread can be ten times as quick.",
    )
    batch_size: int = Field(default=64, ge=1, description="Images per forward pass where nothing is learned.")
