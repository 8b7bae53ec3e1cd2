"""Read, merge, validate and write settings of any kind: preset < file < option < ``--set``.

A settings dataclass (`xkd.config`, or a command's own) is the schema. Values are merged as plain data and
validated once, and every mistake becomes one line that names the field.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar, cast, get_type_hints

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import to_json

from xkd.config.yaml_core import dump_yaml, parse_yaml
from xkd.errors import UserError, nearest

STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)
"""The configuration of every settings dataclass: unknown names are errors."""

_WORDS = {
    "Input should be ": "must be ",
    "a valid integer": "an integer",
    "a valid number": "a number",
    "a valid string": "a string",
    "a valid boolean": "true or false",
    "a valid list": "a list",
    "a valid array": "a list",
    "a valid tuple": "a list",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
}
"""Our words for pydantic's."""
_REMEDIES = {
    "string_type": "; quote it",
    "tuple_type": "; write a list, such as [1, 2]",
}
"""What to do about pydantic's errors by their type."""

Settings = TypeVar("Settings")
"""Any settings dataclass."""


def to_dict(settings: object) -> dict[str, Any]:
    """Return the settings as plain lists, dicts and numbers."""
    dumped: dict[str, Any] = TypeAdapter(type(settings)).dump_python(settings, mode="json")
    return dumped


def to_yaml(settings: object) -> str:
    """Return the settings as YAML, in the order of their definition."""
    return dump_yaml(to_dict(settings))


def build(kind: type[Settings], values: Mapping[str, Any], source: str) -> Settings:
    """Validate a whole settings dataclass. Of values, only whole floats are converted, to integers.

    Raises:
        UserError: one line naming `source` and the field that is unknown, ill-typed or out of range.
    """
    try:
        # As JSON, because a strict validation of Python objects would also refuse lists for tuples.
        text = to_json(_with_integers(values), inf_nan_mode="constants")
        return TypeAdapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        raise UserError(f"{source}: {_first_problem(error, kind)}") from None


