from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch

from rl4seg.configs.runtime import RuntimeConfig
from rl4seg.runtime import side_by_side, start


def test_passes_side_by_side_have_one_thread_each_and_torch_gets_its_threads_back() -> None:
    before = torch.get_num_threads()
    try:
        runtime = start(RuntimeConfig(device="cpu", threads=3))
        with side_by_side(runtime) as streams, ThreadPoolExecutor(3) as pool:
            assert streams == 3
            assert set(pool.map(lambda _: torch.get_num_threads(), range(6))) == {1}
        assert torch.get_num_threads() == 3
        with side_by_side(replace(runtime, device=torch.device("cuda"))) as streams:
            assert (streams, torch.get_num_threads()) == (1, 3)
    finally:
        torch.set_num_threads(before)
