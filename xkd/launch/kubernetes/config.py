"""Where on a cluster a job runs, and what happens when something fails there."""

from __future__ import annotations

from dataclasses import field, replace
from typing import Any

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from xkd.config.overrides import STRICT
from xkd.launch.kubernetes.node_types import TOLERATIONS, node_type

USER = 10001
"""The image's user; see the Dockerfile."""
VOLUME = "xkd"
"""The claim of the volume that all pods share."""
MOUNT = "/workspace/runs"
"""Where they have it: the image works in the folder above."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ClusterConfig:
    """Where on a cluster a run is trained, and what happens when something fails there.

    Lists and mappings are what Kubernetes has under the same name in a pod.
    """

    namespace: str = ""
    """Namespace of the job; empty: the launcher's own, or the kubeconfig's."""
    image: str = "xkd:0.1.0"
    nodes: int = 1
    """Hosts, a pod each."""
    min_nodes: int | None = None
    """Hosts to begin with, where fewer than `nodes` may do; more join as they come. The batch must divide
    among any number in between. Null: all."""
    node_type: str = ""
    """A GPU node by name (`node_types`): sets resources, selector and tolerations where none are given."""
    processes: int = 0
    """Workers on each host; 0: one for each GPU, or one."""
    resources: dict[str, dict[str, str]] = field(default_factory=dict)
    """``requests`` and ``limits`` of each pod."""
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: tuple[dict[str, Any], ...] = ()
    affinity: dict[str, Any] = field(default_factory=dict)
    volumes: tuple[dict[str, Any], ...] = ({"name": VOLUME, "persistentVolumeClaim": {"claimName": VOLUME}},)
    volume_mounts: tuple[dict[str, Any], ...] = ({"name": VOLUME, "mountPath": MOUNT},)
    env: tuple[dict[str, Any], ...] = ()
    image_pull_secrets: tuple[str, ...] = ()
    service_account: str = "xkd-train"
    queue: str = "xkd"
    """Volcano's queue."""
    priority_class: str = ""
    restarts: int = 5
    """How often the job is begun anew, from its last checkpoint, before it fails."""
    grace_seconds: int = 300
    """How long a pod that must go may take to save; longer than a checkpoint takes."""
    ttl_seconds: int = 86400
    """How long an ended job stays, to be read; then Volcano removes it."""
    queue_seconds: int = 86400
    """Deadline for a job that waits for nodes; it is cancelled then."""
    run_seconds: int = 0
    """Deadline for a job that trains; 0: none."""

    @model_validator(mode="after")
    def _possible(self) -> ClusterConfig:
        if not 1 <= (self.min_nodes or 1) <= self.nodes:
            raise ValueError(f"nodes {self.nodes} must be at least 1, and not fewer than min_nodes")
        for name in ("processes", "restarts", "ttl_seconds", "run_seconds"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")
        for name in ("grace_seconds", "queue_seconds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        for kind, amounts in self.resources.items():
            for name, amount in amounts.items():
                try:
                    _quantity(amount)
                except ValueError:
                    raise ValueError(
                        f"resources.{kind}: {name} {amount!r} is no quantity such as 4, 500m or 16Gi"
                    ) from None
        return self

    def resolved(self) -> ClusterConfig:
        """These settings with what `node_type` stands for, where nothing else is given.

        Raises:
            UserError: there is no such node type.
        """
        if not self.node_type:
            return self
        node = node_type(self.node_type)
        requests, limits = self.resources.get("requests", {}), self.resources.get("limits", {})
        wanted = node.resources()
        # Of GPUs the two must be the same, and only one may be given.
        resources = {"requests": wanted | limits | requests, "limits": wanted | requests | limits}
        return replace(
            self,
            node_type="",
            resources=resources,
            node_selector=self.node_selector or node.selector,
            tolerations=self.tolerations or TOLERATIONS,
        )

    @property
    def workers(self) -> int:
        """Workers on each host."""
        return self.processes or int(self._limit("nvidia.com/gpu")) or 1

    @property
    def cores(self) -> int:
        """Cores of each host, as far as they are limited; else 0."""
        return int(self._limit("cpu"))

    def _limit(self, resource: str) -> float:
        return _quantity(self.resources.get("limits", {}).get(resource, "0"))


def _quantity(amount: str) -> float:
    """A quantity of Kubernetes as a number.

    Raises:
        ValueError: it is none.
    """
    from kubernetes.utils.quantity import parse_quantity

    return float(parse_quantity(amount))
