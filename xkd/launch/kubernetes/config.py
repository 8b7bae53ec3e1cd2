"""Settings of a job on a cluster."""

from __future__ import annotations

from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, NonNegativeInt, PositiveInt, model_validator
from pydantic.dataclasses import dataclass

from xkd.config.overrides import STRICT, load_yaml
from xkd.config.types import Text
from xkd.errors import UserError, nearest

USER = 10001
"""The image's user; see the Dockerfile."""
WORKSPACE = "/workspace"
"""The image's working directory."""
VOLUME = "xkd"
"""The claim of the volume that all pods share."""
MOUNT = f"{WORKSPACE}/runs"
"""Where they mount it."""
GPU = "nvidia.com/gpu"
"""The resource."""
ANNOTATIONS: dict[str, str] = load_yaml(Path(__file__).with_name("pod.yaml"), "annotations")
"""Annotations of pods that an autoscaler must not move."""
NODE_TYPES: dict[str, dict[str, Any]] = load_yaml(Path(__file__).with_name("node_types.yaml"))
"""GPU nodes by name."""
TOLERATIONS: tuple[dict[str, Any], ...] = ({"key": GPU, "operator": "Exists", "effect": "NoSchedule"},)
"""GPU nodes are commonly tainted, to keep away pods that need no GPU."""


def _check_quantity(amount: str) -> str:
    """Check a quantity of Kubernetes."""
    from kubernetes.utils.quantity import parse_quantity

    try:
        parse_quantity(amount)
    except ValueError:
        raise ValueError(f"{amount!r} is not a quantity such as 4, 500m or 16Gi") from None
    return amount


def check_quantities(**amounts: str) -> None:
    """Check quantities of Kubernetes by their parameters' names.

    Raises:
        UserError: one is none.
    """
    for name, amount in amounts.items():
        try:
            _check_quantity(amount)
        except ValueError as error:
            raise UserError(f"{name}: {error}") from None


Quantity = Annotated[str, AfterValidator(_check_quantity)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ClusterConfig:
    """Where on a cluster a job runs, and what happens when something fails there.

    Lists and mappings are in the format of the pod's field of the same name.
    """

    namespace: Text = ""
    """Namespace of the job; empty: the launcher's own, or the kubeconfig's."""
    image: str = "xkd:0.1.0"
    """Image of the pods."""
    nodes: PositiveInt = 1
    """Hosts; each is one pod."""
    min_nodes: PositiveInt | None = None
    """Hosts to start with, if fewer than `nodes` suffice; the others join later. The batch must divide among
    every number in between. None: all."""
    node_type: Text = ""
    """GPU node by name (`NODE_TYPES`): sets the resources, selector and tolerations that are not given."""
    processes: NonNegativeInt = 0
    """Workers per host; 0: one per GPU, or one."""
    resources: dict[str, dict[str, Quantity]] = field(default_factory=dict)
    """``requests`` and ``limits`` of each pod."""
    node_selector: dict[str, str] = field(default_factory=dict)
    """Labels that the nodes must have."""
    tolerations: tuple[dict[str, Any], ...] = ()
    """Taints of nodes that the pods tolerate."""
    affinity: dict[str, Any] = field(default_factory=dict)
    """Affinity of the pods."""
    volumes: tuple[dict[str, Any], ...] = ({"name": VOLUME, "persistentVolumeClaim": {"claimName": VOLUME}},)
    """Volumes of the pods."""
    volume_mounts: tuple[dict[str, Any], ...] = ({"name": VOLUME, "mountPath": MOUNT},)
    """Where the container mounts them."""
    env: tuple[dict[str, Any], ...] = ()
    """Environment variables of the container."""
    image_pull_secrets: tuple[str, ...] = ()
    """Names of the secrets with which the image is pulled."""
    service_account: str = "xkd-train"
    """Service account of the pods."""
    queue: str = "xkd"
    """Volcano's queue."""
    priority_class: Text = ""
    """Priority class of the job and its pods; empty: the cluster's default."""
    restarts: NonNegativeInt = 5
    """Restarts of the whole job without a new checkpoint, before it fails."""
    grace_seconds: PositiveInt = 300
    """Time a pod has to save before it is killed; longer than a checkpoint takes."""
    ttl_seconds: NonNegativeInt = 86400
    """Time after which Volcano removes an ended job."""
    queue_seconds: PositiveInt = 86400
    """Deadline of a job that waits for nodes; it is cancelled then."""
    run_seconds: NonNegativeInt = 0
    """Deadline of a job that runs; 0: none."""

    @model_validator(mode="after")
    def _min_nodes_at_most_nodes(self) -> ClusterConfig:
        if (self.min_nodes or 1) > self.nodes:
            raise ValueError(f"min_nodes {self.min_nodes} must be at most nodes, {self.nodes}")
        return self

    def resolved(self) -> ClusterConfig:
        """Return these settings with the values of `node_type` where nothing else is given.

        Raises:
            UserError: the node type is unknown.
        """
        if not self.node_type:
            return self
        if self.node_type not in NODE_TYPES:
            known = f"{nearest(self.node_type, NODE_TYPES)}; available: {', '.join(NODE_TYPES)}"
            raise UserError(f"unknown node type {self.node_type!r}{known}")
        node = NODE_TYPES[self.node_type]
        requests, limits = self.resources.get("requests", {}), self.resources.get("limits", {})
        # Requests and limits of GPUs must be equal, and the user may give only one of them.
        return replace(
            self,
            node_type="",
            resources={
                "requests": node["resources"] | limits | requests,
                "limits": node["resources"] | requests | limits,
            },
            node_selector=self.node_selector or node["node_selector"],
            tolerations=self.tolerations or TOLERATIONS,
        )

    @property
    def network(self) -> str:
        """What connects several nodes of `node_type`; "" where unknown."""
        return str(NODE_TYPES.get(self.node_type, {}).get("network", "")) if self.nodes > 1 else ""

    @property
    def workers(self) -> int:
        """Workers per host."""
        return self.processes or self.gpus or 1

    @property
    def gpus(self) -> int:
        """GPUs per host."""
        return int(self._limit(GPU))

    @property
    def cores(self) -> int:
        """Cores per host, if limited; else 0."""
        return int(self._limit("cpu"))

    def _limit(self, resource: str) -> float:
        from kubernetes.utils.quantity import parse_quantity

        return float(parse_quantity(self.resources.get("limits", {}).get(resource, "0")))
