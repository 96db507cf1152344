"""`rl4seg classify`: the model of a PatchDrop run answers images. Nothing here needs Prefect."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field, ValidationError

from flows.classify_learned import learned_from
from flows.classify_results import Record, Results, check_output, write_results
from flows.console import console
from flows.file_digests import sha256_file, tree_digest
from flows.models import CONFIG, pipeline_name
from flows.progress import StageProgress
from flows.run_folder import versions
from reward_data.errors import ArtifactError, ConfigError, DataError
from reward_data.image_rows import ImageRow, read_new_rows
from reward_data.types import Config, Progress, UInt8
from rl4seg.configs.runtime import RuntimeConfig

if TYPE_CHECKING:
    from rl4seg.patchdrop.inference import DropPredictor

PIPELINE = "patchdrop"
WANTED = "give the folder of a finished PatchDrop run, e.g. runs/NAME, or its model/ folder"
READERS = 4  # threads that decode


class ClassifyRequest(Config):
    """A model, the images that it is to answer, and where the answers go."""

    model: Path = Field(description="PatchDrop run, or its model/ folder.")
    source: Path = Field(description="Picture, folder, CSV or NPZ.")
    output: Path = Field(description="Folder of the results.")
    runtime: RuntimeConfig = Field(default=RuntimeConfig(), description="Where the networks run.")


def request_from(model: Path, source: Path, output: Path, **runtime: Any) -> ClassifyRequest:
    """The request of the command line.

    Args:
        runtime: device, precision, batch_size, threads; None keeps a default.

    Raises:
        ConfigError: a value that does not exist.
    """
    given = {name: value for name, value in runtime.items() if value is not None}
    try:
        return ClassifyRequest.model_validate(
            {"model": model, "source": source, "output": output, "runtime": given}
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{first['loc'][-1]}={first.get('input')!r}: {first['msg']}") from error


def classify(request: ClassifyRequest) -> int:
    """Answer all images; returns how many could not be used.

    Nothing is left under the final names unless all images were gone through.

    Raises:
        ArtifactError: no such model.
        ConfigError: the output holds something else.
        DataError: there are no images, or the output cannot be written.
    """
    folder = find_model(request.model)
    rows = read_new_rows(request.source.absolute(), without=request.output)
    from rl4seg.patchdrop.inference import model_files, open_predictor
    from rl4seg.runtime import start

    digest = tree_digest({name: (sha256_file(file), 0) for name, file in model_files(folder).items()})
    check_output(request.output, request.source, digest)
    runtime = start(request.runtime)
    predictor = open_predictor(folder, runtime)
    labels = known_labels(rows, predictor.class_names)
    began = time.monotonic()
    try:
        with StageProgress("classifying", console()) as progress:
            records = answered(predictor, rows, labels, progress)
    except KeyboardInterrupt:
        _say("stopped; nothing was written")
        raise
    results = Results(
        model=folder.absolute(),
        digest=digest,
        source=request.source.absolute(),
        spec=predictor.model.spec,
        records=records,
        seconds=time.monotonic() - began,
        learned_from=learned_from(folder, request.source, rows),
        runtime=request.runtime.model_dump() | {"device": str(runtime.device), "bfloat16": runtime.bfloat16},
        versions=versions(),
    )
    write_results(results, predictor, request.output)
    _conclude(results, rows, request.output)
    return results.failures


# --- the model -------------------------------------------------------------------------------------------------------


def find_model(model: Path) -> Path:
    """The folder of a model, without reading its weights.

    Raises:
        ArtifactError: there is none.
    """
    from rl4seg.patchdrop.inference import drop_model_folder

    if not model.is_dir():
        raise ArtifactError(f"{model}: no such folder; {WANTED}")
    found = drop_model_folder(model)
    if found is None:
        raise ArtifactError(f"{model}: {_what_it_is(model)}; {WANTED}")
    return found


def _what_it_is(folder: Path) -> str:
    """What a folder without a classifier is, in words."""
    from rl4seg.package import PACKAGE

    if (folder / CONFIG).is_file():
        pipeline = pipeline_name(folder)
        if pipeline == PIPELINE:
            return "is the folder of a PatchDrop run that has not finished"
        return f"is the folder of a run ({pipeline}) that segments: rl4seg predict is for it"
    if (folder / PACKAGE).is_file():
        return "is a model that segments: rl4seg predict is for it"
    return "no PatchDrop model here"


# --- the answers -----------------------------------------------------------------------------------------------------


def known_labels(rows: Sequence[ImageRow], class_names: Sequence[str]) -> list[str]:
    """The label of each row where it is a class of the model, else nothing; tells about those that are none."""
    strange = Counter(row.label for row in rows if row.label and row.label not in class_names)
    labels = [row.label if row.label in class_names else "" for row in rows]
    if strange:
        shown = ", ".join(repr(label) for label in list(strange)[:3]) + (", ..." if len(strange) > 3 else "")
        _say(
            f"{strange.total()} of {len(rows)} images have a label, or lie in a folder, that is no class of the model "
            f"({shown}; the classes are {', '.join(class_names)}): they are answered as images without a label",
            "yellow",
        )
    return labels


class _Read(NamedTuple):
    """An image in the model's size, or why there is none."""

    values: UInt8 | None
    resized: bool = False
    error: str = ""


