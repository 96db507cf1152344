"""Pictures of stages: of every stage of a real tiny run, and of images of other kinds. Covers sheets and curves too."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flows.reporting import picture_curves, stage_pictures
from flows.reporting.montage import class_colour
from flows.reporting.picture_sheet import PNG_BYTES, TRUTH, WRONG, Frame, Sheet, encoded
from flows.reporting.stage_pictures import montage_picture, picture
from reward_data.case_store import CaseStore, import_cases
from reward_data.correction import Correction
from reward_data.distortions import Identity, Swap
from reward_data.preprocess import PreprocessConfig
from reward_data.reward_store import ImageEntry, RewardStoreWriter
from reward_data.types import Case, LabelMap
from rl4seg.histories import write_history
from tests.flows import tiny

STAGES = {
    "import target": "import_dataset",
    "shape prior": "fit_shape_prior",
    "source training": "train_supervised",
    "source-only · evaluate": "evaluate_policy",
    "iteration 1 · predict": "predict_target",
    "iteration 1 · synthesize": "synthesize_rewards",
    "iteration 1 · reward net": "train_reward",
    "iteration 1 · PPO": "finetune_policy",
    "PPO off · iteration 1 · PPO": "finetune_policy",
    "iteration 1 · evaluate": "evaluate_policy",
}


@pytest.fixture
def sheets(monkeypatch: pytest.MonkeyPatch) -> list[Sheet]:
    """The sheets that are drawn meanwhile."""
    seen: list[Sheet] = []

    class Seen(Sheet):
        def png(self) -> bytes:
            seen.append(self)
            return super().png()

    monkeypatch.setattr(stage_pictures, "Sheet", Seen)
    return seen


def opened(png: bytes | None) -> Image.Image:
    assert png is not None
    assert png.startswith(b"\x89PNG")
    assert 3_000 < len(png) <= PNG_BYTES
    image = Image.open(io.BytesIO(png))
    assert 300 < image.width <= 1200
    assert 200 < image.height <= 1600
    return image.convert("RGB")


def pixels_of(image: Image.Image, colour: str) -> int:
    """How many pixels are nearly of a colour."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(np.asarray(image).astype(int) - wanted).max(-1) < 24).sum())


def titles(sheet: Sheet, row: int = 0) -> list[str]:
    return [frame.title for frame in sheet.rows[row]]


# --- of a real run ---------------------------------------------------------------------------------------------------


@pytest.mark.flow
@pytest.mark.parametrize("label", list(STAGES))
def test_every_stage_of_a_run_has_its_picture(undisturbed: tiny.Run, label: str, sheets: list[Sheet]) -> None:
    domain = "source" if label in ("shape prior", "source training") else "target"
    net = undisturbed.artifact("iteration 1 · reward net") if label.startswith("iteration") else None
    inputs = {"cases": undisturbed.artifact(f"import {domain}"), "reward_net": net}
    image = opened(picture(STAGES[label], undisturbed.artifact(label), inputs))
    if sheets:
        assert pixels_of(image, class_colour(0)) > 100  # disc
        assert pixels_of(image, class_colour(1)) > 100  # ring
        assert sheets[0].class_names == ("disc", "ring")


@pytest.mark.flow
def test_cases_are_shown_from_worst_to_best(undisturbed: tiny.Run, sheets: list[Sheet]) -> None:
    cases = undisturbed.artifact("import target")
    picture(
        "evaluate_policy",
        undisturbed.artifact("iteration 1 · evaluate"),
        {"cases": cases, "reward_net": cases},
    )
    picture(
        "evaluate_policy",
        undisturbed.artifact("source-only · evaluate"),
        {"cases": cases, "reward_net": None},
    )
    judged, unjudged = sheets
    assert [title.partition(" · ")[0] for title in titles(judged)] == ["worst", "median", "best"]
    dice = [float(title.split()[1]) for title in titles(judged, 1)]
    assert dice == sorted(dice)
    assert dice[0] < dice[2]
    assert list(judged.row_names) == ["truth", "prediction", "expected errors"]
    assert list(unjudged.row_names) == ["truth", "prediction", "uncertainty"]
    frame, errors = judged.rows[1][0], judged.rows[2][0]
    assert frame.mask is not None
    assert errors.different is not None
    np.testing.assert_array_equal(errors.different, frame.mask != frame.truth)


