"""Whether a model has learned from the images that it is to answer: its accuracy on them says less then."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from flows.config_loader import read_unchecked
from flows.models import CONFIG
from reward_data.errors import DataError
from reward_data.image_rows import TRAIN, ImageRow
from reward_data.labelled_images import LabelledImagesConfig, list_images


def learned_from(folder: Path, source: Path, rows: Sequence[ImageRow]) -> bool:
    """Whether one of the images was a training image of the model's run; False where that cannot be known any more."""
    images = _images_of(folder.resolve().parent)
    if images is None or images.train is None:
        return False
    if Path(images.train).resolve() == source.resolve():
        return True
    if Path(images.train).suffix.lower() == ".npz":
        return False
    try:
        listing = list_images(images)
    except DataError:
        return False
    learned = {row.file.resolve() for row in listing.rows if row.file is not None and row.split == TRAIN}
    return any(row.file is not None and row.file.resolve() in learned for row in rows)


def _images_of(run: Path) -> LabelledImagesConfig | None:
    """Where the images of a run are, by paths that hold from here; None where the run does not say."""
    content = read_unchecked(str(run / CONFIG), []) if (run / CONFIG).is_file() else {}
    try:
        images = LabelledImagesConfig.model_validate(content.get("images"))
    except ValidationError:
        return None
    places = (_started_in(run, Path(str(content.get("output", "runs")))), Path())
    found = {}
    for name, path in (("train", images.train), ("test", images.test)):
        if path is not None:
            found[name] = next((str(place / path) for place in places if (place / path).exists()), path)
    return images.model_copy(update=found)


def _started_in(run: Path, output: Path) -> Path:
    """The folder in which a run was started, where the config's ``output`` tells; else this one."""
    known = (
        not output.is_absolute()
        and run.parent.parts[len(run.parent.parts) - len(output.parts) :] == output.parts
    )
    return run.parents[len(output.parts)] if known else Path()
