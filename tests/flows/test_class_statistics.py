from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.class_statistics import label_map, print_class_statistics
from reward_data.class_statistics import load_class_weights
from reward_data.errors import ConfigError, DataError


def folder(root: Path) -> Path:
    for name, values in (("a", [[0, 0, 1], [0, 0, 1]]), ("b", [[0, 0, 1, 2]])):
        for kind in ("images", "labels"):
            (root / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.array(values, np.uint8)).save(root / kind / f"{name}.png")
    return root


def test_table_and_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "weights.yaml"
    print_class_statistics(folder(tmp_path / "data"), "matrix,small,large", None, 0.2, None, out)
    # the hand-worked example of tests/reward_data/test_class_statistics.py
    assert load_class_weights(out) == pytest.approx((45 / 79, 72 / 79, 120 / 79))
    shown = capsys.readouterr().out
    assert "class_weights=[0.5696,0.9114,1.5190]" in shown
    row = next(line for line in shown.splitlines() if " small " in line)
    assert row.split() == ["1", "small", "3", "30.0000%", "2", "0.9114"]


def test_without_names_values_are_classes_and_merges_need_names(tmp_path: Path) -> None:
    found = print_class_statistics(folder(tmp_path))
    assert found.names == ("class 0", "class 1", "class 2")
    merged = print_class_statistics(tmp_path, "no,yes", ["2=1"])
    assert merged.pixels.tolist() == [6, 4]


@pytest.mark.parametrize(
    ("names", "merge"), [(None, ["3=0"]), ("a,b", ["x"]), ("a,b", ["3=2"]), ("a", []), ("a,b", ["3=-1"])]
)
def test_classes_that_make_no_sense_are_refused(names: str | None, merge: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"--names|--merge"):
        label_map(names, merge)


def test_a_folder_without_labels_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no label files"):
        print_class_statistics(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        print_class_statistics(tmp_path / "none")
