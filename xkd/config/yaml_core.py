"""YAML as DVC reads it, so that a value of ``params.yaml`` is the same for DVC and for the commands it runs.

PyYAML follows YAML 1.1, where ``no`` is false, ``1:30`` is 90, ``0017`` is 15 and ``1e-3`` a string. DVC
reads YAML 1.2 with ruamel.yaml, which has none of that. Dates stay text here, as no setting is one.
"""

from __future__ import annotations

import re
from typing import Any, BinaryIO, ClassVar

import yaml
from yaml.constructor import ConstructorError

_FIRST = list("-+.0123456789")
_SCALARS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?(?:0b[01_]+|0o?[0-7_]+|[0-9_]+|0x[0-9a-fA-F_]+)", _FIRST),
    ("float", r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)", _FIRST),
    ("float", r"[-+]?\.(?:[0-9_]+(?:[eE][-+][0-9]+)?|inf|Inf|INF)|\.(?:nan|NaN|NAN)", _FIRST),
    ("merge", r"<<", ["<"]),
)
"""Type, form and first characters of the scalars that are not strings, as ruamel.yaml has them."""
_BASES = {"0b": 2, "0o": 8, "0x": 16}


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """A loader of YAML 1.2 that refuses what would be dropped or changed without a word."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
        """Construct a mapping whose keys are strings, each there once."""
        found = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise ConstructorError(
                    None, None, f"the key {key} is not a string; quote it", key_node.start_mark
                )
            if key in found:
                raise ConstructorError(None, None, f"the key {key} is there twice", key_node.start_mark)
            found.add(key)
        mapping: dict[str, Any] = super().construct_mapping(node, deep)
        return mapping

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """Construct an integer or a float."""
        text = node.value.replace("_", "").lower()
        digits = text.lstrip("-+")
        try:
            if node.tag.endswith("int"):
                return int(text, _BASES.get(digits[:2], 10))
            return float(text.replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            raise ConstructorError(None, None, f"{node.value} is no number", node.start_mark) from None


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """A dumper that quotes every string that YAML 1.1 or 1.2 would read as something else."""


for _type, _form, _first in _SCALARS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_type}", re.compile(f"^(?:{_form})$"), _first)
for _type in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_type}", _Loader.construct_number)


def parse_yaml(source: str | BinaryIO) -> Any:
    """Read one YAML document.

    Raises:
        yaml.YAMLError: it is not valid, or has a key twice or one that is not a string.
    """
    loader = _Loader(source)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def dump_yaml(values: Any, **options: Any) -> str:
    """Return values as YAML, in their order; `options` as of `yaml.dump`."""
    return str(yaml.dump(values, Dumper=_Dumper, sort_keys=False, **options))
