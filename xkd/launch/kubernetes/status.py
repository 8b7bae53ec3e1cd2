"""The state of a job and its pods, from what the Kubernetes API returns."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kubernetes import client

from xkd.errors import EXIT_FAILURE
from xkd.launch.termination import Termination, read_termination_message

WAITING = ("Pending", "Inqueue", "Restarting")
"""Phases in which a job needs nodes; the deadline of the queue applies."""
SUCCEEDED = "Completed"
FAILED = "Failed"
"""Phase of a job that has used all its restarts."""
ENDED = (SUCCEEDED, FAILED, "Terminated", "Aborted")
"""Final phases of a job. Unknown phases are taken as transient."""


@dataclass(frozen=True)
class PodEnd:
    """How a pod ended."""

    pod: str
    termination: Termination

    def __str__(self) -> str:
        return f"{self.pod}: {self.termination.message}"


def phase_of(job: Mapping[str, Any]) -> str:
    """Return the phase of a job; a new one is pending."""
    return str(job.get("status", {}).get("state", {}).get("phase", "Pending"))


def has_ended(job: Mapping[str, Any]) -> bool:
    """Return whether a job is in a final phase."""
    return phase_of(job) in ENDED


def is_being_deleted(job: Mapping[str, Any]) -> bool:
    """Return whether somebody deleted a job that still exists."""
    return "deletionTimestamp" in job["metadata"]


def _transitions(job: Mapping[str, Any]) -> list[tuple[float, str]]:
    """Return when a job entered which phase, in seconds since the epoch."""
    status = job.get("status", {})
    transitions = [(job["metadata"].get("creationTimestamp"), "Pending")]
    transitions += [(each.get("lastTransitionTime"), each["status"]) for each in status.get("conditions", [])]
    if not status.get("conditions"):
        transitions.append((status.get("state", {}).get("lastTransitionTime"), phase_of(job)))
    return [(datetime.fromisoformat(when).timestamp(), phase) for when, phase in transitions if when]


def seconds_by_phase(job: Mapping[str, Any]) -> dict[str, float]:
    """Return how long a job has been in each phase, over all its launchers."""
    transitions, spent = _transitions(job), dict[str, float]()
    ends = [when for when, _ in transitions[1:]] + [time.time()]
    for (begin, phase), end in zip(transitions, ends, strict=True):
        if phase not in ENDED:
            spent[phase] = spent.get(phase, 0.0) + max(0.0, end - begin)
    return spent


def seconds_in_phase(job: Mapping[str, Any]) -> float:
    """Return how long a job has been in its present phase."""
    transitions = _transitions(job)
    return time.time() - transitions[-1][0] if transitions else 0.0


def end_of(pod: client.V1Pod) -> PodEnd | None:
    """Return how a pod ended, by its termination message or else by its status; None if it has not."""
    name, status = pod.metadata.name, pod.status
    prefix = f"{status.reason}: " if status.reason else ""
    for container in status.container_statuses or []:
        if terminated := container.state.terminated:
            written = read_termination_message(terminated.message)
            reason = (
                "out of memory" if terminated.reason == "OOMKilled" else f"exit code {terminated.exit_code}"
            )
            message = (written and written.message) or status.message or f"ended with {reason}"
            facts = written.facts if written else {}
            return PodEnd(name, Termination(prefix + message, terminated.exit_code, facts))
    if status.phase == "Failed":  # before its container started, or with its node
        message = (prefix or "failed: ") + (status.message or "no details available")
        return PodEnd(name, Termination(message, EXIT_FAILURE))
    return None


def pending_reason(pod: client.V1Pod) -> tuple[str, str]:
    """Return why a pod does not start, as a reason and a message; empty if nothing is wrong with it."""
    for container in pod.status.container_statuses or []:
        waiting = container.state.waiting
        if waiting and waiting.reason not in (None, "ContainerCreating", "PodInitializing"):
            return waiting.reason, waiting.message or ""
    for condition in pod.status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            return condition.reason or "not scheduled", condition.message or ""
    return "", ""


def duration(seconds: float) -> str:
    """Return a duration for people."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
