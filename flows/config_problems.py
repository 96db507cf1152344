"""Pydantic's errors as lines for a person: dotted path, what was got, what was wanted, the closest match."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError


def problem_lines(model: type[BaseModel], error: ValidationError) -> list[str]:
    """One line per problem, each once. ``model`` is the model that was validated."""
    errors = [dict(one) for one in error.errors(include_url=False)]
    return list(dict.fromkeys(_line(model, one) for one in errors if not _less_precise(model, one, errors)))


def _less_precise(
    model: type[BaseModel], error: Mapping[str, Any], errors: Sequence[Mapping[str, Any]]
) -> bool:
    """A plain type of a union refused a mapping, and a model of the same union says what is wrong inside it."""
    parent = error["loc"][:-1]
    is_tag = bool(parent) and _place(model, parent).path == _place(model, error["loc"]).path
    inside = (one["loc"] for one in errors if one["loc"][: len(parent)] == parent)
    return (
        is_tag and isinstance(error["input"], Mapping) and any(len(loc) > len(parent) + 1 for loc in inside)
    )


class _Place(NamedTuple):
    path: str
    owner: type[BaseModel] | None  # the section that holds the key
    annotation: Any
    description: str


def _members(annotation: Any) -> list[Any]:
    """The types that an annotation allows, None and Annotated stripped."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [m for part in get_args(annotation) for m in _members(part) if m is not type(None)]
    return [annotation]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _tags(member: Any) -> set[str]:
    """How pydantic may name this member of a union inside a location: its class, or its Literal fields' values."""
    name = getattr(member, "__name__", str(member))
    literals = [f.annotation for f in member.model_fields.values()] if _is_model(member) else []
    return {name} | {str(v) for a in literals if get_origin(a) is Literal for v in get_args(a)}


def _place(model: type[BaseModel], location: tuple[int | str, ...]) -> _Place:
    """Follow a pydantic error location through the types, dropping the union tags that pydantic puts into it."""
    path: list[str] = []
    owner: type[BaseModel] | None = None
    annotation: Any = model
    description = ""
    for part in location:
        members = _members(annotation)
        if len(members) > 1:
            chosen = [m for m in members if str(part) in _tags(m) or str(part).endswith(f"{m}]")]
            if chosen or part not in {f for m in members if _is_model(m) for f in m.model_fields}:
                annotation = chosen[0] if chosen else annotation
                continue
        inside = members[0]
        if _is_model(inside):
            owner, known = inside, inside.model_fields.get(str(part))
            annotation, description = (known.annotation, known.description or "") if known else (None, "")
        elif part == "[key]":
            continue
        else:
            arguments = [a for a in get_args(inside) if a is not Ellipsis]
            position = part if isinstance(part, int) and get_origin(inside) is tuple else -1
            annotation = arguments[min(position, len(arguments) - 1)] if arguments else None
        path.append(str(part))
    return _Place(".".join(path), owner, annotation, description)


def _all_paths(model: type[BaseModel], prefix: str = "", depth: int = 4) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        for member in _members(field.annotation):
            if _is_model(member) and depth:
                yield from _all_paths(member, f"{prefix}{name}.", depth - 1)


def _unknown_key(model: type[BaseModel], place: _Place) -> str:
    parent, _, key = place.path.rpartition(".")
    prefix = f"{parent}." if parent else ""
    allowed = sorted(place.owner.model_fields) if place.owner else []
    close = [prefix + name for name in difflib.get_close_matches(key, allowed, 1)]
    elsewhere = [path for path in _all_paths(model) if path.rpartition(".")[2] == key]
    best = (close or elsewhere or [""])[0]
    hint = f"; did you mean {best}?" if best else ";"
    return f"unknown key {place.path}{hint} allowed{f' in {parent}' if parent else ''}: {', '.join(allowed)}"


def _line(model: type[BaseModel], error: Mapping[str, Any]) -> str:
    """One problem: dotted path, got, wanted, what the key means."""
    place = _place(model, error["loc"])
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(model, place)
    wanted = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    meaning = f" ({place.description})" if place.description else ""
    if kind == "missing":
        return f"{place.path}: missing{meaning}; add it"
    if kind.startswith("union_tag"):
        tags = [str(t) for m in _members(place.annotation) for t in sorted(_tags(m) - {m.__name__})]
        got, switch = context.get("tag", "nothing"), str(context["discriminator"]).strip("'")
        close = difflib.get_close_matches(str(got), tags, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return f"{place.path}.{switch}: got {got}, wanted one of {', '.join(tags)}{hint}"
    if kind == "value_error" and isinstance(error["input"], Mapping | BaseModel):
        return f"{place.path or 'the configuration'}: {wanted}"
    got = repr(error["input"])
    got = got if len(got) <= 80 else got[:77] + "..."
    close = difflib.get_close_matches(str(error["input"]), re.findall(r"'([^']+)'", wanted), 1)
    hint = f"; did you mean {close[0]}?" if close and kind == "literal_error" else ""
    return f"{place.path}: got {got}, wanted {wanted}{hint}{meaning}"
