"""What a valid mask is: a rule set from YAML, the early-exit verdict, and every measured value on demand.

Verdict and measurements run the same code on the same geometry, so they cannot disagree. Lengths follow the
spacing that is passed; the shipped sets use shares only, which hold at every resolution.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import Field, ValidationError, model_validator

from reward_data.errors import ConfigError
from reward_data.mask_geometry import MaskGeometry
from reward_data.rules import AnyRule, Rule
from reward_data.types import Config, UInt8

KINDS: tuple[str, ...] = tuple(kind.model_fields["kind"].default for kind in get_args(get_args(AnyRule)[0]))


class RuleSet(Config):
    """The rules of one anatomy. Class names stand in the order of their label values, background first."""

    name: str = Field(default="custom", description="Name in reports.")
    description: str = Field(default="", description="What the rules are for and where they come from.")
    classes: tuple[str, ...] = Field(
        default=("background", "lv", "myo"),
        min_length=2,
        description="Class names by label value, background first.",
    )
    rules: tuple[AnyRule, ...] = Field(default=(), description="The rules; all have to hold.")

    @model_validator(mode="before")
    @classmethod
    def _known_kinds(cls, data: Any) -> Any:
        for rule in data.get("rules") or () if isinstance(data, Mapping) else ():
            if isinstance(rule, Mapping) and rule.get("kind") not in KINDS:
                raise ConfigError(
                    f"unknown rule kind {rule.get('kind')!r}{_closest(rule.get('kind'), KINDS)}"
                )
        return data

    @model_validator(mode="after")
    def _known_classes(self) -> RuleSet:
        for rule in self.rules:
            for name in (name for names in (rule.structure, *rule.others) for name in names):
                if name not in self.classes:
                    raise ConfigError(
                        f"rule {rule.label}: unknown class {name!r}{_closest(name, self.classes)}"
                    )
            if self.classes[0] in rule.structure:
                raise ConfigError(
                    f"rule {rule.label} measures the background; name a structure of {self.classes[1:]}"
                )
        labels = [rule.label for rule in self.rules]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ConfigError(f"two rules are called {twice[0]!r}; give one of them a `name`")
        return self

    @cached_property
    def by_cost(self) -> tuple[Rule, ...]:
        """The rules, cheapest first, as the early exit asks them."""
        return tuple(sorted(self.rules, key=lambda rule: rule.cost))


@dataclass(frozen=True)
class Measurement:
    """One rule's value on one mask. NaN: not applicable, as a structure is missing."""

    rule: str
    value: float
    low: float | None
    high: float | None
    unit: str
    ok: bool

    def __str__(self) -> str:
        """E.g. ``area(lv) = 0.42 ratio, accepted 0.01 to 0.3``."""
        limits = " to ".join("any" if limit is None else f"{limit:.4g}" for limit in (self.low, self.high))
        return f"{self.rule} = {self.value:.4g} {self.unit}, accepted {limits}"


def load_rules(name_or_path: str) -> RuleSet:
    """A shipped rule set by name ("lv_myo", "lv_myo_public") or one's own YAML file by path.

    Raises: ConfigError for a missing file, broken YAML, unknown keys, kinds or classes.
    """
    shipped = resources.files("reward_data.rulesets")
    names = sorted(entry.name[:-5] for entry in shipped.iterdir() if entry.name.endswith(".yaml"))
    if name_or_path in names:
        return rules_from_yaml((shipped / f"{name_or_path}.yaml").read_text("utf-8"), name_or_path)
    path = Path(name_or_path)
    if not path.is_file():
        raise ConfigError(f"no rule set {name_or_path!r}; want one of {names} or the path of a YAML file")
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"rule set {path}: cannot be read ({error}); want a YAML file in UTF-8: mend it or its permissions"
        ) from error
    return rules_from_yaml(text, path.name)


def rules_from_yaml(text: str, where: str) -> RuleSet:
    """Parse a rule set; ``where`` names the source in errors. Raises: ConfigError."""
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"rule set {where}: not YAML ({error}); mend the file") from error
    if not isinstance(data, Mapping):
        raise ConfigError(
            f"rule set {where}: want a mapping with `classes` and `rules`, got {type(data).__name__}"
        )
    try:
        return RuleSet.model_validate(data)
    except ConfigError as error:
        raise ConfigError(f"rule set {where}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"rule set {where}: {place}: {first['msg']} (got {first.get('input')!r}); {error.error_count()} to mend"
        ) from error


def rules_to_yaml(rules: RuleSet) -> str:
    """The rule set as YAML that `load_rules` reads back to an equal set; fields at their default are left out."""
    head = {"name": rules.name, "description": rules.description, "classes": list(rules.classes)}
    body = []
    for rule in rules.rules:
        fields = rule.model_dump(mode="json", exclude_defaults=True, exclude={"kind"})
        body.append({"kind": rule.kind} | {key: _plain(value) for key, value in fields.items()})
    return yaml.safe_dump(head | {"rules": body}, sort_keys=False, width=110, allow_unicode=True)


def is_valid(mask: UInt8, rules: RuleSet, spacing_mm: tuple[float, ...]) -> bool:
    """Whether all rules hold; stops at the first that does not, cheapest first.

    Args: mask, Shape: (*S), class values of ``rules.classes``; spacing_mm, one per axis.
    Raises: DataError for a label value without class; ConfigError for a 2-D rule on a 3-D mask.
    """
    geometry = _geometry(mask, rules, spacing_mm)
    return all(rule.accepts(rule.value(geometry)) for rule in rules.by_cost)


def measure(mask: UInt8, rules: RuleSet, spacing_mm: tuple[float, ...]) -> tuple[Measurement, ...]:
    """Every rule's value, in the order of the rule set. Arguments and errors as `is_valid`."""
    geometry = _geometry(mask, rules, spacing_mm)
    taken = []
    for rule in rules.rules:
        value = rule.value(geometry)
        taken.append(Measurement(rule.label, value, rule.low, rule.high, rule.unit, rule.accepts(value)))
    return tuple(taken)


def violations(mask: UInt8, rules: RuleSet, spacing_mm: tuple[float, ...]) -> tuple[Measurement, ...]:
    """The measurements that break their rule; empty for a valid mask."""
    return tuple(taken for taken in measure(mask, rules, spacing_mm) if not taken.ok)


def _geometry(mask: UInt8, rules: RuleSet, spacing_mm: tuple[float, ...]) -> MaskGeometry:
    flat_only = [rule.label for rule in rules.rules if mask.ndim > 2 and not rule.any_dimension]
    if flat_only:
        raise ConfigError(
            f"rules {flat_only} are defined for 2-D masks, got shape {mask.shape}; judge slice by slice "
            "or use a rule set without them"
        )
    return MaskGeometry(mask, spacing_mm, rules.classes)


def _closest(word: object, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(str(word), known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; want one of {list(known)}"


def _plain(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value
