"""GPU nodes by name (``node_types.yaml``): the resources of a training pod, and the nodes it may run on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from xkd.config.overrides import STRICT, load_yaml
from xkd.errors import UserError, nearest

_SHARE = 0.85
"""Share of a node's cores and memory that a pod requests; clouds reserve more on larger machines, up to about
a tenth, and the cluster's daemons need some."""
TOLERATIONS: tuple[dict[str, Any], ...] = (
    {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
)
"""GPU nodes are commonly tainted, to keep away pods that need no GPU."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NodeType:
    """A kind of GPU node. A pod takes a whole one, so that few of a job's connections cross the network."""

    cores: int
    memory: int
    """GiB."""
    gpus: int
    gpu: str
    """Description of one GPU."""
    selector: dict[str, str]
    """Labels of such nodes."""

    def resources(self) -> dict[str, str]:
        """Return the requests, and equal limits, of a pod that takes the node; the last to be evicted."""
        return {
            "cpu": str(int(self.cores * _SHARE)),
            "memory": f"{int(self.memory * _SHARE)}Gi",
            "nvidia.com/gpu": str(self.gpus),
        }


NODE_TYPES = TypeAdapter(dict[str, NodeType]).validate_python(
    load_yaml(Path(__file__).with_name("node_types.yaml"))
)


def node_type(name: str) -> NodeType:
    """Return a node type by its name.

    Raises:
        UserError: the name is unknown.
    """
    if name not in NODE_TYPES:
        raise UserError(f"no node type {name!r}{nearest(name, NODE_TYPES)}; known: {', '.join(NODE_TYPES)}")
    return NODE_TYPES[name]
