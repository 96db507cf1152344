"""The project's own functions, copied word for word into one Python file that needs none of the project.

The file holds what ``roots`` need and nothing else: each function or class of the project that they name, in the order
in which Python must meet them, and the imports of what is not the project's. So the project and its exports cannot
drift apart: there is one source.
"""

from __future__ import annotations

import ast
import importlib
from dataclasses import dataclass, field
from pathlib import Path

from reward_data.errors import ArtifactError

PROJECT = ("reward_data", "rl4seg")

# What the copied code takes from packages that a bundle does not ask for, in the few lines that it needs of them.
STAND_INS = {
    "Config": '''class Config:
    """Named values that are set once."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)''',
    "Field": '''def Field(default: Any = None, **_: Any) -> Any:
    """The default of a named value."""
    return default''',
    "equalize_adapthist": '''def equalize_adapthist(image: Any, clip_limit: float) -> Any:
    """CLAHE; scikit-image is asked for only where a model was trained with it."""
    from skimage.exposure import equalize_adapthist as equalize

    return equalize(image, clip_limit=clip_limit)''',
}


@dataclass
class _Module:
    """Top-level names of one module: what it defines, and where each imported name comes from."""

    lines: list[str]
    defined: dict[str, ast.stmt] = field(default_factory=dict)
    imported: dict[str, tuple[str, str | None, str]] = field(default_factory=dict)  # module, name, statement


@dataclass
class _Collection:
    imports: set[str] = field(default_factory=set)
    stand_ins: dict[str, str] = field(default_factory=dict)
    parts: list[str] = field(default_factory=list)
    seen: dict[str, str] = field(default_factory=dict)  # name in the file -> module that it comes from
    types: set[str] = field(default_factory=set)  # classes of the project that only annotations name
    modules: dict[str, _Module] = field(default_factory=dict)


def standalone_source(module: str, roots: tuple[str, ...], docstring: str) -> str:
    """One file with ``roots`` of ``module`` and all of the project that they need.

    Raises:
        ArtifactError: two modules of the project give the same name to different things, which one file cannot hold.
    """
    found = _Collection()
    for name in roots:
        _collect(found, module, name)
    imports = sorted(
        {*found.imports, "from typing import Any"}, key=lambda line: (line.startswith("from"), line)
    )
    head = [f'"""{docstring}"""', "from __future__ import annotations", "\n".join(imports)]
    types = sorted(found.types - found.seen.keys())
    if types:
        head.append(" = ".join([*types, "Any"]) + "  # settings, read from the configuration")
    body = [*found.stand_ins.values(), *found.parts]
    return "\n\n".join([*head, *("\n" + part for part in body)]) + "\n"


def _collect(found: _Collection, module: str, name: str) -> None:
    """Add a definition after everything that it names itself."""
    source = _module(found, module)
    if name not in source.defined:
        _follow(found, module, name)
        return
    if found.seen.setdefault(name, module) != module:
        raise ArtifactError(
            f"{name} is defined in {found.seen[name]} and in {module}; one file cannot hold both: rename one of them"
        )
    node = source.defined[name]
    used, annotated = _names(node)
    for other in used:
        _resolve(found, module, other, name)
    for other in annotated:
        _resolve_annotation(found, module, other)
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    text = "\n".join(source.lines[first - 1 : node.end_lineno])
    if text not in found.parts:
        found.parts.append(text)


def _follow(found: _Collection, module: str, name: str) -> None:
    """A name that ``module`` only hands on."""
    origin, original, _ = _module(found, module).imported.get(name, ("", None, ""))
    if original != name or origin.split(".")[0] not in PROJECT:
        raise ArtifactError(
            f"{module}.{name} cannot be copied into one file; name functions and classes by their own names, from the "
            "module that defines them"
        )
    if found.seen.get(name) != origin:
        _collect(found, origin, name)


def _resolve(found: _Collection, module: str, name: str, within: str) -> None:
    source = _module(found, module)
    if name in STAND_INS:
        found.stand_ins[name] = STAND_INS[name]
    elif name in source.defined:
        if name != within and found.seen.get(name) != module:
            _collect(found, module, name)
    elif name in source.imported:
        origin, original, statement = source.imported[name]
        if original is not None and origin.split(".")[0] in PROJECT:
            if found.seen.get(original) != origin:
                _collect(found, origin, original)
        else:
            found.imports.add(statement)


def _resolve_annotation(found: _Collection, module: str, name: str) -> None:
    """Types are never evaluated, so only short ones come along: aliases of the project and foreign names."""
    source = _module(found, module)
    if name in source.imported:
        origin, original, statement = source.imported[name]
        if original is None or origin.split(".")[0] not in PROJECT:
            found.imports.add(statement)
        elif isinstance(_module(found, origin).defined[original], ast.Assign):
            _resolve(found, module, name, name)
        else:
            found.types.add(name)
    elif isinstance(source.defined.get(name), ast.Assign):
        _resolve(found, module, name, "")
    elif name in source.defined:
        found.types.add(name)


def _module(found: _Collection, name: str) -> _Module:
    if name not in found.modules:
        path = Path(str(importlib.import_module(name).__file__))
        text = path.read_text(encoding="utf-8")
        module = _Module(text.splitlines())
        for node in ast.parse(text).body:
            _index(module, node)
        found.modules[name] = module
    return found.modules[name]


def _index(module: _Module, node: ast.stmt) -> None:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        module.defined[node.name] = node
    elif isinstance(node, ast.Assign):
        for target in ast.walk(node):
            if isinstance(target, ast.Name) and isinstance(target.ctx, ast.Store):
                module.defined[target.id] = node
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        module.defined[node.target.id] = node
    elif isinstance(node, ast.ImportFrom) and node.module and node.module != "__future__":
        for alias in node.names:
            single = ast.ImportFrom(node.module, [alias], node.level)
            module.imported[alias.asname or alias.name] = (node.module, alias.name, ast.unparse(single))
    elif isinstance(node, ast.Import):
        for alias in node.names:
            known = alias.asname or alias.name.split(".")[0]
            module.imported[known] = (alias.name, None, ast.unparse(ast.Import([alias])))


def _names(node: ast.stmt) -> tuple[list[str], list[str]]:
    """Names that a definition evaluates, and names that only its annotations hold, in order of appearance."""
    annotations = [
        part
        for child in ast.walk(node)
        for part in (getattr(child, "annotation", None), getattr(child, "returns", None))
        if isinstance(part, ast.expr)
    ]
    within = {id(child) for part in annotations for child in ast.walk(part)}
    used: dict[str, None] = {}
    annotated: dict[str, None] = {}
    for child in ast.walk(node):
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Load):
            (annotated if id(child) in within else used)[child.id] = None
    return list(used), [name for name in annotated if name not in used]