@pytest.mark.flow
def test_two_evaluations_are_compared_on_the_same_cases(undisturbed: tiny.Run, sheets: list[Sheet]) -> None:
    labels = {"before": "source-only · evaluate", "after": "iteration 2 · evaluate"}
    evaluations = {name: undisturbed.artifact(label) for name, label in labels.items()}
    opened(montage_picture(undisturbed.artifact("import target"), evaluations, True))
    assert list(sheets[0].row_names) == ["truth", "before", "after", "expected errors"]
    assert [len(row) for row in sheets[0].rows] == [4, 4, 4, 4]


@pytest.mark.flow
def test_predictions_are_shown_from_least_to_most_confident(
    undisturbed: tiny.Run, sheets: list[Sheet]
) -> None:
    inputs = {"cases": undisturbed.artifact("import target")}
    picture("predict_target", undisturbed.artifact("iteration 1 · predict"), inputs)
    confidence = [float(frame.title.split()[-1]) for row in sheets[0].rows for frame in row]
    assert len(confidence) == 8
    assert confidence == sorted(confidence)


# --- other modalities ------------------------------------------------------------------------------------------------


def write_cases(
    folder: Path,
    shape: tuple[int, ...],
    channels: int = 1,
    classes: int = 2,
    labelled: bool = True,
    count: int = 5,
) -> Path:
    """A case store of noisy images with one block per class; case numbers are the brightness of the block."""
    folder.mkdir()
    rng, names = np.random.default_rng(0), ("background", *(f"structure {k + 1}" for k in range(classes)))
    cases = []
    for number in range(count):
        label = np.zeros(shape, np.uint8)
        for k in range(classes):
            label[2 + 3 * k : 4 + 3 * k, 2 : shape[1] - 2] = k + 1
        image = rng.uniform(0, 255, (channels, *shape)).astype(np.float32)
        case = Case(
            id=f"a_rather_long_$name$_of_a_case_{number:03d}",
            group=str(number),
            domain="other",
            split=None,
            image=image,
            label=label if labelled else None,
            spacing_mm=(1.0,) * len(shape),
            affine=np.eye(4),
        )
        cases.append(case)
    config = PreprocessConfig(shape=shape, intensity="divide_255")
    import_cases(cases, count, config, LabelMap(names=names), folder / "cases.h5")
    return folder


@pytest.mark.parametrize(
    ("shape", "channels", "classes"),
    [((48, 32), 3, 2), ((32, 40, 9), 1, 1), ((700, 64), 1, 12), ((24, 24), 2, 3)],
)
def test_images_of_any_kind(
    tmp_path: Path, shape: tuple[int, ...], channels: int, classes: int, sheets: list[Sheet]
) -> None:
    cases = write_cases(tmp_path / "cases", shape, channels, classes)
    image = opened(picture("import_dataset", cases, {}))
    assert pixels_of(image, class_colour(0)) > 50
    first = sheets[0].rows[0][0]
    with CaseStore(cases / "cases.h5") as store:
        stored, label = store.images([0])[0], store.labels([0])[0]
    if len(shape) == 3:
        np.testing.assert_array_equal(first.image, stored[0, ..., 4])
        np.testing.assert_array_equal(first.mask, label[..., 4])
    elif channels == 3:
        np.testing.assert_array_equal(first.image, np.moveaxis(stored, 0, -1))
    elif max(shape) > 512:
        np.testing.assert_array_equal(first.image, stored[0, ::2, ::2])
    else:
        np.testing.assert_array_equal(first.image, stored[0])


def test_an_unlabelled_dataset_has_neither_outlines_nor_legend(tmp_path: Path, sheets: list[Sheet]) -> None:
    image = opened(picture("import_dataset", write_cases(tmp_path / "cases", (32, 32), labelled=False), {}))
    assert list(sheets[0].class_names) == []
    assert pixels_of(image, class_colour(0)) == 0


def write_rewards(folder: Path, cases: Path) -> None:
    folder.mkdir()
    with (
        CaseStore(cases / "cases.h5") as store,
        RewardStoreWriter(folder / "rewards.h5", 1, store.shape) as writer,
    ):
        for number, case_id in enumerate(store.ids):
            truth = store.labels([number])[0]
            image = np.rint(store.images([number])[0] * 255).astype(np.uint8)
            empty, swapped = np.zeros_like(truth), np.roll(truth, max(0, number - 2))
            examples: Sequence[tuple[Any, Any]] = [
                (Swap(other_id="x"), swapped), (Identity(), truth), (Correction(steps=(), closing_radius=0), empty)
            ]  # fmt: skip
            writer.add(ImageEntry(case_id, "train", True, image, truth), examples)


