from __future__ import annotations

import importlib.util
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

from flows import source_digest as module_under_test
from flows.source_digest import source_digest

TREE = {
    "toyroom/__init__.py": "",
    "toyroom/losses.py": "from . import constants\ndef loss(x):\n    return x * constants.SCALE\n",
    "toyroom/constants.py": "SCALE = 2\n",
    "toyroom/lazy.py": "def late():\n    from toyroom.deep import deep\n    return deep()\n",
    "toyroom/deep.py": "def deep():\n    return 1\n",
    "toyroom/sub/__init__.py": "",
    "toyroom/sub/leaf.py": "LEAF = 1\n",
    "toyroom/unrelated.py": "X = 1\n",
    "toystages.py": """
        from toyroom.sub import leaf

        LIMIT = 3

        def helper(x):
            return x + LIMIT

        def unused():
            return 0

        @staticmethod
        def stage(ctx, x):
            from toyroom import losses
            from toyroom.lazy import late
            return helper(losses.loss(x)) + late() + leaf.LEAF
        """,
}


class Tree:
    """A package tree on disk whose stage is digested as a new process would."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name, text in TREE.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(textwrap.dedent(text))

    def edit(self, name: str, old: str, new: str) -> None:
        text = (self.root / name).read_text()
        assert old in text
        (self.root / name).write_text(text.replace(old, new))

    def digest(self) -> str:
        for cached in ("_path", "_parse", "_module_digest"):
            getattr(module_under_test, cached).cache_clear()
        spec = importlib.util.spec_from_file_location("toystages", self.root / "toystages.py")
        module: ModuleType = importlib.util.module_from_spec(spec)
        sys.modules["toystages"] = module
        spec.loader.exec_module(module)
        return source_digest(module.stage, packages=("toyroom",))


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name in [n for n in sys.modules if n.partition(".")[0] in ("toyroom", "toystages")]:
        monkeypatch.delitem(sys.modules, name)
    return Tree(tmp_path)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("toystages.py", "late() +", "late() -"),  # the stage itself
        ("toystages.py", "x + LIMIT", "x - LIMIT"),  # a helper beside it
        ("toystages.py", "LIMIT = 3", "LIMIT = 4"),  # what the helper names
        ("toyroom/losses.py", "x *", "x /"),  # imported in the body
        ("toyroom/constants.py", "2", "3"),  # through a relative import
        ("toyroom/lazy.py", "return deep()", "return deep() + 1"),
        ("toyroom/deep.py", "1", "2"),  # imported inside a function of a reached module
        ("toyroom/sub/leaf.py", "1", "2"),  # `from package import submodule`, at module level
        ("toyroom/__init__.py", "", "VERSION = 2\n"),  # a package around a reached module
    ],
)
def test_an_edit_of_reached_code_changes_the_digest(tree: Tree, name: str, old: str, new: str) -> None:
    before = tree.digest()
    assert tree.digest() == before
    tree.edit(name, old, new)
    assert tree.digest() != before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("toyroom/unrelated.py", "X = 1", "X = 2"),
        ("toystages.py", "return 0", "return 1"),  # a function beside the stage that it does not name
        ("toystages.py", "@staticmethod", "@classmethod"),  # titles and labels are in the decorator
        ("toyroom/losses.py", "def loss(x):", "# a comment\n\ndef loss(x):\n    '''A docstring.'''"),
        ("toyroom/deep.py", "def deep", "'''A docstring.'''\ndef deep"),
        (
            "toystages.py",
            "    from toyroom import losses",
            "    '''A docstring.'''\n    from toyroom import losses",
        ),
    ],
)
def test_what_does_not_run_does_not_change_the_digest(tree: Tree, name: str, old: str, new: str) -> None:
    before = tree.digest()
    tree.edit(name, old, new)
    assert tree.digest() == before


def heavy(ctx: object) -> None:
    from rl4seg import ppo

    ppo.finetune  # noqa: B018


def test_torch_is_not_imported_and_the_machinery_does_not_count() -> None:
    reached = set(module_under_test._imported_by("rl4seg.ppo", module_under_test.FIRST_PARTY))
    assert "rl4seg.losses" in reached
    import subprocess

    code = (
        "import sys; sys.path.insert(0, 'tests/flows'); from test_source_digest import heavy\n"
        "from flows.source_digest import source_digest\nsource_digest(heavy)\n"
        "assert not {'torch', 'monai', 'prefect', 'rl4seg'} & set(sys.modules), 'imported'"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
