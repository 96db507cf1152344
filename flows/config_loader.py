"""YAML and command-line overrides in, one validated configuration out, or every problem at once.

YAML is read with the 1.2 core rules: 1e-3 is a number, `on` and 010 are not surprises, a repeated key is refused.
``base: other.yaml`` inherits from a YAML beside the file. Relative paths inside a configuration are relative to the
current folder, whichever file they stand in.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from flows.config_problems import problem_lines
from flows.presets import ROOTS
from reward_data.errors import ConfigError
from reward_data.types import Config

ConfigT = TypeVar("ConfigT", bound=Config)


# --- YAML ------------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """SafeLoader with the YAML 1.2 core schema."""


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes every string that `_Loader` would read as something else."""


_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"
)
_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", re.compile(r"(~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("int", re.compile(r"[-+]?[0-9]+$"), list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
    ("merge", re.compile(r"<<$"), ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, _first)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
_Dumper.add_representer(
    list,
    lambda dumper, data: dumper.represent_sequence(
        "tag:yaml.org,2002:seq", data, flow_style=not any(isinstance(v, dict | list) for v in data)
    ),
)


def _parse_yaml(text: str, where: str, problems: list[str]) -> Any:
    """The document, with repeated keys added to ``problems``; a syntax error is raised at once."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        problems += [f"{where}: {line}" for line in _repeated_keys(node, "")]
        return _unshared(loader.construct_document(node))
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not readable as YAML: {error}") from error
    finally:
        loader.dispose()


def _unshared(value: Any) -> Any:
    """A copy in which an anchor's content stands at every alias anew, so that an override changes one place."""
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def _repeated_keys(node: yaml.Node, path: str) -> Iterator[str]:
    if isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            yield from _repeated_keys(child, f"{path}{index}.")
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, child in node.value:
            line = key.start_mark.line + 1
            if key.value in lines:
                first = lines[key.value]
                yield f"key {path}{key.value} is given twice, on lines {first} and {line}; keep one of them"
            elif isinstance(key, yaml.ScalarNode):
                lines[key.value] = line
            yield from _repeated_keys(child, f"{path}{key.value}.")


def _find(path_or_name: str) -> Path:
    path = Path(path_or_name)
    if path.is_file():
        return path
    files = {file: file.relative_to(root) for root in reversed(ROOTS) for file in root.rglob("*.yaml")}
    shipped = {name.with_suffix("").as_posix(): file for file, name in files.items()}
    name = path_or_name.removesuffix(".yaml")
    if name in shipped:
        return shipped[name]
    close = difflib.get_close_matches(name, shipped, 1) or [s for s in shipped if s.endswith(f"/{name}")]
    raise ConfigError(
        f"no configuration {path_or_name!r}: it is neither a file nor a shipped name"
        + (f"; did you mean {close[0]}?" if close else "")
        + f" (shipped: {', '.join(sorted(shipped)) or 'none'})"
    )


def _read(path: Path, problems: list[str], above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """One YAML with everything that it inherits through ``base``."""
    if path.resolve() in above:
        raise ConfigError(f"{path}: base inherits from itself ({' -> '.join(p.name for p in above)})")
    try:
        data = _parse_yaml(path.read_text(encoding="utf-8"), str(path), problems)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    data = {} if data is None else data
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: got a {type(data).__name__}, wanted a mapping of keys to values")
    base = data.pop("base", None)
    if base is None:
        return data
    parent = path.parent / str(base)
    if not parent.is_file():
        raise ConfigError(
            f"{path}: base: got {base!r}, wanted a YAML file beside it (no such file: {parent})"
        )
    return _merge(_read(parent, problems, (*above, path.resolve())), data)


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Deep merge, ``above`` wins; lists are replaced, and so is a section whose ``kind`` changes."""
    out = dict(below)
    for key, value in above.items():
        old = out.get(key)
        out[key] = value
        if isinstance(old, dict) and isinstance(value, dict) and value.get("kind") in (None, old.get("kind")):
            out[key] = _merge(old, value)
    return out


# --- overrides -------------------------------------------------------------------------------------------------------


def _override(data: dict[str, Any], text: str) -> None:
    """Apply one ``key.sub=value`` in place; raises ConfigError."""
    key, equals, value = text.partition("=")
    key, value = key.strip(), value.strip()
    if not equals or not value or not all(key.split(".")):
        raise ConfigError(
            f"override {text!r}: wanted key.sub=value (key=null for no value, key='' for empty)"
        )
    *parents, last = key.split(".")
    here: Any = data
    for depth, part in enumerate(parents):
        index = _key_in(here, part)
        if isinstance(here, dict) and here.get(index) is None:
            here[index] = {}
        here = here[index]
        if not isinstance(here, dict | list):
            at = ".".join(parents[: depth + 1])
            raise ConfigError(
                f"override {text!r}: {at} is {here!r}, which has no {'.'.join((*parents, last))}"
            )
    here[_key_in(here, last)] = _override_value(value, text)


def _key_in(container: Any, part: str) -> Any:
    if isinstance(container, list):
        if not part.isdigit() or int(part) >= len(container):
            raise ConfigError(f"got list index {part!r}, wanted 0..{len(container) - 1}")
        return int(part)
    return next((key for key in container if str(key) == part), part)


def _override_value(value: str, text: str) -> Any:
    """A YAML scalar, or a list or mapping in brackets; anything else is the text itself."""
    bracketed = value[0] in "[{"
    problems: list[str] = []
    try:
        parsed = _parse_yaml(value, f"override {text!r}", problems)
    except ConfigError:
        if bracketed or value[0] in "'\"":
            raise
        return value
    if problems:
        raise ConfigError(problems[0])
    return value if isinstance(parsed, dict | list) and not bracketed else parsed


def _given(path_or_name: str, overrides: list[str], problems: list[str]) -> dict[str, Any]:
    data = _read(_find(path_or_name), problems)
    for text in overrides:
        try:
            _override(data, text)
        except ConfigError as error:
            problems.append(str(error))
    return data


# --- the public part -------------------------------------------------------------------------------------------------


def load_config(path_or_name: str, overrides: list[str], model: type[ConfigT]) -> ConfigT:
    """Read a YAML file (or a shipped preset by name), apply ``key.sub=value`` overrides in order, validate.

    Raises:
        ConfigError: every problem at once, one line each: the dotted path, what was got, what was wanted.
    """
    problems: list[str] = []
    data = _given(path_or_name, overrides, problems)
    try:
        config = model.model_validate(data)
    except ValidationError as error:
        problems += problem_lines(model, error)
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        lines = "\n".join(f"  {line}" for line in dict.fromkeys(problems))
        raise ConfigError(f"configuration {path_or_name}: {count}\n{lines}")
    return config


def read_unchecked(path_or_name: str, overrides: list[str]) -> dict[str, Any]:
    """What a YAML and overrides say, before anything is validated; overrides that cannot be applied are left out.

    Raises:
        ConfigError: there is no such file, or it is no YAML mapping.
    """
    return _given(path_or_name, overrides, [])


def shipped_folder(path_or_name: str) -> str | None:
    """The folder of shipped configs that a config lies in, e.g. ``auto_iteration``; None for any other file.

    Raises:
        ConfigError: there is no such file.
    """
    file = _find(path_or_name).resolve()
    inside = [file.relative_to(root.resolve()) for root in ROOTS if file.is_relative_to(root.resolve())]
    return inside[0].parts[0] if inside and len(inside[0].parts) > 1 else None


def changed(config: ConfigT, changes: Mapping[str, Any], model: type[ConfigT]) -> ConfigT:
    """A configuration with values of dotted keys replaced (mappings are merged) and validated as ``model``.

    Raises:
        ConfigError: every problem at once, one line each.
    """
    data = config.model_dump()
    for key, value in changes.items():
        *parents, last = key.split(".")
        nested: dict[str, Any] = {last: value}
        for part in reversed(parents):
            nested = {part: nested}
        data = _merge(data, nested)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError("; ".join(problem_lines(model, error))) from error


def dump_config(config: Config) -> str:
    """YAML text with every value spelled out; `load_config` of it gives an equal configuration."""
    text: str = yaml.dump(
        _plain(config.model_dump()), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100
    )
    return text


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = [_plain(item) for item in value]
        return sorted(items) if isinstance(value, set | frozenset) else items
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def json_schema(model: type[Config]) -> dict[str, Any]:
    """JSON schema of a configuration, descriptions included: what the dashboard's form is made of."""
    return model.model_json_schema()
