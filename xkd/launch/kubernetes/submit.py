"""Submit a job or attach to an existing one; cancel one, or those of a pipeline run."""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection, Mapping
from typing import Any

from xkd.errors import EXIT_BAD_NODE, NON_RETRYABLE_EXIT_CODES, UserError, XkdError
from xkd.launch.kubernetes import status
from xkd.launch.kubernetes.client import RUN_LABEL, Api
from xkd.launch.kubernetes.job import OUT_LABEL, Job
from xkd.launch.termination import Termination
from xkd.log import get_logger

_DELETION_SECONDS = 120.0
"""Time that deleting a job may take beyond its pods' grace period."""

log = get_logger(__name__)


class LaunchError(XkdError):
    """A job was deleted, passed a deadline or could not start; rerunning the command restarts it."""


def submit_or_attach(api: Api, job: Job, bad_nodes: Collection[str] = ()) -> bool:
    """Ensure that the job exists: submitted now, active, or ended in a way that a restart would not change.

    A job that another pipeline run started is adopted: from then on it belongs to this one. A restarted job
    avoids the nodes that failed its preflight, in any of its submissions.

    Args:
        bad_nodes: nodes that pods of the job named, which may be gone.

    Returns:
        Whether it was submitted now.

    Raises:
        UserError: another job writes to the same directory, or the cluster rejects this one.
        LaunchError: an earlier job cannot be deleted.
    """
    existing = api.read(job.name)
    ends = [end for pod in api.pods(job.name) if (end := status.end_of(pod))] if existing else []
    avoided = {*bad_nodes, *status.bad_nodes(ends), *(status.avoided_nodes(existing) if existing else ())}
    if existing and "deletionTimestamp" in existing["metadata"]:
        _wait_deleted(api, job, job.name)
    elif existing and _needs_restart(job, existing, ends, avoided):
        without = f" without node {', '.join(sorted(avoided))}" if avoided else ""
        log.info("earlier job %s is %s; restarting it%s", job.name, status.phase_of(existing), without)
        api.delete(job.name)
        _wait_deleted(api, job, job.name)
    elif existing:
        log.info("job %s exists (%s); attaching", job.name, status.phase_of(existing))
        if job.run_id and job.run_id != _run_of(existing):
            api.label(job.name, {RUN_LABEL: job.run_id})
        return False
    for other in api.jobs(f"{OUT_LABEL}={job.out_hash}"):
        name = other["metadata"]["name"]
        if "deletionTimestamp" in other["metadata"]:
            _wait_deleted(api, job, name)
        elif not status.has_ended(other) and name != job.name:
            raise UserError(
                f"job {name} ({status.phase_of(other)}) already writes to {job.directory}; wait until it "
                f"ends, use another --out, or delete it: kubectl delete vcjob {name} -n {api.namespace}"
            )
    if job.network:
        log.info("between nodes: %s; untested, see docs/kubernetes.md", job.network)
    if not api.create(job.manifest(secrets.token_hex(4), avoided)):
        return submit_or_attach(api, job, bad_nodes)  # another launcher did so meanwhile
    log.info("job %s submitted in namespace %s", job.name, api.namespace)
    return True


def submit(job: Job) -> None:
    """Ensure that a job exists (`submit_or_attach`), without following it."""
    submit_or_attach(Api(job.cluster.namespace), job)


def cancel(name: str, namespace: str = "") -> None:
    """Cancel a job, whose pods save first.

    Raises:
        UserError: there is no such job.
    """
    api = Api(namespace)
    if api.read(name) is None:
        raise UserError(
            f"no job {name} in namespace {api.namespace}; list them: kubectl get vcjob -n {api.namespace}"
        )
    api.delete(name)
    log.info("job %s: cancelled; its pods save within their grace period", name)


def release(run_id: str, namespace: str = "") -> list[str]:
    """Cancel the active jobs of a pipeline run if it was terminated; return their names.

    After any other end of a run its jobs continue, and the next run of the same work adopts them.
    """
    api = Api(namespace)
    jobs = api.jobs(f"{RUN_LABEL}={run_id}") if api.is_terminated(run_id) else []
    names = [str(job["metadata"]["name"]) for job in jobs if not status.has_ended(job)]
    for name in names:
        api.delete(name)
    return names


def _needs_restart(
    job: Job, existing: Mapping[str, Any], ends: Collection[Termination], avoided: Collection[str]
) -> bool:
    """Return whether a job ended without success, and not for the whole pipeline run.

    Within one pipeline run a job that used all its restarts, or ended with a final exit code, stays: the
    retries of the pipeline's task must not multiply the restarts, and nobody fixed anything meanwhile. One
    whose preflight failed is restarted without the bad nodes, unless that used up the restarts too.
    """
    if not status.has_ended(existing) or status.phase_of(existing) == status.SUCCEEDED:
        return False
    if not job.run_id or job.run_id != _run_of(existing):
        return True
    if any(end.code == EXIT_BAD_NODE for end in ends):
        return len(avoided) <= job.cluster.restarts
    final = any(end.code in NON_RETRYABLE_EXIT_CODES for end in ends)
    is_premature = status.is_premature(existing)
    return (is_premature or status.phase_of(existing) != status.FAILED) and not final


def _run_of(existing: Mapping[str, Any]) -> str:
    """Return the pipeline run that a job belongs to, if any."""
    return str(existing["metadata"].get("labels", {}).get(RUN_LABEL, ""))


def _wait_deleted(api: Api, job: Job, name: str) -> None:
    """Wait until an earlier job is deleted, whose pods save first; raise LaunchError after a timeout."""
    limit = job.cluster.grace_seconds + _DELETION_SECONDS
    log.info("waiting until earlier job %s is deleted", name)
    end = time.monotonic() + limit
    while api.read(name):
        if time.monotonic() > end:
            raise LaunchError(
                f"earlier job {name} was not deleted within {status.duration(limit)}; a pod on a lost node "
                "stays until the node or the pod is deleted: kubectl delete pod "
                f"-l volcano.sh/job-name={name} --force -n {api.namespace}"
            )
        time.sleep(api.policy.first)
