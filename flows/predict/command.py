"""`rl4seg predict`: everything around the runner, from the checks before to the tables and the sheet after."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from flows.console import console
from flows.models import check_model, model_digest, open_model
from flows.predict import folder as places
from flows.predict.folder import check_output, opened, write_text
from flows.predict.records import Journal, Record, is_done
from flows.predict.request import PredictRequest
from flows.predict.sheet import contact_sheet
from flows.predict.tables import cases_csv, frames_csv
from flows.progress import StageProgress
from flows.run_folder import versions
from reward_data.errors import ConfigError
from reward_data.inputs import InputFile, list_inputs
from rl4seg.package import ModelPackage, PackageSpec


def predict(request: PredictRequest) -> int:
    """Predict all images; returns how many could not be used.

    Raises:
        ArtifactError: no such model.
        ConfigError: the output holds something else, or an option does not fit the model.
        DataError: there are no images, or the output cannot be written.
    """
    check_model(request.model, request.iteration)
    source, output = request.source.resolve(), request.output.resolve()
    if source == output or output in source.parents:
        raise ConfigError(
            f"{request.output}: holds the images, too; give a folder of its own for the results"
        )
    check_output(request.output)
    files = list_inputs(request.source.absolute(), without=request.output)
    from rl4seg.predictor import Predictor
    from rl4seg.runtime import start

    runtime = start(request.runtime)
    package = open_model(request.model, request.iteration, runtime)
    predictor = Predictor(package, runtime, request.options)
    identity = {
        "model": {
            "name": package.spec.name,
            "iteration": package.spec.iteration,
            "digest": model_digest(package),
        },
        "options": request.options.model_dump(mode="json") | {"bfloat16": runtime.bfloat16},
    }
    about = {"format": 1, "versions": versions()}
    with opened(request.output, identity, about, request.overwrite), Journal(request.output) as journal:
        return _predict(request, files, predictor, journal)


def _predict(request: PredictRequest, files: Sequence[InputFile], predictor: Any, journal: Journal) -> int:
    from flows.predict.runner import Runner

    wanted = ("masks", *request.save)
    left = [file for file in files if not is_done(journal.records.get(file.id), file, wanted, request.output)]
    _announce(predictor, request, len(files), len(files) - len(left))
    _forget(left, journal, request.output)
    telling = _Telling(len(left), predictor.spec, predictor.package)
    began = time.monotonic()
    try:
        with telling.progress:
            Runner(predictor, journal, request.output, request.save, telling.done).run(left)
    except KeyboardInterrupt:
        console().print("stopped; the same command goes on from here", highlight=False)
        raise
    finally:
        listed = {file.id for file in files}
        records = _shown(journal.records.values(), listed)
        write_results(records, predictor.spec, request.output)
    return _conclude(records, listed, request.output, len(left), time.monotonic() - began, predictor.spec)


def write_results(records: Sequence[Record], spec: PackageSpec, output: Path) -> None:
    """Tables and contact sheet of what there is."""
    write_text(output / places.CASES, cases_csv(records, spec))
    frames = frames_csv(records, spec)
    if frames:
        write_text(output / places.FRAMES, frames)
    write_text(output / places.PAGE, contact_sheet(records, spec))


def _shown(records: Iterable[Record], listed: set[str]) -> list[Record]:
    """Those that results are there of, and the failures among the files given, by id."""
    kept = [record for record in records if record.error is None or record.id in listed]
    return sorted(kept, key=lambda record: record.id)


def _forget(files: Sequence[InputFile], journal: Journal, output: Path) -> None:
    """Remove what was made of files that are to be predicted anew: should they fail now, nothing old is left."""
    for file in files:
        record = journal.records.pop(file.id, None)
        for name in record.outputs.values() if record else ():
            (output / name).unlink(missing_ok=True)


# --- what the console says -------------------------------------------------------------------------------------------


class _Telling:
    """The progress bar, and a warning about pixel sizes, once."""

    def __init__(self, total: int, spec: PackageSpec, package: ModelPackage) -> None:
        self.progress = StageProgress("predicting", console()) if total else nullcontext()
        self._total, self._spec, self._counts, self._warned = total, spec, Counter[str](), False

    def done(self, record: Record) -> None:
        """Called after every file."""
        self._counts["done"] += 1
        self._counts["failed"] += record.error is not None
        self._counts["flagged"] += bool(record.frames) and bool(record.flagged)
        if isinstance(self.progress, StageProgress):
            shown = {name: float(self._counts[name]) for name in ("flagged", "failed") if self._counts[name]}
            self.progress(self._counts["done"], self._total, shown)
        known = record.spacing_mm is not None
        if record.error is None and known != self._spec.spacing_known and not self._warned:
            self._warned = True
            _say(_about_spacing(known, record.file), "yellow")


def _about_spacing(known: bool, file: str) -> str:
    if known:
        return (
            f"warning: {file} says how large its pixels are, but the model was trained on files that do not: it takes "
            "the height and width of pixels into account now and did not then"
        )
    return (
        f"warning: {file} does not say how large its pixels are, but the model was trained on files that do: pixels "
        "are taken to be square, and areas are left out"
    )


def _announce(predictor: Any, request: PredictRequest, total: int, done: int) -> None:
    spec: PackageSpec = predictor.spec
    _say(f"model {spec.name}, iteration {spec.iteration}: trust is from {predictor.trusted_by}")
    if spec.trust is None:
        _say("this model has no trust flag: trust is given, but nothing is flagged", "yellow")
    if done:
        _say(f"{done} of {total} images are done already and are left as they are")


def _conclude(
    records: Sequence[Record], listed: set[str], output: Path, done: int, seconds: float, spec: PackageSpec
) -> int:
    """The last lines; returns the number of failures."""
    here = [record for record in records if record.id in listed]
    bad = [record for record in here if record.error is not None]
    good = [record for record in here if record.error is None]
    flagged = sum(bool(record.flagged) for record in good)
    invalid = sum(not record.valid for record in good)
    words = f"{len(good)} images predicted, {invalid} of them with an invalid mask"
    words += "" if spec.trust is None else f", {flagged} flagged"
    if done:
        words += f"; {done / max(seconds, 1e-3):.1f} images/s"
    _say(words)
    _say(f"look at {output / places.PAGE}; all figures: {output / places.CASES}")
    if bad:
        _say(f"{len(bad)} of {len(here)} images could not be used, e.g. {bad[0].error}", "red")
    return len(bad)


def _say(text: str, style: str | None = None) -> None:
    console().print(text, style=style, highlight=False, soft_wrap=True, markup=False)
