"""The manifest of a Volcano Job: TorchX's, from an `AppDef`, and the fields that TorchX leaves out."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubernetes.client import ApiClient
from torchx.schedulers.kubernetes_scheduler import LABEL_UNIQUE_NAME, app_to_resource
from torchx.specs import AppDef, Role, macros

from xkd.config.overrides import load_yaml
from xkd.errors import NON_RETRYABLE_EXIT_CODES
from xkd.launch.agent import SUBMISSION, agent_command
from xkd.launch.kubernetes.client import RUN_LABEL
from xkd.launch.kubernetes.config import WORKSPACE, ClusterConfig

OUT_LABEL = "xkd/writes-to"
"""Label with the hash of the directory that a job writes."""
AVOIDED_NODES = "xkd/avoided-nodes"
"""Annotation with the nodes that a job avoids because they failed its preflight."""
RENDEZVOUS_PORT = 29400
_ROLE = "train"
"""A hyphen would break the environment variable that Volcano derives from the name."""
_RESTARTS_IN_PLACE = 1
"""Restarts of a host's workers by its agent, before Volcano restarts the whole job."""
_RESTARTS_PER_BUDGET = 20
"""Restarts of a job by Volcano, for each that it may have without a new checkpoint."""
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_POD = load_yaml(Path(__file__).with_name("pod.yaml"))


def job_name(run: str, *identity: object) -> str:
    """Return a name that is the same for the same work, so that another launcher finds the job.

    It starts with the run directory's name, for people, and ends with a hash of everything that distinguishes
    the work from other work.
    """
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:10]
    readable = re.sub(r"[^a-z0-9]+", "-", run.lower())[:24].strip("-")
    return f"xkd-{readable}-{digest}" if readable else f"xkd-{digest}"


