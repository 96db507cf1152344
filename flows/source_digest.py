"""What code a stage runs, as one sha256: an edit of it is never answered from a stale cache.

Counted: the stage function, whatever it names in its own module (helpers, constants), and every first-party module
that those import, at module level or inside functions, followed to the end. Comments, docstrings and layout do not
count, nor does the machinery that runs stages. Nothing is imported to find out. Not seen: modules named only in a
string (importlib), code of other packages, variables of an enclosing function, data files (a YAML rule set reaches a
stage as a configuration, not as a file). Files are read once per process: do not edit code during a run.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

FIRST_PARTY = ("reward_data", "rl4seg", "flows")
MACHINERY = frozenset(
    f"flows.{name}"
    for name in (
        "artifacts",
        "file_digests",
        "mirror",
        "prefect_settings",
        "progress",
        "remote_store",
        "run_folder",
        "source_digest",
        "stages",
        "store",
    )
)


_DUMP: dict[str, Any] = {"show_empty": True} if sys.version_info >= (3, 13) else {}


def source_digest(function: Callable[..., Any], packages: tuple[str, ...] = FIRST_PARTY) -> str:
    """sha256 over the normalised syntax tree of ``function`` and of all code of ``packages`` that it reaches."""
    function = inspect.unwrap(function)
    nodes, imports = _own_code(function)
    reached: set[str] = set()
    waiting = [name for node in imports for name in _targets(node, function.__module__, False, packages)]
    while waiting:
        module = waiting.pop()
        if module not in reached and module not in MACHINERY:
            reached.add(module)
            waiting += _imported_by(module, packages)
    lines = [_dump(node) for node in nodes] + [f"{name} {_module_digest(name)}" for name in sorted(reached)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _own_code(function: Callable[..., Any]) -> tuple[list[ast.stmt], list[ast.Import | ast.ImportFrom]]:
    """The function without its decorators, what it names in its own module, and the imports that these use."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    if isinstance(tree, ast.FunctionDef):
        tree.decorator_list = []
    bindings = _bindings(inspect.getsourcefile(function))
    used: list[ast.stmt] = [tree]
    imports: list[ast.Import | ast.ImportFrom] = []
    names, seen = _names(tree), {function.__name__}
    while names - seen:
        name = min(names - seen)
        seen.add(name)
        for node in bindings.get(name, ()):
            if isinstance(node, ast.Import | ast.ImportFrom):
                imports.append(node)
            else:
                used.append(node)
                names |= _names(node)
    imports += [
        node for part in used for node in ast.walk(part) if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    return used, imports


def _bindings(file: str | None) -> dict[str, list[ast.stmt]]:
    """Top-level name of a module -> the statements that bind it."""
    found: dict[str, list[ast.stmt]] = {}
    for node in _top_level(_parse(file).body) if file else ():
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names = {node.name}
        else:
            stored = (n for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
            names = {n.id for n in stored}
        for name in names:
            found.setdefault(name, []).append(node)
    return found


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        if isinstance(node, ast.If | ast.Try):
            yield from _top_level(
                [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
            )
        else:
            yield node


def _names(node: ast.AST) -> set[str]:
    """Names used in code, annotations included."""
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def _imported_by(module: str, packages: tuple[str, ...]) -> Iterator[str]:
    path = _path(module)
    if path is None:
        return
    for node in ast.walk(_parse(str(path))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from _targets(node, module, path.name == "__init__.py", packages)


def _targets(
    node: ast.Import | ast.ImportFrom, module: str, is_package: bool, packages: tuple[str, ...]
) -> Iterator[str]:
    """The first-party modules that an import statement of ``module`` runs, the packages around them included."""
    if isinstance(node, ast.Import):
        wanted = [alias.name for alias in node.names]
    else:
        parts = module.split(".")
        base = parts[: len(parts) - node.level + is_package] if node.level else []
        origin = ".".join([*base, *([node.module] if node.module else [])])
        wanted = [origin, *(f"{origin}.{alias.name}" for alias in node.names)]
    for name in wanted:
        parts = name.split(".")
        if parts[0] in packages:
            for end in range(1, len(parts) + 1):
                if _path(".".join(parts[:end])) is not None:
                    yield ".".join(parts[:end])


@cache
def _path(module: str) -> Path | None:
    """The source file of a first-party module, found without importing it; None where the name is no module."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        return None
    base = Path(spec.origin).parent
    if Path(spec.origin).name != "__init__.py":
        return Path(spec.origin) if not rest else None
    package, plain = base.joinpath(*rest, "__init__.py"), base.joinpath(*rest).with_suffix(".py")
    return package if package.is_file() else plain if rest and plain.is_file() else None


@cache
def _parse(file: str) -> ast.Module:
    return ast.parse(Path(file).read_bytes())


@cache
def _module_digest(module: str) -> str:
    return hashlib.sha256(_dump(_parse(str(_path(module)))).encode()).hexdigest()


def _dump(tree: ast.AST) -> str:
    """The syntax tree as text, without docstrings and positions; the same in every version of Python."""
    for node in ast.walk(tree):
        if getattr(node, "type_params", None) == []:  # since 3.12
            del node.type_params  # type: ignore[attr-defined]
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [s for s in node.body if not _is_text(s)]
    return ast.dump(tree, **_DUMP)


def _is_text(node: ast.stmt) -> bool:
    """A docstring, or any other string that stands alone and does nothing."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