def answered(
    predictor: DropPredictor, rows: Sequence[ImageRow], labels: Sequence[str], progress: Progress
) -> list[Record]:
    """A record per row, in order; an image that cannot be used has its error in it."""
    import numpy as np

    records: list[Record] = []
    for batch in _batches(predictor, rows):
        images = [read.values for read in batch if read.values is not None]
        answers = iter(predictor.answers(np.stack(images)) if images else ())
        for read in batch:
            row, label = rows[len(records)], labels[len(records)]
            answer = None if read.values is None else next(answers)
            records.append(Record(row, label, answer, read.resized, read.error))
        progress(len(records), len(rows))
    return records


def _batches(predictor: DropPredictor, rows: Sequence[ImageRow]) -> Iterator[list[_Read]]:
    """The images in batches; the next batch is decoded while one is answered."""

    def read(row: ImageRow) -> _Read:
        try:
            values = row.decode()
            fitted = predictor.fitted(values, _named(row))
        except DataError as error:
            return _Read(None, error=str(error))
        return _Read(fitted, fitted.shape != values.shape)

    size = predictor.runtime.batch_size
    with ThreadPoolExecutor(READERS) as readers:
        ahead: deque[list[Future[_Read]]] = deque()
        for start in range(0, len(rows), size):
            ahead.append([readers.submit(read, row) for row in rows[start : start + size]])
            if len(ahead) > 1:
                yield [future.result() for future in ahead.popleft()]
        yield from ([future.result() for future in batch] for batch in ahead)


def _named(row: ImageRow) -> str:
    """What messages about an image begin with: its place, and its file where that is not the same."""
    return row.where if row.file is None or str(row.file) == row.where else f"{row.where}: {row.file}"


# --- what the console says -------------------------------------------------------------------------------------------


def _conclude(results: Results, rows: Sequence[ImageRow], output: Path) -> None:
    figures = results.figures()
    good = len(rows) - results.failures
    words = f"{good} images classified"
    if good:
        words += f", {figures['mean_patches']:.2f} of {figures['patches']} patches kept on average, "
        maps = figures["keep_maps"]
        words += f"{maps} different choices" if maps > 1 else "the same of all images"
    if figures["accuracy"] is not None:
        words += f"; accuracy {figures['accuracy']:.2%} of {figures['labelled']} with a label"
    _say(f"{words}; {figures['images_per_second']:.0f} images/s")
    if results.learned_from and figures["accuracy"] is not None:
        _say("the run has learned from images of this source: this is not the accuracy on new ones", "yellow")
    if figures["resized"]:
        size = " x ".join(map(str, results.spec.shape))
        _say(f"{figures['resized']} of {good} images had another size and were resized to {size} pixels")
    _say(f"look at {output}: classes.csv, summary.json" + (", examples.png" if good else ""))
    if results.failures:
        first = next(record.error for record in results.records if record.error)
        _say(f"{results.failures} of {len(rows)} images could not be used, e.g. {first}", "red")


def _say(text: str, style: str | None = None) -> None:
    console().print(text, style=style, highlight=False, soft_wrap=True, markup=False)
