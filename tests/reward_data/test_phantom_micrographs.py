"""Simulated micrographs: exact, repeatable, split by specimen."""

from __future__ import annotations

import numpy as np
import pytest

from reward_data.errors import DataError
from reward_data.phantom_micrographs import MicrographConfig, micrograph
from reward_data.readers import DatasetConfig, count_cases, read_cases


def test_equal_seeds_give_equal_images_and_others_do_not() -> None:
    config = MicrographConfig(cases=4, shape=(48, 40))
    first, again = micrograph(config, 2), micrograph(config, 2)
    assert np.array_equal(first.image, again.image)
    assert first.image.shape == (1, 48, 40)
    assert not np.array_equal(first.image, micrograph(config, 3).image)
    assert not np.array_equal(
        first.image, micrograph(MicrographConfig(cases=4, shape=(48, 40), seed=1), 2).image
    )


def test_an_image_does_not_depend_on_how_many_there_are() -> None:
    few, many = MicrographConfig(cases=4), MicrographConfig(cases=40)
    assert np.array_equal(micrograph(few, 3).image, micrograph(many, 3).image)


def test_phases_are_as_asked() -> None:
    labels = [micrograph(MicrographConfig(cases=10), i).label for i in range(10)]
    shares = np.mean(
        [[np.mean(label == value) for value in range(3)] for label in labels if label is not None], 0
    )
    assert shares[2] == pytest.approx(0.45, abs=0.02)
    assert 0.002 < shares[1] < 0.06
    values = micrograph(MicrographConfig(cases=10), 0).image
    assert values.min() >= 0
    assert values.max() <= 255
    assert np.array_equal(values, np.rint(values))


def test_images_of_a_specimen_stay_together() -> None:
    alloy = MicrographConfig(cases=20, shape=(32, 32))
    dataset = DatasetConfig(
        micrographs=alloy, domain="alloy", validation_fraction=0.2, test_fraction=0.2, max_cases=18
    )
    assert count_cases(dataset) == 18
    cases = list(read_cases(dataset))
    assert {case.domain for case in cases} == {"alloy"}
    split = {case.group: case.split for case in cases}
    assert all(case.split == split[case.group] for case in cases)
    assert {"train", "val", "test"} == set(split.values())
    assert len({case.id for case in cases}) == 18


def test_what_cannot_be_simulated_is_refused() -> None:
    with pytest.raises(DataError, match=r"wanted 0\.\.3"):
        micrograph(MicrographConfig(cases=4), 4)
    with pytest.raises(ValueError, match="at least 32 pixels"):
        MicrographConfig(shape=(16, 64))
