"""The state of a job and its pods, from what the Kubernetes API returns."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import pairwise
from typing import Any

from kubernetes import client

from xkd.errors import EXIT_BAD_NODE, EXIT_FAILURE
from xkd.launch.kubernetes.job import AVOIDED_NODES
from xkd.launch.termination import Termination, read_termination_message

WAITING = ("Pending", "Inqueue", "Restarting")
"""Phases in which a job needs nodes; the deadline of the queue applies."""
SUCCEEDED = "Completed"
FAILED = "Failed"
"""Phase of a job that Volcano gives up: after its restarts, or when two pods fail at once."""
ENDED = (SUCCEEDED, FAILED, "Terminated", "Aborted")
"""Final phases of a job. Unknown phases are taken as transient."""


def phase_of(job: Mapping[str, Any]) -> str:
    """Return the phase of a job; a new one is pending."""
    return str(job.get("status", {}).get("state", {}).get("phase", "Pending"))


def has_ended(job: Mapping[str, Any]) -> bool:
    """Return whether a job is in a final phase."""
    return phase_of(job) in ENDED


def restarts_of(job: Mapping[str, Any]) -> int:
    """Return how often Volcano restarted a job; it also counts the restart that it no longer makes."""
    return min(_retry_count(job), int(job["spec"]["maxRetry"]) - 1)


def is_premature(job: Mapping[str, Any]) -> bool:
    """Return whether a job failed before it had used its restarts."""
    return phase_of(job) == FAILED and _retry_count(job) < job["spec"]["maxRetry"]


def _retry_count(job: Mapping[str, Any]) -> int:
    return int(job.get("status", {}).get("retryCount", 0))


def bad_nodes(ends: Iterable[Termination]) -> set[str]:
    """Return the nodes whose devices failed the preflight of a job, by the ends of its pods."""
    return {str(node) for end in ends if end.code == EXIT_BAD_NODE for node in end.facts.get("nodes", ())}


def avoided_nodes(job: Mapping[str, Any]) -> set[str]:
    """Return the nodes that a job avoids since it was submitted again."""
    listed = job["metadata"].get("annotations", {}).get(AVOIDED_NODES, "")
    return set(filter(None, listed.split(",")))


def seconds_by_phase(job: Mapping[str, Any]) -> tuple[dict[str, float], float]:
    """Return the time a job spent in each phase, over all its launchers, and since its last transition."""
    status = job.get("status", {})
    entered = [(job["metadata"].get("creationTimestamp"), "Pending")]
    entered += [(each.get("lastTransitionTime"), each["status"]) for each in status.get("conditions", [])]
    if not status.get("conditions"):
        entered.append((status.get("state", {}).get("lastTransitionTime"), phase_of(job)))
    begins = [(datetime.fromisoformat(when).timestamp(), phase) for when, phase in entered if when]
    spent, last = dict[str, float](), 0.0
    for (begin, phase), (end, _) in pairwise([*begins, (time.time(), "")]):
        last = end - begin
        if phase not in ENDED:
            spent[phase] = spent.get(phase, 0.0) + max(0.0, last)
    return spent, last


def end_of(pod: client.V1Pod) -> Termination | None:
    """Return how a pod ended, by its termination message or else by its status; None if it has not."""
    status = pod.status
    prefix = f"{status.reason}: " if status.reason else ""
    for container in status.container_statuses or []:
        if terminated := container.state.terminated:
            code, killed = terminated.exit_code, terminated.reason == "OOMKilled"
            written = read_termination_message(terminated.message) or Termination("", code)
            reason = "out of memory" if killed else f"exit code {code}"
            message = written.message or status.message or f"ended with {reason}"
            return Termination(prefix + message, code, written.facts)
    if status.phase == "Failed":  # before its container started, or with its node
        message = (prefix or "failed: ") + (status.message or "no details available")
        return Termination(message, EXIT_FAILURE)
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
