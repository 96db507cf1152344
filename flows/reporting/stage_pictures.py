"""What a finished stage made, as one small PNG: cases, masks, reward examples, training curves, a montage.

Reads the files of the stage's artifact and of its inputs; runs no network and needs no torch.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from flows.reporting.montage import error_colours
from flows.reporting.picture_curves import training_picture
from flows.reporting.picture_sheet import DIFFERENT, TRUTH, WRONG, Frame, Sheet, area_key, line_key
from reward_data.case_store import CaseStore
from reward_data.reward_store import RewardStore
from reward_data.shape_prior import ShapePrior
from reward_data.types import Bool, Float32, UInt8

log = logging.getLogger(__name__)
Inputs = Mapping[str, Any]
Draw = Callable[[Path, Inputs], bytes | None]

LARGEST = 512  # px of an image's side; larger ones are thinned
KINDS = {
    "correction": "correction",
    "swap": "swap with another image",
    "weight_noise": "weight noise",
    "contrast": "lower contrast",
    "damage": "damage",
    "warp": "warp",
    "noise": "image noise",
    "morph": "one class resized",
    "affine": "turn, scale, shift",
    "identity": "identity, no error",
}


def picture(stage: str, folder: Path, inputs: Inputs) -> bytes | None:
    """A PNG of what a finished stage made (see `picture_sheet.PNG_BYTES`); None where there is nothing to see.

    It never raises: a picture that cannot be drawn is logged and left out.

    Args:
        stage: name of the stage's function, e.g. ``predict_target``.
        folder: the stage's artifact.
        inputs: the stage's arguments by name, every artifact as the folder that it lies in.
    """
    draw = _PICTURES.get(stage)
    if draw is None:
        return None
    try:
        return draw(folder, inputs)
    except Exception as error:  # whatever is wrong with it, it is only a picture of work that is done
        log.info("%s: no picture of its result (%r)", stage, error)
        return None


# --- arrays as frames ------------------------------------------------------------------------------------------------


def _flat(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The middle plane of a volume, thinned to at most `LARGEST` pixels a side. Shape: (H, W[, D]) -> (h, w)."""
    plane = array if array.ndim == 2 else array[..., array.shape[-1] // 2]
    step = -(-max(plane.shape) // LARGEST)
    return plane[::step, ::step]


def _shown(image: Float32) -> Float32:
    """Three channels as colours, else the first as grey. Shape: (C, *S) -> (h, w[, 3])."""
    return np.stack([_flat(channel) for channel in image], -1) if len(image) == 3 else _flat(image[0])


def _frame(store: CaseStore, index: int) -> Frame:
    """A case with nothing drawn on it."""
    rows, columns = store.spacing_mm(index)[:2]
    return Frame(_shown(store.images([index])[0]), store.ids[index], pixel_aspect=rows / columns)


def _truth(store: CaseStore, index: int) -> UInt8 | None:
    return _flat(store.labels([index])[0]) if store.has_label[index] else None


def _spread(count: int, wanted: int) -> list[int]:
    """``wanted`` places spread evenly over 0..count - 1, both ends among them."""
    places: list[int] = np.unique(np.linspace(0, count - 1, min(count, wanted)).astype(int)).tolist()
    return places


def _in_rows(frames: Sequence[Frame], columns: int = 4) -> list[Sequence[Frame]]:
    return [frames[start : start + columns] for start in range(0, len(frames), columns)]


# --- a picture per stage ---------------------------------------------------------------------------------------------


def _imported(folder: Path, inputs: Inputs) -> bytes:
    """Eight cases spread over the dataset, labels outlined."""
    with CaseStore(folder / "cases.h5") as store:
        frames = [replace(_frame(store, i), mask=_truth(store, i)) for i in _spread(len(store), 8)]
        names = store.class_names[1:] if any(frame.mask is not None for frame in frames) else ()
        return Sheet(_in_rows(frames), names).png()


def _shapes(folder: Path, inputs: Inputs) -> bytes:
    """The mean shape, and how the first components change it, on the prior's own canvas."""
    prior = ShapePrior.load(folder / "shape_prior.npz")
    side = round((prior.mean.size / prior.num_classes) ** (1 / prior.dimensions))

    def frame(component: int, deviations: int) -> Frame:
        offset = deviations * prior.deviations[component] * prior.components[component]
        maps = (prior.mean + offset).reshape(prior.num_classes, *[side] * prior.dimensions)
        mask = _flat(maps.argmax(0).astype(np.uint8))
        title = f"{deviations:+d} sd".replace("-", "−") if deviations else "mean shape"
        return Frame(np.zeros(mask.shape, np.float32), title, mask)

    components = range(min(3, len(prior.components)))
    rows = [[frame(number, deviations) for deviations in (-2, -1, 0, 1, 2)] for number in components]
    with CaseStore(inputs["cases"] / "cases.h5") as store:
        names = [f"component {number + 1}" for number in components]
        return Sheet(rows, store.class_names[1:], names, side=150).png()


def _predicted(folder: Path, inputs: Inputs) -> bytes:
    """Predicted outlines on eight cases, from the least to the most confident."""
    with CaseStore(inputs["cases"] / "cases.h5") as store, h5py.File(folder / "predictions.h5", "r") as file:
        indices, confidence = file["indices"][:], file["confidence"][:]
        order = np.argsort(confidence, kind="stable")
        frames = []
        for place in (int(order[i]) for i in _spread(len(order), 8)):
            case = _frame(store, int(indices[place]))
            title = f"{case.title}\nconfidence {confidence[place]:.3f}"
            frames.append(replace(case, title=title, mask=_flat(file["masks"][place])))
        return Sheet(_in_rows(frames), store.class_names[1:]).png()


def _synthesized(folder: Path, inputs: Inputs) -> bytes:
    """Up to six reward examples of different kinds: the proposed mask above, what is wrong with it below."""
    with CaseStore(inputs["cases"] / "cases.h5") as store, RewardStore(folder / "rewards.h5") as rewards:
        above, below = [], []
        for example in _examples(rewards):
            image = int(rewards.image_index[example])
            case = _frame(store, store.ids.index(rewards.case_ids[image]))
            _, proposed, wrong = (array[0] for array in rewards.read(np.array([example])))
            share = f"{100 * rewards.error_fraction[example]:.3g} % of pixels wrong"
            title = f"{_kind(rewards.records[example])}\n{case.title}\n{share}"
            above.append(replace(case, title=title, mask=_flat(proposed)))
            truth = _flat(rewards.truths(np.array([image]))[0])
            below.append(replace(case, title="", wrong=_flat(wrong), truth=truth))
        keys = (area_key("wrong pixels", WRONG), line_key("pseudo truth", TRUTH, "dashed"))
        names = ("proposed mask", "what is wrong with it")
        return Sheet((above, below), store.class_names[1:], names, keys, side=240).png()


def _kind(record: Mapping[str, Any]) -> str:
    name = KINDS.get(record["kind"], record["kind"].replace("_", " "))
    return f"{name}: {record['what'].replace('_', ' ')}" if "what" in record else name


def _examples(rewards: RewardStore, wanted: int = 6) -> list[int]:
    """Of every kind the example with the median error, those without error left out; then more where kinds are few."""
    kinds = np.array([record["kind"] for record in rewards.records])
    queues = []
    for kind in sorted(rewards.kinds(), key=[*KINDS, *rewards.kinds()].index):
        own = np.flatnonzero(kinds == kind)
        own = own[rewards.error_fraction[own] > 0] if rewards.error_fraction[own].any() else own
        own = own[np.argsort(rewards.error_fraction[own], kind="stable")]
        middle_first = sorted(_spread(len(own), wanted), key=lambda i: abs(2 * i - len(own) + 1))
        queues.append(own[middle_first].tolist())
    chosen: list[int] = [queue[turn] for turn in range(wanted) for queue in queues if turn < len(queue)]
    return chosen[:wanted]


def _trained(first: Sequence[str], folder: Path, inputs: Inputs) -> bytes | None:
    return training_picture(folder, first)


def _evaluated(folder: Path, inputs: Inputs) -> bytes:
    """The worst, the median and the best case of an evaluation."""
    return montage_picture(inputs["cases"], {"prediction": folder}, inputs.get("reward_net") is not None, 3)


def montage_picture(cases: Path, evaluations: Mapping[str, Path], judged: bool, count: int = 4) -> bytes:
    """Target cases from the first evaluation's worst to its best, the masks of all evaluations, the last one's errors.

    Args:
        cases: folder of the case store.
        evaluations: what each is called -> its folder.
        judged: whether the last one's error map comes from a reward net, else it is 1 - maximum softmax.
        count: cases shown at most.
    """
    with ExitStack() as stack:
        store = stack.enter_context(CaseStore(cases / "cases.h5"))
        found = [_Evaluation(folder, stack) for folder in evaluations.values()]
        places = found[0].worst_to_best(count)
        columns = [_column(store, found, place) for place in places]
    for place, rank in {
        -1: "best",
        len(columns) // 2: "median" if len(columns) == 3 else "",
        0: "worst",
    }.items():
        if rank and len(columns) > 1:
            columns[place][0] = replace(columns[place][0], title=f"{rank} · {columns[place][0].title}")
    labelled = any(column[0].mask is not None for column in columns)
    truth = (line_key("truth", TRUTH, "dashed"), line_key("really wrong", DIFFERENT, "dashed"))
    ends = ("expected right", "expected wrong") if judged else ("policy sure", "policy unsure")
    last = "expected errors" if judged else "uncertainty"
    names = ("truth" if labelled else "image", *evaluations, last)
    keys, rows = truth if labelled else (), list(zip(*columns, strict=True))
    return Sheet(rows, store.class_names[1:], names, keys, ends, side=250).png()


def _column(store: CaseStore, evaluations: Sequence[_Evaluation], place: int) -> list[Frame]:
    """One case: its truth, every evaluation's mask, the error map of the last."""
    index = int(evaluations[0].indices[place])
    case, truth = _frame(store, index), _truth(store, index)
    frames = [replace(case, mask=truth)]
    for evaluation in evaluations:
        mask: UInt8 = _flat(evaluation.file["masks"][place])
        frames.append(replace(case, title=evaluation.words(place), mask=mask, truth=truth))
    colours = error_colours(evaluations[-1].error(place)).astype(np.float32) / np.float32(255)
    different: Bool | None = None if truth is None else np.not_equal(mask, truth)
    return [*frames, replace(case, title="", image=colours, different=different)]


class _Evaluation:
    """Figures, masks and error maps of one evaluation."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.file = stack.enter_context(h5py.File(folder / "maps.h5", "r"))
        self.indices = self.file["indices"][:]
        with (folder / "cases.csv").open(newline="") as file:
            self.rows = list(csv.DictReader(file))

    def error(self, place: int) -> Float32:
        """Probability of being wrong. Shape: (h, w)."""
        error: Float32 = _flat(self.file["error"][place]).astype(np.float32) / np.float32(255)
        return error

    def worst_to_best(self, count: int) -> list[int]:
        """Places spread over the labelled cases by Dice; where none has a label, over all by trust."""
        labelled = [place for place, row in enumerate(self.rows) if row.get("dice_mean")]
        key = "dice_mean" if labelled else "trust"
        order = sorted(labelled or range(len(self.rows)), key=lambda place: float(self.rows[place][key]))
        return [order[i] for i in _spread(len(order), count)]

    def words(self, place: int) -> str:
        """Dice or trust of a case, and what the anatomy says."""
        row = self.rows[place]
        dice = row.get("dice_mean")
        figure = f"Dice {float(dice):.3f}" if dice else f"trust {float(row['trust']):.3f}"
        broken = len(row["violated"].split(";")) if row["violated"] else 0
        return f"{figure} · " + ("valid" if not broken else f"breaks {broken} rule{'s' * (broken > 1)}")


_PICTURES: dict[str, Draw] = {
    "import_dataset": _imported,
    "fit_shape_prior": _shapes,
    "predict_target": _predicted,
    "synthesize_rewards": _synthesized,
    "evaluate_policy": _evaluated,
    "train_supervised": partial(_trained, ("loss", "learning_rate")),
    "train_reward": partial(_trained, ("loss",)),
    "continue_supervised": partial(_trained, ("loss",)),
    "train_tent": partial(_trained, ("entropy", "foreground")),
    "train_teacher": partial(_trained, ("loss", "consistency", "sure")),
    "finetune_policy": partial(_trained, ("reward", "kl_ref", "entropy", "clip_fraction", "anchor_loss")),
}