@dataclass(frozen=True, kw_only=True)
class Job:
    """An agent with its workers on each of several hosts of a cluster."""

    name: str
    work: Sequence[str]
    """The module that each worker runs, and its arguments."""
    out: Path
    """The directory that the job writes, as its pods see it; no two jobs may write the same."""
    cluster: ClusterConfig
    """Resolved settings."""
    threads: int = 0
    """Threads of each worker; 0: as many as torch takes."""
    run_id: str = ""
    """The pipeline run that starts or adopts the job, if any."""
    metrics_port: int = 0
    """Port on which the first pod serves metrics; 0: none."""
    network: str = ""
    """What connects its nodes, if there are several of a known type; nothing has run on these networks."""

    @property
    def directory(self) -> str:
        """`out` as a normalized absolute path in the pods."""
        return os.path.normpath(Path(WORKSPACE) / self.out)

    @property
    def out_hash(self) -> str:
        """`directory` as a value of `OUT_LABEL`; labels are short and have no slashes."""
        return hashlib.sha256(self.directory.encode()).hexdigest()[:16]

    @property
    def first_pod(self) -> str:
        """Name of the first host's pod."""
        return f"{self.name}-{_ROLE}-0-0"

    def manifest(self, submission: str = "", avoided: Collection[str] = ()) -> dict[str, Any]:
        """Return the Volcano Job as Kubernetes takes it.

        Args:
            submission: identifies this submission of it: another one has all its restarts again.
            avoided: names of nodes that must not run it.
        """
        cluster = self.cluster
        resource = app_to_resource(
            self._app(submission), cluster.queue, cluster.service_account, cluster.priority_class or None
        )
        job: dict[str, Any] = ApiClient().sanitize_for_serialization(resource)
        labels = _POD["labels"] | {OUT_LABEL: self.out_hash}
        if self.run_id:
            labels[RUN_LABEL] = self.run_id
        # TorchX names the job at random, in its metadata and in a label of each pod.
        job["metadata"] = {"name": self.name, "labels": labels}
        if avoided:
            job["metadata"]["annotations"] = {AVOIDED_NODES: ",".join(sorted(avoided))}
        if cluster.namespace:
            job["metadata"]["namespace"] = cluster.namespace
        job["spec"] |= {
            # Evictions count too, so Volcano may restart a job more often than without progress (`Attempts`).
            # It fails a job whose restarts reach this number.
            "maxRetry": _RESTARTS_PER_BUDGET * cluster.restarts + 1,
            "minAvailable": cluster.min_nodes or cluster.nodes,
            "ttlSecondsAfterFinished": cluster.ttl_seconds,
            "policies": [
                *({"exitCode": code, "action": "TerminateJob"} for code in NON_RETRYABLE_EXIT_CODES),
                {"events": ["PodFailed", "PodEvicted"], "action": "RestartJob"},
            ],
        }
        # Hosts beyond the minimum may never start: the job completes with its first, which waits for the
        # rest.
        job["spec"]["tasks"][0]["policies"] = [{"event": "TaskCompleted", "action": "CompleteJob"}]
        for task in job["spec"]["tasks"]:
            pod = task["template"]
            pod["metadata"]["labels"] |= {**labels, LABEL_UNIQUE_NAME: self.name}
            pod["metadata"]["annotations"] |= _POD["annotations"]
            self._complete_pod(pod["spec"], avoided)
        return dict(json.loads(json.dumps(job)))  # YAML writes shared parts as aliases

    def _app(self, submission: str) -> AppDef:
        """Return the job for TorchX: one role with a replica per host."""
        min_nodes, nodes = self.cluster.min_nodes or self.cluster.nodes, self.cluster.nodes
        # The kubelet expands $(...). Volcano sets these variables in all pods, TorchX another one in the
        # first. torch numbers hosts in the order of these addresses, so the first process is in the first
        # pod.
        options = {
            "--nodes": f"{min_nodes}:{nodes}",
            "--restarts": str(_RESTARTS_IN_PLACE),
            "--run": _literal(self.directory),
            "--attempts": str(self.cluster.restarts + 1),
            "--grace": str(self.cluster.grace_seconds),
            "--node": macros.replica_id,
            "--address": f"$$(VC_{_ROLE.upper()}_{macros.replica_id}_HOSTS)",
            "--rendezvous": f"$$({macros.rank0_env}):{RENDEZVOUS_PORT}",
        }
        words = [word for option in options.items() for word in option]
        env = {"OMP_NUM_THREADS": str(self.threads)} if self.threads else {}
        env |= {SUBMISSION: submission} if submission else {}
        env |= _POD["env"] | ({"KFP_RUN_ID": self.run_id} if self.run_id else {})
        role = Role(
            name=_ROLE,
            image=self.cluster.image,
            entrypoint="python",
            args=agent_command(self.name, self.cluster.workers, list(map(_literal, self.work)), words),
            env=env,
            num_replicas=nodes,
            min_replicas=min_nodes,
        )
        return AppDef(name="xkd", roles=[role])

    def _complete_pod(self, spec: dict[str, Any], avoided: Collection[str]) -> None:
        """Add the fields of a pod that TorchX leaves out."""
        cluster = self.cluster
        spec |= _POD["spec"] | {
            "nodeSelector": cluster.node_selector,
            "tolerations": list(cluster.tolerations),
            "terminationGracePeriodSeconds": cluster.grace_seconds,
            "volumes": [*spec["volumes"], *_POD["volumes"], *cluster.volumes],
        }
        if affinity := _avoiding(avoided, cluster.affinity):
            spec["affinity"] = affinity
        if cluster.image_pull_secrets:
            spec["imagePullSecrets"] = [{"name": secret} for secret in cluster.image_pull_secrets]
        ports = {"rendezvous": RENDEZVOUS_PORT}
        if self.metrics_port:
            ports["metrics"] = self.metrics_port
        (container,) = spec["containers"]
        fields = [{"name": n, "valueFrom": {"fieldRef": {"fieldPath": f}}} for n, f in _POD["fields"].items()]
        overridden = {variable["name"] for variable in cluster.env}
        own = [v for v in (*container["env"], *fields) if v["name"] not in overridden]
        container |= _POD["container"] | {
            "env": [*own, *cluster.env],
            "resources": cluster.resources,
            "ports": [{"name": name, "containerPort": port} for name, port in ports.items()],
            "volumeMounts": [*container["volumeMounts"], *_POD["volumeMounts"], *cluster.volume_mounts],
        }


def _avoiding(nodes: Collection[str], affinity: dict[str, Any]) -> dict[str, Any]:
    """Return an affinity that also excludes nodes, by name; the label of the host name may differ."""
    if not nodes:
        return affinity
    # Each of these requirements has one name. All those of a term apply, but only one of the terms.
    excluded = [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in sorted(nodes)]
    of_nodes = affinity.get("nodeAffinity", {})
    terms = [
        term | {"matchFields": [*term.get("matchFields", []), *excluded]}
        for term in of_nodes.get(_REQUIRED, {}).get("nodeSelectorTerms") or [{}]
    ]
    return affinity | {"nodeAffinity": of_nodes | {_REQUIRED: {"nodeSelectorTerms": terms}}}


def _literal(word: str) -> str:
    """Escape a word: both TorchX and the kubelet expand variables, also in paths, and turn $$ into $."""
    return word.replace("$", "$$$$")
