"""GPU nodes by name: what a training pod asks for and where it may run.

A pod takes a whole node, less what the node keeps for itself, so that the workers of a job talk over as few
network links as they can. Labels are those that the cloud, or NVIDIA's GPU feature discovery on machines
of one's own, puts on nodes by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xkd.errors import UserError, nearest

_SHARE = 0.85
"""Share of a node's cores and memory that a pod asks for; what clouds reserve grows with the machine, to
about a tenth, and daemons of the cluster need some."""


@dataclass(frozen=True)
class NodeType:
    """A kind of GPU node."""

    cores: int
    memory: int
    """GiB."""
    gpus: int
    selector: dict[str, str]
    gpu: str
    """What one GPU is, for people."""

    def resources(self) -> dict[str, str]:
        """Requests, and limits, of a pod that takes the node; equal, so that it is the last to be evicted."""
        return {
            "cpu": str(int(self.cores * _SHARE)),
            "memory": f"{int(self.memory * _SHARE)}Gi",
            "nvidia.com/gpu": str(self.gpus),
        }


TOLERATIONS: tuple[dict[str, Any], ...] = (
    {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
)
"""GPU nodes are commonly tainted, for pods that need none to stay away."""

_MACHINE = "node.kubernetes.io/instance-type"
_GKE = "cloud.google.com/gke-accelerator"
_PRODUCT = "nvidia.com/gpu.product"

NODE_TYPES = {
    "v100_gke": NodeType(96, 360, 8, {_GKE: "nvidia-tesla-v100"}, "V100 16 GB (n1-standard-96)"),
    "v100_eks": NodeType(64, 488, 8, {_MACHINE: "p3.16xlarge"}, "V100 16 GB"),
    "v100_32gb_eks": NodeType(96, 768, 8, {_MACHINE: "p3dn.24xlarge"}, "V100 32 GB"),
    "v100_32gb_aks": NodeType(40, 672, 8, {_MACHINE: "Standard_ND40rs_v2"}, "V100 32 GB"),
    "v100_metal": NodeType(80, 512, 8, {_PRODUCT: "Tesla-V100-SXM2-16GB"}, "V100 16 GB (DGX-1)"),
    "v100_32gb_metal": NodeType(80, 512, 8, {_PRODUCT: "Tesla-V100-SXM2-32GB"}, "V100 32 GB (DGX-1)"),
    "a100_gke": NodeType(96, 680, 8, {_GKE: "nvidia-tesla-a100"}, "A100 40 GB (a2-highgpu-8g)"),
    "a100_eks": NodeType(96, 1152, 8, {_MACHINE: "p4d.24xlarge"}, "A100 40 GB"),
    "a100_aks": NodeType(96, 900, 8, {_MACHINE: "Standard_ND96asr_v4"}, "A100 40 GB"),
    "a100_metal": NodeType(128, 1024, 8, {_PRODUCT: "NVIDIA-A100-SXM4-40GB"}, "A100 40 GB (DGX A100)"),
    "h100_gke": NodeType(208, 1872, 8, {_GKE: "nvidia-h100-80gb"}, "H100 80 GB (a3-highgpu-8g)"),
    "h100_eks": NodeType(192, 2048, 8, {_MACHINE: "p5.48xlarge"}, "H100 80 GB"),
    "h100_aks": NodeType(96, 1900, 8, {_MACHINE: "Standard_ND96isr_H100_v5"}, "H100 80 GB"),
    "h100_metal": NodeType(112, 2048, 8, {_PRODUCT: "NVIDIA-H100-80GB-HBM3"}, "H100 80 GB (DGX H100)"),
}
"""Machines of eight GPUs, as their makers list them."""


def node_type(name: str) -> NodeType:
    """A node type by its name.

    Raises:
        UserError: there is none of that name.
    """
    if name not in NODE_TYPES:
        raise UserError(f"no node type {name!r}{nearest(name, NODE_TYPES)}; known: {', '.join(NODE_TYPES)}")
    return NODE_TYPES[name]