def test_reward_examples_of_every_kind_with_their_errors(tmp_path: Path, sheets: list[Sheet]) -> None:
    cases = write_cases(tmp_path / "cases", (32, 32))
    write_rewards(tmp_path / "rewards", cases)
    image = opened(picture("synthesize_rewards", tmp_path / "rewards", {"cases": cases}))
    assert pixels_of(image, WRONG) > 20  # the legend; on the images it is mixed with them
    assert [title.partition("\n")[0] for title in titles(sheets[0])] == [
        "correction", "swap with another image", "identity, no error",
        "correction", "swap with another image", "identity, no error",
    ]  # fmt: skip
    above, below = sheets[0].rows
    for proposed, frame in zip(above, below, strict=True):
        assert frame.wrong is not None
        np.testing.assert_array_equal(frame.wrong, proposed.mask != frame.truth)
    wrong = [bool(np.any(frame.wrong)) for frame in below if frame.wrong is not None]
    assert wrong == [True, True, False] * 2  # swaps without error are not worth showing


# --- sheets, curves, failures ----------------------------------------------------------------------------------------


def test_outlines_lie_on_their_region() -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[10:30, 10:30] = 1
    black = np.zeros((40, 40), np.float32)
    plain, drawn = (
        np.asarray(Image.open(io.BytesIO(Sheet([[frame]], ()).png())).convert("RGB"))
        for frame in (Frame(black), Frame(black, mask=mask))
    )
    rows, columns = np.nonzero((drawn != plain).any(-1))
    black_rows, black_columns = np.nonzero((plain < 10).all(-1))
    scale = (black_rows.max() - black_rows.min() + 1) / 40
    for values in ((rows - black_rows.min()) / scale, (columns - black_columns.min()) / scale):
        assert values.min() == pytest.approx(10, abs=0.4)
        assert values.max() == pytest.approx(30, abs=0.4)


def test_pixels_are_as_tall_as_they_are_in_mm() -> None:
    black = np.zeros((40, 40), np.float32)

    def tall(aspect: float) -> int:
        return Image.open(io.BytesIO(Sheet([[Frame(black, pixel_aspect=aspect)]], ()).png())).height

    assert tall(1.5) - tall(1.0) == 140  # half of 280 px


def test_curves_come_in_the_order_asked_for_and_zeros_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("policy_loss", "value_loss", "entropy", "kl_ref", "clip_fraction", "reward")
    rows = [
        {"step": float(i), **{name: i * 0.1 * (name != "value_loss") for name in names}} for i in range(1, 40)
    ]
    write_history(tmp_path / "history.csv", rows)
    told: list[str] = []
    words = picture_curves._words
    monkeypatch.setattr(
        picture_curves, "_words", lambda axes, *text: (told.append(text[0]), words(axes, *text))
    )
    opened(picture("finetune_policy", tmp_path, {}))
    assert told == ["Mean reward", "KL to the reference (nats)", "Entropy (nats)", "Clip fraction"]
    del told[:]
    kept = ("step", "policy_loss", "value_loss")
    write_history(tmp_path / "history.csv", [{name: row[name] for name in kept} for row in rows])
    assert picture("finetune_policy", tmp_path, {}) is not None
    assert told == ["Policy loss"]


def test_a_huge_noisy_picture_is_brought_below_the_limit() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), np.uint8))
    png = encoded(noise)
    assert 50_000 < len(png) <= PNG_BYTES
    small = Image.open(io.BytesIO(png))
    assert small.width / small.height == pytest.approx(4 / 3, rel=0.01)
    flat = Image.new("RGB", (200, 100), TRUTH)
    assert Image.open(io.BytesIO(encoded(flat))).size == (200, 100)


def test_noisy_images_make_a_small_picture(tmp_path: Path) -> None:
    opened(picture("import_dataset", write_cases(tmp_path / "cases", (512, 512), 3, count=8), {}))


def test_what_cannot_be_drawn_is_logged_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="flows.reporting.stage_pictures"):
        assert picture("write_report", tmp_path, {}) is None
        assert picture("load_checkpoint", tmp_path, {}) is None
        assert picture("train_supervised", tmp_path, {}) is None  # no history
        assert not caplog.records
        assert picture("import_dataset", tmp_path, {}) is None
        assert picture("evaluate_policy", tmp_path, {}) is None
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "import_dataset",
        "evaluate_policy",
    ]


def test_drawing_needs_no_torch() -> None:
    imported = "import sys, flows.reporting.stage_pictures; "
    code = imported + "sys.exit('torch' in sys.modules or 'matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
