"""Settings of any kind, read and written: preset < file < ``--set``.

A settings dataclass (`xkd.config`, or a verb's own) says what may be set; here values are laid over
each other, validated, and every mistake becomes one line that names the field.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from xkd.errors import UserError, nearest

STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)
"""What every settings dataclass is declared with: unknown names are errors."""

Settings = TypeVar("Settings")
"""Any of this package's settings dataclasses."""


def to_dict(settings: object) -> dict[str, Any]:
    """Plain lists, dicts and numbers, as YAML and JSON hold them."""
    dumped: dict[str, Any] = TypeAdapter(type(settings)).dump_python(settings, mode="json")
    return dumped


def to_yaml(settings: object) -> str:
    """The settings as YAML, in the order of their definition."""
    return str(yaml.safe_dump(to_dict(settings), sort_keys=False))


def build(kind: type[Settings], values: Mapping[str, Any], source: str) -> Settings:
    """Validate a whole settings dataclass.

    Raises:
        UserError: one line naming `source` and the field that is unknown, ill-typed or out of range.
    """
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        raise UserError(f"{source}: {_first_problem(error, kind)}") from None


def load_yaml(path: str | Path, section: str | None = None) -> dict[str, Any]:
    """Read a mapping from a YAML file, or the mapping under one of its top-level keys."""
    try:
        values = _FloatLoader(Path(path).read_text()).get_single_data()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise UserError(f"cannot read configuration {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if section is not None:
        if not isinstance(values, dict) or section not in values:
            raise UserError(f"{path} has no section {section!r}")
        values = values[section]
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold a mapping of settings")
    return values


def resolve(base: Settings, file: str | None = None, overrides: Sequence[str] = ()) -> Settings:
    """Defaults or preset < file < ``--set``: the settings a verb uses.

    Args:
        base: the preset.
        file: ``FILE.yaml`` or ``FILE.yaml:SECTION``; may hold any subset of the settings.
        overrides: ``dotted.name=value``, the value read as YAML (so ``1e-3`` is a float).
    """
    values = to_dict(base)
    if file is not None:
        path, _, section = file.partition(":")
        _merge(values, load_yaml(path, section or None), path, type(base))
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals:
            raise UserError(f"{override}: write a setting as name=value, for example optim.lr=1e-4")
        try:
            nested: Any = _FloatLoader(text).get_single_data()
        except yaml.YAMLError as error:
            said = " ".join(str(error).split())
            raise UserError(f"{override}: what {name.strip()} is set to is not valid YAML: {said}") from None
        for key in reversed(name.strip().split(".")):
            nested = {key: nested}
        _merge(values, nested, override, type(base))
    return build(type(base), values, "configuration")


def overlay(base: Settings, values: Mapping[str, Any], source: str) -> Settings:
    """Settings with some of them changed, given as nested plain values.

    Raises:
        UserError: one line naming `source` and the field.
    """
    laid = to_dict(base)
    _merge(laid, values, source, type(base))
    return build(type(base), laid, source)


def difference(ours: object, theirs: object) -> list[str]:
    """The dotted names of all settings in which two configurations differ."""

    def walk(a: Any, b: Any, prefix: str) -> list[str]:
        if isinstance(a, dict) and isinstance(b, dict):
            return [name for key in a | b for name in walk(a.get(key), b.get(key), f"{prefix}{key}.")]
        return [] if a == b else [prefix[:-1]]

    return walk(to_dict(ours), to_dict(theirs), "")


def _merge(
    into: dict[str, Any], values: Mapping[str, Any], source: str, kind: type[Any], prefix: str = ""
) -> None:
    """Lay `values` over `into`, a `kind`; a name that it lacks is a typo, reported with its neighbours."""
    hints = get_type_hints(kind)
    sections: dict[str, Any] = {key: hint for key, hint in hints.items() if dataclasses.is_dataclass(hint)}
    for key, value in values.items():
        if key not in into:
            raise UserError(f"{source}: no setting {prefix}{key}{nearest(key, into)}")
        if key in sections:
            if not isinstance(value, Mapping):
                raise UserError(f"{source}: {prefix}{key} is a section; set one of {', '.join(into[key])}")
            _merge(into[key], value, source, sections[key], f"{prefix}{key}.")
        elif isinstance(value, Mapping) and isinstance(into[key], dict):
            into[key] = _joined(into[key], value)
        else:
            into[key] = value


def _joined(ours: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Free-form values over others: what is nested is joined, not replaced."""
    return ours | {
        key: _joined(ours[key], value)
        if isinstance(value, Mapping) and isinstance(ours.get(key), dict)
        else value
        for key, value in theirs.items()
    }


def _first_problem(error: ValidationError, kind: type[Any]) -> str:
    problem = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"no setting {name}{nearest(name, [field.name for field in dataclasses.fields(kind)])}"
    message = problem["msg"].removeprefix("Value error, ")
    shown = "" if problem["type"] == "value_error" else f", got {problem['input']!r}"
    return f"{name}: {message}{shown}" if name else message


class _FloatLoader(yaml.SafeLoader):  # type: ignore[misc]
    """SafeLoader that also reads 1e-3 as a float, as people write it (YAML 1.1 wants 1.0e-3)."""


_FloatLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*)?\.?\d[\d_]*[eE][-+]?\d+$"),
    list("-+.0123456789"),
)
