"""A cluster on which tests launch jobs; they act as Volcano's controller, its scheduler and the kubelets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from xkd.launch.kubernetes.status import ENDED


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Cluster(ABC):
    """Jobs and pods of a namespace, on a fake API server or a real one."""

    namespace: str
    stuck = False
    """Whether deleted jobs stay, as with a pod on a lost node."""

    @property
    @abstractmethod
    def jobs(self) -> Mapping[str, dict[str, Any]]:
        """All jobs, by name."""

    @property
    @abstractmethod
    def submitted(self) -> int:
        """Number of jobs that launchers have created."""

    @abstractmethod
    def kubeconfig(self, folder: Path) -> Path:
        """Write a launcher's kubeconfig for this server; return its path."""

    @abstractmethod
    def set_status(self, status: dict[str, Any]) -> None:
        """Set the status of the only job."""

    @abstractmethod
    def set_pod(self, name: str, template: dict[str, Any], status: dict[str, Any]) -> None:
        """Set the status of a pod of the only job, which is created from a template if it does not exist."""

    @abstractmethod
    def delete_pods(self) -> None:
        """Delete all pods at once."""

    @abstractmethod
    def delete_job(self, name: str) -> None:
        """Delete a job, at once and without its pods."""

    @abstractmethod
    def add_workflow(self, labels: dict[str, str], spec: dict[str, Any]) -> None:
        """Create a Workflow of Argo."""

    @abstractmethod
    def stop(self) -> None:
        """Have every request fail."""

    @abstractmethod
    def resume(self) -> None:
        """Respond to requests again."""

    @property
    def job(self) -> dict[str, Any]:
        """The only job."""
        (job,) = self.jobs.values()
        return job

    @property
    def name(self) -> str:
        return str(self.job["metadata"]["name"])

    def phase(self, phase: str, restarts: int = 0) -> None:
        """Move the job to a phase, as Volcano's controller would."""
        before = self.job.get("status", {}).get("conditions", [])
        change = {"status": phase, "lastTransitionTime": now()}
        state = {"phase": phase, "lastTransitionTime": now()}
        self.set_status({"conditions": [*before, change], "state": state, "retryCount": restarts})

    def start(self) -> None:
        """Start the job's pods."""
        job = self.job
        for number, task in enumerate(job["spec"]["tasks"]):
            self._set_pod(number, {"phase": "Running"}, {"running": {"startedAt": now()}}, task)
        self.phase("Running", job.get("status", {}).get("retryCount", 0))

    def end_pod(
        self, number: int, code: int, message: str = "", reason: str = "", pod_reason: str = ""
    ) -> None:
        """End a pod's container with a termination message."""
        ended = {"exitCode": code, "message": message, "reason": reason or "Error", "finishedAt": now()}
        status = {"phase": "Failed" if code else "Succeeded"} | ({"reason": pod_reason} if pod_reason else {})
        self._set_pod(number, status, {"terminated": ended})

    def restart(self, restarts: int = 1) -> None:
        """Restart the job, as Volcano does when a pod failed: all its pods are deleted at once."""
        self.delete_pods()
        self.phase("Restarting", restarts)

    def wait_pod(self, reason: str, message: str, scheduled: bool = True) -> None:
        """Have the first pod wait for a reason."""
        if scheduled:
            self._set_pod(0, {"phase": "Pending"}, {"waiting": {"reason": reason, "message": message}})
            return
        condition = {"type": "PodScheduled", "status": "False", "reason": reason, "message": message}
        self._set_pod(0, {"phase": "Pending", "conditions": [condition]})

    def terminate(self, run_id: str, **spec: Any) -> None:
        """Terminate a pipeline run, as KFP does unless `spec` says otherwise."""
        self.add_workflow({"pipeline/runid": run_id}, spec or {"activeDeadlineSeconds": 0})

    def left(self) -> list[str]:
        """Return the jobs that have not ended or have no time to live."""
        return [
            name
            for name, job in self.jobs.items()
            if job.get("status", {}).get("state", {}).get("phase") not in ENDED
            or "ttlSecondsAfterFinished" not in job["spec"]
        ]

    def _set_pod(
        self,
        number: int,
        status: dict[str, Any],
        state: dict[str, Any] | None = None,
        task: dict[str, Any] | None = None,
    ) -> None:
        """Set the status of a pod, whose container has a state."""
        job = self.job
        task = task or job["spec"]["tasks"][number]
        if state:
            names = {"name": "train", "image": "", "imageID": ""}
            status["containerStatuses"] = [names | {"ready": False, "restartCount": 0, "state": state}]
        self.set_pod(f"{job['metadata']['name']}-{task['name']}-0", task["template"], status)


def write_kubeconfig(path: Path, cluster: dict[str, Any], user: dict[str, Any], namespace: str) -> Path:
    """Write a kubeconfig with a single context; return its path."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": user}],
        "contexts": [
            {"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}
        ],
    }
    path.write_text(yaml.safe_dump(content))
    return path
