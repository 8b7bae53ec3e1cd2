"""GPU nodes by name, from ``node_types.yaml``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xkd.config.overrides import load_yaml
from xkd.errors import UserError, nearest

NODE_TYPES: dict[str, dict[str, Any]] = load_yaml(Path(__file__).with_name("node_types.yaml"))
TOLERATIONS: tuple[dict[str, Any], ...] = (
    {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
)
"""GPU nodes are commonly tainted, to keep away pods that need no GPU."""


def node_type(name: str) -> dict[str, Any]:
    """Return the ``resources`` and the ``node_selector`` of a node type.

    Raises:
        UserError: the name is unknown.
    """
    if name not in NODE_TYPES:
        raise UserError(f"no node type {name!r}{nearest(name, NODE_TYPES)}; known: {', '.join(NODE_TYPES)}")
    return NODE_TYPES[name]
