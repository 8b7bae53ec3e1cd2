"""A reference of settings, made from their dataclasses."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from xkd.config.overrides import to_dict
from xkd.config.yaml_core import dump_yaml


@dataclass(frozen=True)
class Setting:
    """One setting."""

    name: str
    """Dotted, as of ``--set``."""
    type: str
    value: str
    """As YAML."""
    meaning: str


@dataclass(frozen=True)
class Section:
    """Settings that belong together."""

    name: str
    """Dotted; empty for those of the first level."""
    meaning: str
    settings: list[Setting]


def describe(settings: object, only: Collection[str] = ()) -> list[Section]:
    """Return all settings of a settings dataclass with their values, section by section.

    Args:
        only: names on the first level; empty: all.
    """
    schema = TypeAdapter(type(settings)).json_schema()
    # Pydantic finds the docstrings of a class's own fields alone.
    for base in type(settings).__mro__[1:-1]:
        for field, value in TypeAdapter(base).json_schema()["properties"].items():
            schema["properties"][field].setdefault("description", value["description"])
    if only:
        schema["properties"] = {name: value for name, value in schema["properties"].items() if name in only}
    return [s for s in _sections("", schema, schema.get("$defs", {}), to_dict(settings)) if s.settings]


def to_text(sections: list[Section], width: int = 100) -> str:
    """Return a reference for the terminal."""
    lines = []
    for section in sections:
        title = f"{section.name}: {section.meaning}" if section.name else section.meaning
        lines += [*textwrap.wrap(title, width), ""]
        for setting in section.settings:
            lines.append(f"  {setting.name} = {setting.value}  ({setting.type})")
            lines += textwrap.wrap(setting.meaning, width, initial_indent=6 * " ", subsequent_indent=6 * " ")
        lines.append("")
    return "\n".join(lines)


def to_markdown(sections: list[Section]) -> str:
    """Return a reference as tables."""
    lines = []
    for section in sections:
        title = f"**`{section.name}`**: {section.meaning}" if section.name else section.meaning
        lines += [title, "", "| setting | type | default | meaning |", "|---|---|---|---|"]
        for setting in section.settings:
            cells = f"`{setting.name}`", setting.type, f"`{setting.value}`", setting.meaning
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _sections(
    name: str, schema: Mapping[str, Any], definitions: Mapping[str, Any], values: Mapping[str, Any]
) -> Iterator[Section]:
    """Yield a section, and then those inside it."""
    prefix = f"{name}." if name else ""
    here, inside = list[Setting](), list[Section]()
    for field, value in schema["properties"].items():
        if reference := value.get("$ref"):
            section = definitions[reference.rpartition("/")[2]]
            inside += _sections(prefix + field, section, definitions, values[field])
        else:
            # What a factory computes is a value of this machine; other factories make empty collections.
            made = "default" not in value and field not in schema.get("required", ())
            shown = "computed" if made and values[field] not in ([], {}) else _inline(values[field])
            here.append(Setting(prefix + field, _type(value), shown, _join(value)))
    yield Section(name, _join(schema), here)
    yield from inside


def _join(schema: Mapping[str, Any]) -> str:
    """Return a description in one line, in which code has single backticks and null is YAML's."""
    text = " ".join(schema["description"].split()).replace("``", "`")
    return re.sub(r"\bNone\b", "null", text)


def _inline(value: Any) -> str:
    """Return a value as YAML in one line."""
    return dump_yaml(value, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()


def _type(schema: Mapping[str, Any]) -> str:
    """Return a type of JSON Schema in words."""
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    kind = str(schema["type"])
    if kind == "array":
        if "prefixItems" in schema:
            return f"{len(schema['prefixItems'])} of: {_type(schema['prefixItems'][0])}"
        return f"list of: {_type(schema['items'])}"
    names = {"boolean": "true or false", "object": "mapping", "string": "text"}
    return names.get(kind, kind) + _bounds(schema)


def _bounds(schema: Mapping[str, Any]) -> str:
    """Return the range of a number, such as `` ≥ 0, < 1``."""
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {schema[name]}" for name, sign in signs.items() if name in schema]
    if "multipleOf" in schema:
        bounds.append(f"a multiple of {schema['multipleOf']}")
    return " " * bool(bounds) + ", ".join(bounds)
