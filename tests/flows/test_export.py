"""What `rl4seg export` prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.export import export_run
from rl4seg.package import save_package
from tests.rl4seg.export.conftest import tiny_package


def test_the_verification_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_package(tiny_package(reward=False), tmp_path / "run" / "policy")
    given = {"licence": "CC0-1.0", "authors": None, "modality": None, "intended_use": None}
    found = export_run(tmp_path / "run", tmp_path / "out", "torchscript", False, given)
    printed = " ".join(capsys.readouterr().out.split())
    assert f"{found.images} images: largest difference of a logit" in printed
    assert "(allowed 0.0001)" in printed
    assert str(tmp_path / "out") in printed.replace(" ", "")
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "Licence of the weights: CC0-1.0." in readme
    assert "Authors: not stated." in readme
