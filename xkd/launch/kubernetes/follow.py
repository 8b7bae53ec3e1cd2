"""Run a job on a cluster: submit or find it, follow it to its end, leave nothing running.

The Job's own policies restart it (`job`), so it continues while no launcher follows it. A launcher that is
rerun for the same work finds the job by its name. A pod's termination message says why it ended; logs are
only shown.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from kubernetes import client

from xkd.launch.interrupts import stop_signals_raised
from xkd.launch.kubernetes import status
from xkd.launch.kubernetes.client import FAILURES, Api, ApiRejectedError, ApiUnavailableError
from xkd.launch.kubernetes.job import Job
from xkd.launch.kubernetes.logs import logs_shown
from xkd.launch.kubernetes.submit import LaunchError, submit_or_attach
from xkd.log import get_logger

log = get_logger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    phase: str
    restarts: int
    ends: Collection[status.PodEnd]
    """The last known end of each of its pods."""

    @property
    def succeeded(self) -> bool:
        """Whether it completed."""
        return self.phase == status.SUCCEEDED


class _DeadlineError(Exception):
    """A job took too long."""


def run(job: Job, progress: Callable[[], str]) -> Outcome:
    """Submit or attach to a job and follow it to its end; cancel it on a signal or a deadline.

    An existing job of that name that succeeded is only read. One that failed is restarted, except within the
    same pipeline run (`submit_or_attach`).

    Args:
        job: the job.
        progress: returns how far the work is, for the summary; "" where unknown.

    Raises:
        UserError: the cluster rejects it, or another job writes to the same directory.
        LaunchError: the job was deleted, or passed a deadline and was cancelled.
        ApiUnavailableError: the Kubernetes API does not respond; the job continues.
        KeyboardInterrupt, SystemExit: SIGINT or SIGTERM came and the job was cancelled.
    """
    api = Api(job.cluster.namespace)
    follower = _Follower(api, job, progress)
    with stop_signals_raised() as ignore_signals:
        try:
            submit_or_attach(api, job)
            with logs_shown(api, job.first_pod):
                outcome = follower.follow()
        except (KeyboardInterrupt, SystemExit, _DeadlineError) as error:
            ignore_signals()
            log.info("%s; cancelling it", follower.summary())
            result = api.cancel(job.name)
            if isinstance(error, _DeadlineError):
                raise LaunchError(f"{error}; {result}") from None
            log.info("job %s: %s", job.name, result)
            raise
    log.info("%s", follower.summary())
    return outcome


class _Follower:
    """Polls one job until its end."""

    def __init__(self, api: Api, job: Job, progress: Callable[[], str]) -> None:
        self._api, self._name, self._cluster, self._progress = api, job.name, job.cluster, progress
        self._job: dict[str, Any] = {}
        """The job as last read."""
        self._changed_pods = deque[client.V1Pod]()
        """Pods that changed since the last poll: a restart of the job deletes its pods at once."""
        self._ends: dict[str, status.PodEnd] = {}
        """The last known end of each pod."""
        self._pending_reasons: set[str] = set()
        """Reported reasons why pods do not start in the present phase."""

    def follow(self) -> Outcome:
        """Poll the job until it has ended.

        Raises:
            LaunchError: it was deleted.
            ApiUnavailableError: the API does not respond, or rejects a request; the job continues.
            _DeadlineError: it waits, or runs, for too long.
        """
        done = threading.Event()
        threading.Thread(target=self._watch_pods, args=(done,), daemon=True).start()
        try:
            return self._poll()
        except ApiRejectedError as error:
            raise ApiUnavailableError(
                f"{error}; job {self._name} continues, rerun the command to attach to it"
            ) from None
        finally:
            done.set()

    def summary(self) -> str:
        """Return the phase, the times, the attempts and the progress in one line."""
        if not self._job:
            return f"job {self._name}: not started"
        seconds = status.seconds_by_phase(self._job)
        waiting = sum(seconds.get(phase, 0.0) for phase in status.WAITING)
        return (
            f"job {self._name}: {status.phase_of(self._job)}, {self._restarts + 1} attempt(s), "
            f"{status.duration(seconds.get('Running', 0.0))} running, "
            f"{status.duration(waiting)} waiting for nodes{self._progress()}"
        )

    def _watch_pods(self, done: threading.Event) -> None:
        """Collect each change of a pod for the next poll."""
        version = None
        while not done.is_set():
            pause = self._api.policy.first
            try:
                for pod in self._api.watch_pods(self._name, version):
                    self._changed_pods.append(pod)
                    version = pod.metadata.resource_version
            except (*FAILURES, ValueError):  # without permission to watch, polling has to suffice
                version, pause = None, self._api.policy.longest
            done.wait(pause)

    def _poll(self) -> Outcome:
        pause, previous = self._api.policy.first, ""
        while True:
            job = self._api.read(self._name)
            if job is None:
                raise LaunchError(
                    f"job {self._name} no longer exists: somebody deleted it, or its time to live passed; "
                    "rerun the command to restart it"
                )
            self._job = job
            pods, phase = self._api.pods(self._name), status.phase_of(job)
            changed = self._report_ends(pods)
            if phase != previous:
                restart = f", restart {self._restarts}" if self._restarts else ""
                log.info("job %s: %s%s", self._name, phase, restart)
                self._pending_reasons.clear()
            self._report_pending(pods)
            if status.has_ended(job):
                return Outcome(phase, self._restarts, self._ends.values())
            self._check_deadlines(phase)
            pause = self._api.policy.next_pause(pause, changed or phase != previous)
            previous = phase
            time.sleep(pause)

    @property
    def _restarts(self) -> int:
        # Volcano also counts the restart that it no longer makes.
        return min(int(self._job.get("status", {}).get("retryCount", 0)), self._cluster.restarts)

    def _report_ends(self, pods: Collection[client.V1Pod]) -> bool:
        """Record how pods ended, and log each failure; return whether there was a new end."""
        changed = [self._changed_pods.popleft() for _ in range(len(self._changed_pods))]
        news = False
        for end in filter(None, map(status.end_of, (*changed, *pods))):
            if self._ends.get(end.pod) != end:
                self._ends[end.pod] = end
                news = True
                if end.termination.code:
                    log.warning("pod %s", end)
        return news

    def _report_pending(self, pods: Collection[client.V1Pod]) -> None:
        """Log why pods do not start, each reason once: the messages change all the time."""
        for pod in pods:
            reason, message = status.pending_reason(pod)
            if reason and reason not in self._pending_reasons:
                self._pending_reasons.add(reason)
                log.warning("pod %s waits: %s: %s", pod.metadata.name, reason, " ".join(message.split()))

    def _check_deadlines(self, phase: str) -> None:
        waited = status.seconds_in_phase(self._job)
        ran = status.seconds_by_phase(self._job).get("Running", 0.0)
        if phase in status.WAITING and waited > self._cluster.queue_seconds:
            raise _DeadlineError(
                f"job {self._name} waited {status.duration(waited)} for nodes, longer than queue_seconds"
            )
        if self._cluster.run_seconds and ran > self._cluster.run_seconds:
            raise _DeadlineError(f"job {self._name} ran for {status.duration(ran)}, longer than run_seconds")
