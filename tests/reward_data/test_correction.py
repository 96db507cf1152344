"""Corrections: the gentlest step that helps, recorded, replayable, refused when they leave the mask behind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from reward_data.anatomy import is_valid, load_rules
from reward_data.correction import Correction, CorrectionConfig, agreement, agrees, apply_correction, correct
from reward_data.errors import DataError
from reward_data.mask_damage import Damage, damage_mask
from tests.reward_data.test_shape_prior import PRIOR, ventricles

RULES = load_rules("lv_myo")
SPACING = (1.0, 1.0)
CONFIG = CorrectionConfig()
MASK = ventricles(1, stream=7)[0]


def test_agreement_by_hand() -> None:
    a = np.array([[1, 1, 2, 0]], np.uint8)
    b = np.array([[1, 2, 2, 0]], np.uint8)
    # class 1: 2 * 1 / (2 + 1); class 2: 2 * 1 / (1 + 2); class 3 in neither: 1
    assert agreement(a, b, 4).tolist() == pytest.approx([2 / 3, 2 / 3, 1])
    assert agreement(a, np.zeros_like(a), 3).tolist() == [0, 0]


class OnlyTheLastAgrees:
    """A prior that keeps class 2 as it is and loses a third of class 1."""

    num_classes = 3

    def reconstruct(self, mask: np.ndarray) -> np.ndarray:
        rows = np.flatnonzero((mask == 1).any(1))
        lost = (mask == 1) & (np.arange(len(mask)) < rows[len(rows) // 3])[:, None]
        return np.where(lost, 0, mask).astype(np.uint8)


def test_every_class_has_to_agree() -> None:
    """The published check looks at the last label only."""
    prior: Any = OnlyTheLastAgrees()
    assert agreement(MASK, prior.reconstruct(MASK), 3)[1] == 1
    assert not agrees(MASK, prior, 0.93)
    assert agrees(MASK, PRIOR, 0.93)
    assert agrees(MASK, prior, 0)
    assert agrees(MASK, None, 0.99)


def gap(mask: np.ndarray) -> np.ndarray:
    """A slit one pixel wide through the wall from outside, on the left."""
    out = mask.copy()
    row = int(np.nonzero(mask == 1)[0].mean())
    wall = np.flatnonzero(mask[row] == 2)
    out[row, wall[wall < np.flatnonzero(mask[row] == 1)[0]]] = 0
    return out


def holed(mask: np.ndarray) -> np.ndarray:
    return damage_mask(Damage(what="hole", size=0.15, seed=0), mask)


def fragmented(mask: np.ndarray) -> np.ndarray:
    return damage_mask(Damage(what="island", size=0.2, seed=0), mask)


@pytest.mark.parametrize(
    ("harm", "steps"),
    [
        (fragmented, ("largest_pieces",)),
        (holed, ("fill_holes",)),
        (lambda m: fragmented(holed(m)), ("largest_pieces", "fill_holes")),
        (gap, ("close_gaps",)),
    ],
)
def test_the_first_step_that_helps(harm, steps: tuple[str, ...]) -> None:  # type: ignore[no-untyped-def]
    broken = harm(MASK)
    assert not is_valid(broken, RULES, SPACING)
    corrected, record = correct(broken, PRIOR, RULES, SPACING, CONFIG, 0.9)
    assert record.steps == steps
    assert is_valid(corrected, RULES, SPACING)
    assert agreement(corrected, MASK, 3).min() > 0.97
    again = Correction.model_validate_json(record.model_dump_json())
    assert np.array_equal(apply_correction(again, broken, PRIOR), corrected)


def test_the_prior_comes_last() -> None:
    thick = MASK.copy()
    rows = np.flatnonzero((MASK == 1).any(1))
    left = np.arange(MASK.shape[1]) < np.nonzero(MASK == 1)[1].mean()
    thick[np.ix_(rows[: len(rows) // 2], left)] = np.where(MASK > 0, 2, 0)[
        np.ix_(rows[: len(rows) // 2], left)
    ]
    corrected, record = correct(thick, PRIOR, RULES, SPACING, CONFIG, 0.97)
    assert record.steps[-1] == "shape_prior"
    assert is_valid(corrected, RULES, SPACING)
    assert np.array_equal(apply_correction(record, thick, PRIOR), corrected)
    assert correct(thick, None, RULES, SPACING, CONFIG) is None or is_valid(thick, RULES, SPACING)
    with pytest.raises(DataError, match="shape prior"):
        apply_correction(record, thick, None)


def test_a_valid_mask_of_unusual_shape_is_projected_only_when_agreement_is_asked() -> None:
    corrected, record = correct(MASK, PRIOR, RULES, SPACING, CONFIG)
    assert record.steps == ()
    assert np.array_equal(corrected, MASK)
    _, record = correct(MASK, PRIOR, RULES, SPACING, CONFIG, 0.9999)
    assert record.steps[-1] == "shape_prior"


def test_none_when_the_correction_is_another_mask() -> None:
    """A myocardium without ventricle and upside down: nothing near it is valid; an empty mask least of all."""
    assert correct(MASK[::-1].copy(), PRIOR, RULES, SPACING, CONFIG) is None
    empty = np.zeros_like(MASK)
    assert is_valid(PRIOR.reconstruct(empty), RULES, SPACING)
    assert correct(empty, PRIOR, RULES, SPACING, CONFIG) is None
    accepted = correct(empty, PRIOR, RULES, SPACING, CorrectionConfig(min_overlap=0))
    assert accepted is not None
    assert accepted[1].steps == ("shape_prior",)


def test_input_is_left_alone_and_volumes_are_corrected() -> None:
    volume = np.zeros((12, 12, 12), np.uint8)
    volume[3:9, 3:9, 3:9] = 1
    volume[5, 5, 5] = 0
    volume[0, 0, 0] = 1
    before = volume.copy()
    record = Correction(steps=("largest_pieces", "fill_holes", "close_gaps"), closing_radius=0.1)
    mended = apply_correction(record, volume, None)
    assert np.array_equal(volume, before)
    assert mended.sum() == 216
    assert mended[0, 0, 0] == 0


def test_config_ranges() -> None:
    with pytest.raises(ValidationError):
        CorrectionConfig(min_overlap=1.1)
    with pytest.raises(ValidationError):
        Correction(steps=("sharpen",), closing_radius=0)  # type: ignore[arg-type]
