"""The one-file copy of the project's own code."""

import subprocess
import sys
from pathlib import Path

import pytest

from reward_data.errors import ArtifactError
from rl4seg.export import bundle_code
from rl4seg.export.bundle import CODE, ROOTS
from rl4seg.export.bundle_code import standalone_source

BLOCKED = ("rl4seg", "reward_data", "flows", "pydantic", "skimage", "h5py", "PIL")


def test_the_copy_names_nothing_that_it_does_not_hold(tmp_path: Path) -> None:
    file = tmp_path / "copy.py"
    file.write_text(standalone_source(CODE, ROOTS, "a copy"))
    found = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout


def test_the_copy_holds_the_projects_text_and_asks_for_none_of_the_project() -> None:
    import inspect

    from reward_data.geometry import resize_linear
    from reward_data.preprocess import preprocess
    from rl4seg.networks import SegmentationNetwork

    copy = standalone_source(CODE, ROOTS, "a copy")
    for thing in (resize_linear, preprocess, SegmentationNetwork):
        assert inspect.getsource(thing) in copy
    imports = [line for line in copy.splitlines() if line.startswith(("import ", "from "))]
    assert not [line for line in imports if line.split()[1].split(".")[0] in BLOCKED]


def test_definitions_come_before_what_uses_them() -> None:
    copy = standalone_source("reward_data.geometry", ("restore_probabilities",), "a copy")
    namespace: dict[str, object] = {"__name__": "copy"}
    sys.modules["copy_of_geometry"] = type(sys)("copy_of_geometry")
    namespace["__name__"] = "copy_of_geometry"
    try:
        exec(compile(copy, "copy", "exec"), namespace)
    finally:
        del sys.modules["copy_of_geometry"]
    assert {"restore_probabilities", "resize_linear", "Mask"} <= namespace.keys()
    assert "pad_to_grid" not in namespace  # nothing but what is needed


def test_two_things_of_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "copied_one.py").write_text(
        "from copied_two import g\n\n\ndef f():\n    return g() + h()\n\n\ndef h():\n    return 1\n"
    )
    (tmp_path / "copied_two.py").write_text("def g():\n    return h()\n\n\ndef h():\n    return 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(bundle_code, "PROJECT", ("copied_one", "copied_two"))
    with pytest.raises(ArtifactError, match="h is defined in copied_two and in copied_one"):
        standalone_source("copied_one", ("f",), "a copy")


def test_a_name_that_is_handed_on_is_followed_and_a_module_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "handed_package").mkdir()
    (tmp_path / "handed_package" / "__init__.py").write_text("")
    (tmp_path / "handed_package" / "inner.py").write_text("def g():\n    return 7\n")
    (tmp_path / "handed_package" / "middle.py").write_text("from handed_package.inner import g\n")
    (tmp_path / "handed_package" / "outer.py").write_text(
        "from handed_package import inner\nfrom handed_package.middle import g\n\n\ndef f():\n    return g()\n\n\n"
        "def h():\n    return inner.g()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(bundle_code, "PROJECT", ("handed_package",))
    assert "return 7" in standalone_source("handed_package.outer", ("f",), "a copy")
    with pytest.raises(ArtifactError, match=r"handed_package\.inner cannot be copied"):
        standalone_source("handed_package.outer", ("h",), "a copy")
