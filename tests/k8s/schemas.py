"""Validation of manifests against the schemas of their kinds; unknown fields are errors."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

VERSION = "1.33"
"""Version of Kubernetes."""
SCHEMAS = Path(__file__).parents[1] / "reference" / "schemas"
"""Definitions of custom kinds and of dashboards, as their projects publish them."""

_QUANTITY = {"type": "string", "pattern": r"^\d+(\.\d+)?(m|[kMGTPE]i?)?$"}
_QUEUE: dict[str, Any] = {
    "properties": {
        "apiVersion": {"const": "scheduling.volcano.sh/v1beta1"},
        "kind": {"const": "Queue"},
        "metadata": {"type": "object"},
        "spec": {
            "properties": {
                "weight": {"type": "integer", "minimum": 1},
                "reclaimable": {"type": "boolean"},
                "capability": {"type": "object", "additionalProperties": _QUANTITY},
            },
        },
    },
    "required": ["spec"],
}
"""Fields in use of Volcano's queues, whose definition is not available."""


def validate(manifest: dict[str, Any]) -> None:
    """Validate a manifest, and every pod it would create, against the schemas of their kinds.

    Raises:
        jsonschema.ValidationError: it does not fit, or has a field that is not known.
    """
    if is_custom(manifest):
        _validate_builtin({"apiVersion": "v1", "kind": "ConfigMap", "metadata": manifest["metadata"]})
        schema = _custom_schema(manifest["apiVersion"], manifest["kind"])
        jsonschema.Draft202012Validator(schema).validate(manifest)
    else:
        _validate_builtin(manifest)
    for pod in pods(manifest):
        _validate_builtin({"apiVersion": "v1", "kind": "Pod", "metadata": {}} | pod)


def pods(manifest: object) -> Iterator[dict[str, Any]]:
    """Return all pods and pod templates in a manifest, at any depth."""
    if isinstance(manifest, dict):
        spec = manifest.get("spec")
        if isinstance(spec, dict) and isinstance(spec.get("containers"), list):
            yield {name: manifest[name] for name in ("metadata", "spec") if name in manifest}
        for value in manifest.values():
            yield from pods(value)
    elif isinstance(manifest, list):
        for value in manifest:
            yield from pods(value)


def is_custom(manifest: dict[str, Any]) -> bool:
    """Return whether a kind is custom; the groups of builtin ones have no dot or end in k8s.io."""
    group, slash, _ = manifest["apiVersion"].partition("/")
    return bool(slash) and "." in group and not group.endswith(".k8s.io")


def _validate_builtin(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, VERSION, strict=True)


@cache
def _custom_schema(api_version: str, kind: str) -> dict[str, Any]:
    group, _, version = api_version.partition("/")
    if (group, kind) == ("scheduling.volcano.sh", "Queue"):
        return _closed(_QUEUE)
    for path in SCHEMAS.glob(f"{group}_*.yaml"):
        definition = yaml.safe_load(path.read_text())["spec"]
        if definition["names"]["kind"] == kind:
            (schema,) = (v["schema"] for v in definition["versions"] if v["name"] == version)
            return _closed(schema["openAPIV3Schema"])
    raise jsonschema.ValidationError(f"no schema of {kind} in {group} is at hand")


def _closed(schema: dict[str, Any], top: bool = True) -> dict[str, Any]:
    """Return the schema with unknown fields forbidden; an API server would drop them silently."""
    made = dict(schema)
    if "properties" in schema:
        made["properties"] = {name: _closed(inner, False) for name, inner in schema["properties"].items()}
    if top:  # definitions only give the type of metadata; `validate` checks it
        made["properties"]["metadata"] = {}
    if isinstance(schema.get("additionalProperties"), dict):
        made["additionalProperties"] = _closed(schema["additionalProperties"], False)
    elif "properties" in schema or schema.get("type") == "object":
        made.setdefault("additionalProperties", False)
    if "items" in schema:
        made["items"] = _closed(schema["items"], False)
    return made
