"""Stage keys: one sha256 of everything that decides what a stage writes."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel

from flows.source_digest import source_digest
from flows.store import ArtifactRef

_source = cache(source_digest)


def stage_key(function: Callable[..., None], kind: type[ArtifactRef], arguments: Mapping[str, Any]) -> str:
    """sha256 of the stage's name and kind, the code that it reaches, and its arguments by name.

    Raises:
        TypeError: an argument that no key can hold.
    """
    what = {
        "stage": function.__name__,
        "kind": kind.__name__,
        "source": _source(function),
        "arguments": _canonical(arguments),
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def refs_in(value: Any) -> Iterator[ArtifactRef]:
    """Every artifact in an argument, in order."""
    if isinstance(value, ArtifactRef):
        yield value
    else:
        for item in _items(value):
            yield from refs_in(item)


def _items(value: Any) -> list[Any]:
    if _is_record(value):
        return list(_fields(value).values())
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else []


def _canonical(value: Any) -> Any:
    """A JSON value that is equal for equal arguments, in every process."""
    plain = value.value if isinstance(value, enum.Enum) else value
    if isinstance(plain, ArtifactRef):
        return {"artifact": plain.digest}
    if _is_record(plain):
        return {
            "type": type(plain).__name__,
            **{name: _canonical(item) for name, item in _fields(plain).items()},
        }
    if isinstance(plain, Mapping):
        return {str(name): _canonical(item) for name, item in plain.items()}
    if isinstance(plain, set | frozenset):
        return sorted((_canonical(item) for item in plain), key=json.dumps)
    if isinstance(plain, list | tuple):
        return [_canonical(item) for item in plain]
    if plain is not None and not isinstance(plain, bool | int | float | str):
        raise TypeError(
            f"a stage key cannot hold a {type(plain).__name__}: pass configurations, artifacts, numbers or text; a "
            "user's file as a configuration of its digest and its path, the path with Field(exclude=True)"
        )
    return plain


def _is_record(value: Any) -> bool:
    return isinstance(value, BaseModel) or (dataclasses.is_dataclass(value) and not isinstance(value, type))


def _fields(value: Any) -> dict[str, Any]:
    """The fields of a model or dataclass by name, less those that a model excludes."""
    if isinstance(value, BaseModel):
        return {n: getattr(value, n) for n, about in type(value).model_fields.items() if not about.exclude}
    return {about.name: getattr(value, about.name) for about in dataclasses.fields(value)}
