"""The Dockerfile, compose.yaml and example.env as data: read for what they say, not for how they are laid out."""

from __future__ import annotations

import importlib.util
import re
import shlex
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
VARIABLE = re.compile(r"\$\{(?P<name>[A-Z0-9_]+)(?:(?P<sign>:?[-?])(?P<rest>(?:[^{}]|\{[^{}]*\})*))?\}")


class Instruction(NamedTuple):
    """One instruction of a Dockerfile; ``stage`` counts its FROM lines from 0."""

    stage: int
    name: str
    value: str


@cache
def dockerfile() -> tuple[Instruction, ...]:
    """All instructions, continued lines joined, comments dropped."""
    text = re.sub(r"^\s*#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    found: list[Instruction] = []
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if line.strip():
            name, _, value = line.strip().partition(" ")
            stage = sum(each.name == "FROM" for each in found) - (name != "FROM")
            found.append(Instruction(stage, name.upper(), value.strip()))
    return tuple(found)


def final_stages() -> set[int]:
    """The last stage and those that it is built upon: what is in the image."""
    bases = [each.value.split() for each in dockerfile() if each.name == "FROM"]
    names = {words[2]: stage for stage, words in enumerate(bases) if len(words) == 3}
    stages, stage = set[int](), len(bases) - 1
    while stage not in stages:
        stages.add(stage)
        stage = names.get(bases[stage][0], stage)
    return stages


def in_image(name: str) -> list[str]:
    """The values of an instruction in the stages that make the image, in order."""
    return [each.value for each in dockerfile() if each.name == name and each.stage in final_stages()]


def shell_commands(script: str) -> list[list[str]]:
    """The commands of a RUN line, or of a Makefile's recipe line, as words."""
    return [shlex.split(part) for part in re.split(r"&&|;|\|\||\|", script) if part.strip()]


def environment_of_image() -> dict[str, str]:
    """What ENV sets in the image."""
    return dict(word.split("=", 1) for value in in_image("ENV") for word in shlex.split(value))


@cache
def compose() -> dict[str, Any]:
    """compose.yaml with its anchors merged, its variables as they stand."""
    content: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    return content


def services() -> dict[str, dict[str, Any]]:
    """The services by name."""
    found: dict[str, dict[str, Any]] = compose()["services"]
    return found


def ours() -> dict[str, dict[str, Any]]:
    """The services that run the image of this repository."""
    return {name: service for name, service in services().items() if "build" in service}


def variables(text: str) -> list[tuple[str, str, str]]:
    """Every ${NAME:-default} or ${NAME:?message} as (name, sign, rest), nested ones too."""
    found = []
    for match in VARIABLE.finditer(text):
        name, sign, rest = match["name"], match["sign"] or "", match["rest"] or ""
        found += [(name, sign, rest), *variables(rest)]
    return found


def filled(text: str, values: dict[str, str]) -> str:
    """The text as compose fills it in: these values, else the defaults."""

    def value(match: re.Match[str]) -> str:
        return values.get(match["name"]) or filled(match["rest"] or "", values)

    return VARIABLE.sub(value, text)


def health_check() -> ModuleType:
    """docker/health.py as a module."""
    place = importlib.util.spec_from_file_location("health", DOCKER / "health.py")
    assert place is not None
    assert place.loader is not None
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return module
