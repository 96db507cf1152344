import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from reward_data import class_statistics
from reward_data.class_statistics import (
    check_weights,
    class_weights,
    count_files,
    count_labels,
    load_class_weights,
    write_statistics,
)
from reward_data.errors import ConfigError, DataError
from reward_data.types import LabelMap

# two labels: 0 in 6 pixels, 1 in 3, 2 in 1; T = 10
LABELS = [np.array([[0, 0, 1], [0, 0, 1]]), np.array([0, 0, 1, 2], np.uint8)]
NAMES = ("background", "a", "b")


def png(path: Path, values: list[list[int]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values, np.uint8)).save(path)
    return path


def test_counts_and_weights_by_hand() -> None:
    found = count_labels(LABELS, NAMES)
    assert found.pixels.tolist() == [6, 3, 1]
    assert found.images.tolist() == [2, 2, 1]
    assert (found.total, found.files) == (10, 2)
    np.testing.assert_allclose(found.frequencies, [0.6, 0.3, 0.1])
    # smooth .2: w = 1 / (6 + 2), 1 / (3 + 2), 1 / (1 + 2) = 15, 24, 40 over 120; sum 79; 3 w / sum
    np.testing.assert_allclose(class_weights(found, 0.2), [45 / 79, 72 / 79, 120 / 79])
    # no smoothing: 1/6, 1/3, 1 = 1, 2, 6 over 6; sum 9
    np.testing.assert_allclose(class_weights(found, 0.0), [3 / 9, 6 / 9, 18 / 9])
    np.testing.assert_allclose(class_weights(found, 1e9), [1, 1, 1], atol=1e-6)


def test_an_ignored_value_has_no_part_in_either() -> None:
    found = count_labels([*LABELS, np.full((2, 2), 255)], NAMES, ignore_index=255)
    assert found.pixels.tolist() == [6, 3, 1]
    assert (found.ignored, found.total, found.files) == (4, 10, 3)
    # an ignored class: T = 9, two classes. smooth 1/3: 1 / 9, 1 / 6 = 2, 3 over 18; 2 w / 5
    found = count_labels(LABELS, NAMES, ignore_index=2)
    assert found.pixels.tolist() == [6, 3, 0]
    np.testing.assert_allclose(class_weights(found, 1 / 3), [4 / 5, 6 / 5, 0])
    np.testing.assert_allclose(class_weights(found, 0), [2 / 3, 4 / 3, 0])


def test_without_names_the_values_found_are_the_classes() -> None:
    found = count_labels([np.array([0, 3])])
    assert found.names == ("class 0", "class 1", "class 2", "class 3")
    assert found.pixels.tolist() == [1, 0, 0, 1]


def test_a_class_that_is_nowhere_has_no_infinite_weight() -> None:
    found = count_labels([np.array([0, 0, 1])], NAMES)
    with pytest.raises(ConfigError, match="'b' occurs in none of the 1 labels"):
        class_weights(found, 0)
    # smooth 1 / 3: 1 / (2 + 1), 1 / (1 + 1), 1 / (0 + 1) = 2, 3, 6 over 6; sum 11
    np.testing.assert_allclose(class_weights(found, 1 / 3), [6 / 11, 9 / 11, 18 / 11])
    with pytest.raises(DataError, match="no labelled pixel"):
        class_weights(count_labels([], NAMES))


def test_large_labels_are_counted_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    label = np.random.default_rng(0).integers(0, 5, (17, 19, 3))
    whole = count_labels([label])
    monkeypatch.setattr(class_statistics, "BLOCK", 64)
    blocks = count_labels([label])
    assert blocks.pixels.tolist() == whole.pixels.tolist() == np.bincount(label.ravel()).tolist()
    assert blocks.images.tolist() == [1] * 5


@pytest.mark.parametrize("bad", [np.array([0.5, 1]), np.array([-1, 0]), np.array([0, 70000])])
def test_an_image_is_no_label(bad: np.ndarray) -> None:
    with pytest.raises(DataError, match="label number 2 has values"):
        count_labels([np.zeros(2, int), bad])


def test_a_value_without_a_class_is_refused() -> None:
    with pytest.raises(DataError, match=r"has the value 2, wanted 0\.\.1 \(background, a\)"):
        count_labels(LABELS, NAMES[:2])


def test_files_one_at_a_time_with_merged_values(tmp_path: Path) -> None:
    files = [png(tmp_path / "a.png", [[0, 1, 7]]), png(tmp_path / "b.png", [[1, 255, 1]])]
    labels = LabelMap(names=("background", "a"), merge={7: 0})
    seen: list[int] = []
    found = count_files(files, labels, 255, lambda done, total, metrics=None: seen.append(done))
    assert found.pixels.tolist() == [2, 3]
    assert (found.ignored, seen) == (1, [1, 2])
    with pytest.raises(DataError, match=r"b.png: label values \[255.0\]"):
        count_files(files, labels)
    with pytest.raises(DataError, match="no label file"):
        count_files([])


@pytest.mark.parametrize("name", ["weights.yaml", "weights.json"])
def test_what_is_written_can_be_read_as_class_weights(tmp_path: Path, name: str) -> None:
    write_statistics(count_labels(LABELS, NAMES), 0.2, tmp_path / name)
    assert load_class_weights(tmp_path / name) == pytest.approx((45 / 79, 72 / 79, 120 / 79))
    read = (json.loads if name.endswith("json") else yaml.safe_load)((tmp_path / name).read_text())
    assert read["classes"][2] == {
        "value": 2, "name": "b", "pixels": 1, "frequency": 0.1, "images": 1, "weight": pytest.approx(120 / 79),
    }  # fmt: skip
    (tmp_path / "list.yaml").write_text("[1, 2.5, 0]")
    assert load_class_weights(tmp_path / "list.yaml") == (1.0, 2.5, 0.0)


@pytest.mark.parametrize("content", ["", "a: 1", "[1, x]", "[1, -1]", "[1, .nan]", "{", "[true, 1]"])
def test_a_file_without_weights_is_one_clear_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=f"class_weights={path}"):
        load_class_weights(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_class_weights(tmp_path / "none.yaml")


def test_weights_and_classes_of_different_number_are_one_clear_error() -> None:
    assert check_weights((1.0, 2.0), ("a", "b")) == (1.0, 2.0)
    with pytest.raises(
        ConfigError, match=r"class_weights has 2 values, the label map has 3 classes \(background, a, b\)"
    ):
        check_weights((1.0, 2.0), NAMES)
    with pytest.raises(ConfigError, match=r"ends in .yaml or .json"):
        write_statistics(count_labels(LABELS, NAMES), 0.1, Path("weights.txt"))


@pytest.mark.realdata
def test_superalloy(real_data: Path) -> None:
    files = sorted((real_data / "superalloy").glob("*/labels/*.png"))
    found = count_files(files, LabelMap(names=("matrix", "small", "large")))
    # counted with numpy.unique over the 14 files
    assert found.pixels.tolist() == [1_779_580, 78_138, 1_812_298]
    assert found.images.tolist() == [14, 14, 14]
    # by hand with T = 3,670,016: 1 / (C + .1 T) = 1 / 2146581.6, 1 / 445139.6, 1 / 2179299.6
    raw = 1 / np.array([2_146_581.6, 445_139.6, 2_179_299.6])
    np.testing.assert_allclose(class_weights(found, 0.1), 3 * raw / raw.sum(), rtol=1e-12)
    np.testing.assert_allclose(class_weights(found, 0.1), [0.4407, 2.1252, 0.4341], atol=1e-4)