def _with_integers(values: Any) -> Any:
    """Return plain values with integers for whole floats: of ``1e3``, and of KFP, which has only floats."""
    if isinstance(values, Mapping):
        return {key: _with_integers(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [*map(_with_integers, values)]
    exact = isinstance(values, float) and values.is_integer() and abs(values) < 2**53
    return int(values) if exact else values


def load_yaml(path: str | Path, section: str | None = None) -> dict[str, Any]:
    """Read a mapping from a YAML file, or the mapping under a dotted name in it.

    Raises:
        UserError: the file is missing or invalid, or has no such section.
    """
    try:
        with Path(path).open("rb") as file:
            values = parse_yaml(file)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise UserError(f"cannot read configuration {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if section is not None:
        sections = _sections(values)
        if section not in sections:
            raise UserError(f"{path} has no section {section!r}{nearest(section, sections)}")
        values = sections[section]
    if not isinstance(values, dict):
        raise UserError(f"{path} must contain a mapping of settings")
    return values


def _sections(values: Any, prefix: str = "") -> dict[str, Any]:
    """Return what is in nested mappings by its dotted name; names themselves may contain dots."""
    found: dict[str, Any] = {}
    for key, value in values.items() if isinstance(values, Mapping) else ():
        found |= {f"{prefix}{key}": value, **_sections(value, f"{prefix}{key}.")}
    return found


def load_file(file: str) -> dict[str, Any]:
    """Read the settings of ``FILE.yaml`` or ``FILE.yaml:SECTION``; errors as of `load_yaml`."""
    parts = file.split(":")
    # The path may contain colons, and so may the section.
    splits = [(":".join(parts[:count]), ":".join(parts[count:])) for count in range(len(parts), 0, -1)]
    path, section = next((split for split in splits if Path(split[0]).is_file()), splits[:2][-1])
    return load_yaml(path, section or None)


def resolve(
    base: Settings, file: str | None = None, overrides: Sequence[str] = (), **options: Any
) -> Settings:
    """Return the settings of a command: base < file < options < overrides.

    Args:
        base: the defaults or a preset.
        file: ``FILE.yaml`` or ``FILE.yaml:SECTION``; it may hold any subset of the settings.
        overrides: each ``dotted.name=value``, the value read as YAML (so ``1e-3`` is a float).
        options: typed values of single settings; None: not given.

    Raises:
        UserError: one line naming the field that is unknown, ill-typed or out of range.
    """
    layers = [(file, load_file(file))] if file else []
    layers.append(("options", {name: value for name, value in options.items() if value is not None}))
    layers += [(override, parse_override(override)) for override in overrides]
    values = to_dict(base)
    for source, layer in layers:
        _merge(values, layer, source, type(base))
    return build(type(base), values, "configuration")


def read_settings(file: str | None, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the settings of a file and of overrides as nested plain values; arguments as of `resolve`."""
    layers = [load_file(file)] if file else []
    return reduce(_joined, [*layers, *map(parse_override, overrides)], {})


def overlay(base: Settings, values: Mapping[str, Any], source: str) -> Settings:
    """Return settings with some of them changed, given as nested plain values.

    Raises:
        UserError: one line naming `source` and the field.
    """
    merged = to_dict(base)
    _merge(merged, values, source, type(base))
    return build(type(base), merged, source)


def parse_override(override: str) -> dict[str, Any]:
    """Read ``dotted.name=value`` as nested values.

    Raises:
        UserError: there is no ``=``, or the value is not valid YAML.
    """
    name, equals, text = override.partition("=")
    if not equals:
        raise UserError(f"{override}: write a setting as name=value, for example optim.lr=1e-4")
    try:
        nested: Any = parse_yaml(text)
    except yaml.YAMLError as error:
        raise UserError(f"{override}: the value is not valid YAML: {' '.join(str(error).split())}") from None
    for key in reversed(name.strip().split(".")):
        nested = {key: nested}
    return dict(nested)


def difference(ours: object, theirs: object) -> list[str]:
    """Return the dotted names of all settings in which two configurations differ."""

    def walk(a: Any, b: Any, prefix: str) -> list[str]:
        if isinstance(a, dict) and isinstance(b, dict):
            return [name for key in a | b for name in walk(a.get(key), b.get(key), f"{prefix}{key}.")]
        return [] if a == b else [prefix[:-1]]

    return walk(to_dict(ours), to_dict(theirs), "")


def describe_difference(ours: object, theirs: object) -> dict[str, str]:
    """Return in what two configurations differ, such as ``optim.lr 0.1 (not 0.2)``, by dotted name."""

    def value(settings: object, name: str) -> Any:
        found: Any = to_dict(settings)
        for key in name.split("."):
            found = found.get(key) if isinstance(found, dict) else None
        return found

    return {
        name: f"{name} {value(ours, name)} (not {value(theirs, name)})" for name in difference(ours, theirs)
    }


def _merge(
    into: dict[str, Any],
    values: Mapping[str, Any],
    source: str,
    kind: type[Any],
    prefix: str = "",
    root: type[Any] | None = None,
) -> None:
    """Merge `values` into those of a `kind`, a section of `root`; an unknown name is an error."""
    hints, root = get_type_hints(kind), root or kind
    for key, value in values.items():
        if key not in into:
            raise UserError(f"{source}: unknown setting {prefix}{key}{_suggest(prefix, str(key), root)}")
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, Mapping):
                raise UserError(f"{source}: {prefix}{key} is a section; set one of {', '.join(into[key])}")
            _merge(into[key], value, source, hints[key], f"{prefix}{key}.", root)
        else:
            into[key] = _joined(into[key], value)


def _suggest(prefix: str, word: str, kind: type[Any]) -> str:
    """Return " (did you mean a, b?)" with settings that are spelled, or described, like an unknown one.

    Those of its section, which `prefix` names, come before those of others.
    """
    meanings, found = dict(_meanings(kind)), list[str]()
    for names in ([name for name in meanings if name.startswith(prefix)], meanings):
        last = {name: name.rpartition(".")[2] for name in names}
        close = get_close_matches(word, set(last.values()), cutoff=0.6)
        words = re.compile(re.escape(word.replace("_", " ")) + r"\b", re.IGNORECASE)
        found = (
            found
            or [name for name in names if last[name] == word]
            or [name for name in names if words.match(meanings[name])]
            or [name for name in names if last[name] in close]
        )
    return f" (did you mean {', '.join(found[:3])}?)" if found else ""


def _meanings(kind: type[Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted name and the description of each section and setting."""
    hints = get_type_hints(kind)
    for name, field in kind.__pydantic_fields__.items():
        yield prefix + name, field.description or ""
        if dataclasses.is_dataclass(hints[name]):
            yield from _meanings(cast(type[Any], hints[name]), f"{prefix}{name}.")


def _joined(ours: Any, theirs: Any) -> Any:
    """Join mappings key by key; replace anything else."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        return {**ours, **{key: _joined(ours.get(key), value) for key, value in theirs.items()}}
    return theirs


def plain_problem(message: str) -> str:
    """Return what pydantic says of a value in the words of our own errors."""
    message = re.split(", (?:unable to|got a number)", message)[0].removeprefix("Value error, ")
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    return message


def _first_problem(error: ValidationError, kind: type[Any]) -> str:
    """Describe the first problem that pydantic found in one line."""
    problem = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"unknown setting {name}{nearest(name, [field.name for field in dataclasses.fields(kind)])}"
    message = plain_problem(problem["msg"])
    if problem["type"] != "value_error":
        message += f", got {problem['input']!r}{_REMEDIES.get(problem['type'], '')}"
    return f"{name}: {message}" if name else message
