"""What a job and its pods say of themselves, as the Kubernetes API tells it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from kubernetes import client

from xkd.launch.termination import read_termination_message

WAITING = ("Pending", "Inqueue", "Restarting")
"""Phases in which a job needs nodes; the deadline of the queue runs."""
SUCCEEDED = "Completed"
FAILED = "Failed"
"""The phase of a job all whose restarts are used up."""
ENDED = (SUCCEEDED, FAILED, "Terminated", "Aborted")
"""Phases that a job does not leave by itself. Unknown ones are taken for being on the way."""


@dataclass(frozen=True)
class End:
    """How a pod ended."""

    pod: str
    code: int
    message: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else the pod left."""

    def __str__(self) -> str:
        return f"{self.pod}: {self.message}"


def phase_of(job: Mapping[str, Any]) -> str:
    """The phase of a job; a new one has none yet."""
    return str(job.get("status", {}).get("state", {}).get("phase", "Pending"))


def has_ended(job: Mapping[str, Any]) -> bool:
    """Whether it leaves its phase no more."""
    return phase_of(job) in ENDED


def is_leaving(job: Mapping[str, Any]) -> bool:
    """Whether a job is being removed."""
    return "deletionTimestamp" in job["metadata"]


def _changes(job: Mapping[str, Any]) -> list[tuple[float, str]]:
    """When a job came into which phase, in seconds since the epoch."""
    status = job.get("status", {})
    changes = [(job["metadata"].get("creationTimestamp"), "Pending")]
    changes += [
        (change.get("lastTransitionTime"), change["status"]) for change in status.get("conditions", [])
    ]
    if not status.get("conditions"):
        changes.append((status.get("state", {}).get("lastTransitionTime"), phase_of(job)))
    return [(datetime.fromisoformat(when).timestamp(), phase) for when, phase in changes if when]


def seconds_by_phase(job: Mapping[str, Any]) -> dict[str, float]:
    """How long a job has been in each phase, however many launchers followed it."""
    changes, spent = _changes(job), dict[str, float]()
    ends = [when for when, _ in changes[1:]] + [time.time()]
    for (begin, phase), end in zip(changes, ends, strict=True):
        if phase not in ENDED:
            spent[phase] = spent.get(phase, 0.0) + max(0.0, end - begin)
    return spent


def seconds_in_phase(job: Mapping[str, Any]) -> float:
    """How long a job has been in its present phase."""
    changes = _changes(job)
    return time.time() - changes[-1][0] if changes else 0.0


def end_of(pod: client.V1Pod) -> End | None:
    """How a pod ended, if it did: in its own words, or else in Kubernetes'."""
    name, status = pod.metadata.name, pod.status
    for container in status.container_statuses or []:
        if terminated := container.state.terminated:
            code, said = terminated.exit_code, read_termination_message(terminated.message)
            reason = "out of memory" if terminated.reason == "OOMKilled" else f"exit code {code}"
            message = said.get("message") or status.message or f"ended with {reason}"
            if status.reason:
                message = f"{status.reason}: {message}"
            return End(name, code, message, said.get("extraInfo", {}))
    if status.phase == "Failed":  # before its container began, or with its node
        return End(name, 1, f"{status.reason or 'failed'}: {status.message or 'no more is known'}")
    return None


def pending_reason(pod: client.V1Pod) -> tuple[str, str]:
    """Why a pod does not begin, in a word and in more of them; empty where nothing is wrong with it."""
    for container in pod.status.container_statuses or []:
        waiting = container.state.waiting
        if waiting and waiting.reason not in (None, "ContainerCreating", "PodInitializing"):
            return waiting.reason, waiting.message or ""
    for condition in pod.status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            return condition.reason or "not scheduled", condition.message or ""
    return "", ""
