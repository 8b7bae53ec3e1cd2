"""A job as Volcano's Job: what TorchX makes of its `AppDef`, and all that TorchX leaves out."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from kubernetes.client import ApiClient
from torchx.schedulers.kubernetes_scheduler import KubernetesScheduler
from torchx.specs import AppDef, AppDryRunInfo

from xkd.launch.kubernetes.config import USER, ClusterConfig

RUN_LABEL = "pipeline/runid"
"""Label of all that a pipeline's run started; KFP's own."""
PLACE_LABEL = "xkd/writes-to"
"""Label that says, by `Job.place`, where a job writes."""


def job_name(run: str, *identity: object) -> str:
    """A name for the job that is the same for the same work, so that whoever starts it again finds it.

    Args:
        run: whose it is, for people: the run directory's name.
        identity: all that makes it this work and no other.
    """
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:10]
    readable = re.sub(r"[^a-z0-9]+", "-", run.lower())[:24].strip("-")
    return f"xkd-{readable}-{digest}" if readable else f"xkd-{digest}"


@dataclass(frozen=True)
class Job:
    """Work for a cluster, and where and how it is done there."""

    name: str
    app: AppDef
    """One role, a replica for each host."""
    cluster: ClusterConfig
    final: Collection[int] = ()
    """Exit codes of a pod after which another try would end the same way."""
    run_id: str = ""
    """The pipeline's run that it belongs to, if it does."""
    ports: Mapping[str, int] = field(default_factory=dict)
    """What the containers listen at, by name."""
    writes: str = ""
    """The directory that it writes, as its pods see it; no two jobs may have the same."""

    progress: Callable[[], str] = str
    """What to add to a line that says how the job is: how far the work is, where that is known."""

    @property
    def place(self) -> str:
        """`writes` as the value of a label, which may have neither slashes nor many characters."""
        return hashlib.sha256(self.writes.encode()).hexdigest()[:16]

    @property
    def first_pod(self) -> str:
        """Name of the pod of the first host."""
        return f"{self.name}-{self.app.roles[0].name}-0-0"

    def request(self) -> AppDryRunInfo[Any]:
        """TorchX's request for it, completed; no cluster is asked. ``.request.resource`` is the manifest."""
        options: dict[str, Any] = {
            "queue": self.cluster.queue,
            "service_account": self.cluster.service_account,
            "priority_class": self.cluster.priority_class or None,
            "validate_spec": False,
        }
        info = KubernetesScheduler("xkd").submit_dryrun(self.app, options)
        made = ApiClient().sanitize_for_serialization(info.request.resource)
        # TorchX puts a random name into the pods as well.
        job = json.loads(json.dumps(made).replace(made["metadata"]["name"], self.name))
        labels = {"app.kubernetes.io/name": "xkd", "app.kubernetes.io/part-of": "xkd"}
        if self.writes:
            labels[PLACE_LABEL] = self.place
        if self.run_id:
            labels[RUN_LABEL] = self.run_id
        job["metadata"]["labels"] = labels
        if self.cluster.namespace:
            job["metadata"]["namespace"] = self.cluster.namespace
        job["spec"] |= {
            "maxRetry": self.cluster.restarts + 1,  # Volcano fails a job whose restarts reach this number
            "minAvailable": self.cluster.min_nodes or self.cluster.nodes,
            "ttlSecondsAfterFinished": self.cluster.ttl_seconds,
            "policies": [
                *({"exitCode": code, "action": "TerminateJob"} for code in self.final),
                {"events": ["PodFailed", "PodEvicted"], "action": "RestartJob"},
            ],
        }
        # Hosts beyond the fewest may never come, so the job ends with its first, which waits for the others.
        job["spec"]["tasks"][0]["policies"] = [{"event": "TaskCompleted", "action": "CompleteJob"}]
        for task in job["spec"]["tasks"]:
            _complete_pod(task["template"], self.cluster, labels, self.ports)
        info.request.resource = job
        return info


def _complete_pod(
    pod: dict[str, Any], cluster: ClusterConfig, labels: Mapping[str, str], ports: Mapping[str, int]
) -> None:
    """Add to a pod what TorchX leaves out."""
    pod["metadata"]["labels"] |= labels
    # A whole job would begin again for one pod that an autoscaler moves.
    pod["metadata"]["annotations"] |= {
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        "karpenter.sh/do-not-disrupt": "true",
    }
    spec = pod["spec"]
    (container,) = spec["containers"]
    spec |= {
        "nodeSelector": cluster.node_selector,
        "tolerations": list(cluster.tolerations),
        "terminationGracePeriodSeconds": cluster.grace_seconds,
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": [*spec["volumes"], {"name": "tmp", "emptyDir": {}}, *cluster.volumes],
    }
    if cluster.affinity:
        spec["affinity"] = cluster.affinity
    if cluster.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": secret} for secret in cluster.image_pull_secrets]
    given = {variable["name"] for variable in cluster.env}
    container |= {
        "env": [*(ours for ours in container["env"] if ours["name"] not in given), *cluster.env],
        "resources": cluster.resources,
        "ports": [{"name": port, "containerPort": number} for port, number in ports.items()],
        "volumeMounts": [
            *container["volumeMounts"],
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
            *cluster.volume_mounts,
        ],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
