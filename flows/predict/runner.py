"""Reading, network and writing at the same time: threads around one network, in memory of a fixed size."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from flows.predict.files import Job, finished_frames, open_job, prepared_frame, write_outputs
from flows.predict.intake import Intake
from flows.predict.records import Journal, Record, signature
from reward_data.errors import REFUSALS, DataError, Rl4SegError
from reward_data.inputs import InputFile
from rl4seg.predictor import Predictor, Prepared
from rl4seg.sight import Sight

MEMORY = 256 * 2**20  # bytes of all files under way
MOST_THREADS = 4  # that read, and as many that finish and write


class Waiting(NamedTuple):
    """One frame that waits for the network."""

    job: Job
    frame: int
    prepared: Prepared


class Runner:
    """Predict files and keep their records.

    Args:
        predictor: the model in use.
        journal: where records go, opened.
        folder: of the results.
        kinds: what is written beside masks: errors, overlays.
        done: called after every file with its record; in any thread, one at a time.
    """

    def __init__(
        self,
        predictor: Predictor,
        journal: Journal,
        folder: Path,
        kinds: Sequence[str],
        done: Callable[[Record], None],
    ) -> None:
        self._predictor, self._journal, self._folder, self._kinds = predictor, journal, folder, kinds
        self._names = predictor.spec.labels.names[1:]
        self._done, self._telling = done, threading.Lock()
        self._threads = min(MOST_THREADS, len(os.sched_getaffinity(0)))

    def run(self, files: Sequence[InputFile]) -> None:
        """Predict all files. One that cannot be used has an error in its record; the rest goes on.

        Raises:
            DataError: the disk refuses to write.
        """
        from rl4seg.runtime import side_by_side

        runtime = self._predictor.runtime
        intake: Intake[Waiting] = Intake(MEMORY, runtime.batch_size, self._threads)
        listed = _Shared(iter(files))
        with side_by_side(runtime) as most:
            streams = 1 if self._predictor.draws_at_random else most
            with (
                ThreadPoolExecutor(self._threads) as readers,
                ThreadPoolExecutor(self._threads) as writers,
                ThreadPoolExecutor(streams) as networks,
            ):
                try:
                    started = [readers.submit(self._read_all, listed, intake) for _ in range(self._threads)]
                    seeing = [networks.submit(self._infer_all, intake, writers) for _ in range(streams)]
                    _unfinished([*seeing, *started], wait=True)
                finally:
                    intake.close()

    def _read_all(self, files: _Shared, intake: Intake[Waiting]) -> None:
        """What a reading thread does."""
        try:
            for file in files:
                if not self._read(file, intake):
                    break
        except BaseException:
            intake.close()
            raise
        finally:
            intake.reader_ends()

    def _read(self, file: InputFile, intake: Intake[Waiting]) -> bool:
        """Put the frames of a file in; False where all is to end."""
        job = None
        try:
            job = open_job(file, self._predictor)
            if not intake.admit(job.size):
                return False
            began = time.perf_counter()
            frames = [prepared_frame(job, index, self._predictor) for index in range(len(job.frames))]
        except (Rl4SegError, MemoryError) as error:
            if job is not None:
                intake.release(job.size)
            self._keep(failed(file, error))
            return True
        job.seconds += time.perf_counter() - began
        for index, prepared in enumerate(frames):
            intake.put(Waiting(job, index, prepared))
        return True

    def _infer_all(self, intake: Intake[Waiting], writers: ThreadPoolExecutor) -> None:
        """What a thread of the networks does."""
        pending: list[Future[None]] = []
        try:
            while batch := intake.batch():
                pending = _unfinished([*pending, *self._infer(batch, writers, intake)])
            _unfinished(pending, wait=True)
        except BaseException:
            intake.close()
            raise

    def _infer(
        self, batch: list[Waiting], writers: ThreadPoolExecutor, intake: Intake[Waiting]
    ) -> list[Future[None]]:
        """The networks, and a task for a writing thread per file in the batch."""
        began = time.perf_counter()
        seen = self._predictor.infer([item.prepared for item in batch])
        share = (time.perf_counter() - began) / len(batch)
        tasks = []
        for _, group in groupby(zip(batch, seen, strict=True), key=lambda pair: id(pair[0].job)):
            pairs = list(group)
            items = [(waiting.frame, waiting.prepared, sight) for waiting, sight in pairs]
            tasks.append(writers.submit(self._finish, pairs[0][0].job, items, share * len(items), intake))
        return tasks

    def _finish(
        self, job: Job, items: Sequence[tuple[int, Prepared, Sight]], seconds: float, intake: Intake[Waiting]
    ) -> None:
        """What a writing thread does for the frames of a file."""
        try:
            began = time.perf_counter()
            found = finished_frames(items, self._predictor)
            if not job.add(found, seconds + time.perf_counter() - began):
                return
            record = self._written(job)
        except BaseException:
            intake.close()
            raise
        intake.release(job.size)
        self._keep(record)

    def _written(self, job: Job) -> Record:
        try:
            return write_outputs(job, self._folder, self._kinds, self._names)
        except DataError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in REFUSALS:
                raise  # no other file could be written either
            return failed(job.file, error)

    def _keep(self, record: Record) -> None:
        self._journal.add(record)
        with self._telling:
            self._done(record)


class _Shared:
    """An iterator for several threads."""

    def __init__(self, files: Iterator[InputFile]) -> None:
        self._files, self._lock = files, threading.Lock()

    def __iter__(self) -> Iterator[InputFile]:
        return self

    def __next__(self) -> InputFile:
        with self._lock:
            return next(self._files)


def failed(file: InputFile, error: BaseException) -> Record:
    """The record of a file that cannot be used."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        text = (
            f"{file.path}: takes more memory than there is ({text}); make it smaller, or use another machine"
        )
    try:
        size, changed = signature(file.path)
    except OSError:
        size, changed = -1, -1
    return Record(id=file.id, file=str(file.path), size=size, changed_ns=changed, error=text)


def _unfinished(tasks: Sequence[Future[None]], wait: bool = False) -> list[Future[None]]:
    """Those that are not done; raises what a done one has raised."""
    for task in tasks:
        if wait or task.done():
            task.result()
    return [task for task in tasks if not task.done()]
