import numpy as np

from rl4seg.data import batch_indices, batches_per_epoch


def test_every_item_once_before_any_twice() -> None:
    seen = np.concatenate([batch_indices(10, 4, step, 7) for step in range(5)])
    assert sorted(seen[:10].tolist()) == list(range(10))
    assert sorted(seen[10:20].tolist()) == list(range(10))


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    assert batch_indices(50, 8, 3, 1, 2).tolist() == batch_indices(50, 8, 3, 1, 2).tolist()
    assert batch_indices(50, 8, 3, 1, 2).tolist() != batch_indices(50, 8, 3, 1, 3).tolist()


def test_fewer_items_than_a_batch() -> None:
    assert sorted(batch_indices(3, 8, 0, 0).tolist()) == [0, 1, 2]
    assert batches_per_epoch(17, 8) == 3
