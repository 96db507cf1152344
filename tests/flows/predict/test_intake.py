"""Batches and room between readers and the network."""

from __future__ import annotations

import threading

from flows.predict.intake import Intake


def test_batches_are_full_while_readers_go_on_and_the_rest_comes_at_the_end() -> None:
    intake: Intake[int] = Intake(100, 3, readers=1)
    for item in range(5):
        intake.put(item)
    assert intake.batch() == [0, 1, 2]
    intake.reader_ends()
    assert intake.batch() == [3, 4]
    assert intake.batch() == []


def test_room_is_given_back_and_a_large_file_is_admitted_alone() -> None:
    intake: Intake[str] = Intake(10, 8, readers=2)
    assert intake.admit(6)
    admitted: list[str] = []

    def read(name: str, size: int) -> None:
        if intake.admit(size):
            admitted.append(name)

    waiting = threading.Thread(target=read, args=("large", 50))
    waiting.start()
    waiting.join(0.05)
    assert admitted == []
    intake.release(6)
    waiting.join(5)
    assert admitted == ["large"]


def test_readers_without_room_do_not_wait_for_a_batch_that_cannot_fill() -> None:
    """One item is ready, eight would be a batch, and the only reader waits for room: the item has to go through."""
    intake: Intake[str] = Intake(10, 8, readers=1)
    intake.admit(10)
    intake.put("first")
    reader = threading.Thread(target=lambda: intake.admit(10))
    reader.start()
    assert intake.batch() == ["first"]
    intake.release(10)
    reader.join(5)
    assert not reader.is_alive()


def test_all_threads_come_to_an_end_when_it_is_closed() -> None:
    intake: Intake[str] = Intake(10, 8, readers=1)
    intake.admit(10)
    found: list[bool] = []
    reader = threading.Thread(target=lambda: found.append(intake.admit(10)))
    reader.start()
    intake.close()
    reader.join(5)
    assert found == [False]
    assert intake.batch() == []
