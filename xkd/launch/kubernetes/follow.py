"""Run a job on a cluster: submit or find it, and follow it to its end.

The Job's own policies restart it (`job`), and it continues while no launcher follows it. A launcher that is
rerun for the same work finds the job by its name. A pod's termination message says why it ended; logs are
only shown.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from kubernetes import client

from xkd.launch.interrupts import stop_signals_raised
from xkd.launch.kubernetes import status
from xkd.launch.kubernetes.client import FAILURES, Api
from xkd.launch.kubernetes.job import Job
from xkd.launch.kubernetes.submit import LaunchError, submit_or_attach
from xkd.launch.termination import Termination
from xkd.log import get_logger

_FLUSH_SECONDS = 5.0
"""Time that the last log lines may take after the job ended."""

log = get_logger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    phase: str
    restarts: int
    ends: Mapping[str, Termination]
    """The last known end of each of its pods."""
    is_premature: bool
    """Whether Volcano gave the job up with restarts left."""


class _DeadlineError(Exception):
    """A job took too long."""


def run(job: Job, progress: Callable[[], str]) -> Outcome:
    """Submit or attach to a job and follow it to its end; cancel it at a deadline, or where that is wanted.

    An existing job of that name that succeeded is only read. One that failed is restarted, except within the
    same pipeline run (`submit_or_attach`). One that Volcano gives up with restarts left, as it may when two
    pods fail at once, is submitted again; so is one whose preflight failed, without the bad nodes. After
    SIGTERM the job continues: the launcher's pod may be moved to another node. Only the end of the whole
    pipeline run (`Api.is_terminated`) cancels it, or Ctrl-C: at a terminal if the answer is yes, elsewhere if
    this launcher submitted the job.

    Args:
        progress: returns how far the work is, for the summary; "" where unknown.

    Raises:
        UserError: the cluster rejects it, or another job writes to the same directory.
        LaunchError: the job was deleted, or passed a deadline and was cancelled.
        ApiUnavailableError: requests to the Kubernetes API fail; the job continues.
        KeyboardInterrupt, SystemExit: SIGINT or SIGTERM came.
    """
    api = Api(job.cluster.namespace)
    follower, is_ours, submissions, bad_nodes = _Follower(api, job, progress), True, 0, set[str]()
    with stop_signals_raised() as ignore_signals:
        try:
            while True:
                is_ours = submit_or_attach(api, job, bad_nodes)
                with (
                    api.following(),
                    _thread(_show_logs, api, job.first_pod, wait=_FLUSH_SECONDS),
                    _thread(follower.watch_pods),
                ):
                    outcome = follower.follow()
                submissions += 1
                found = (
                    set() if outcome.phase == status.SUCCEEDED else status.bad_nodes(outcome.ends.values())
                )
                if not (outcome.is_premature or found) or submissions > job.cluster.restarts:
                    break
                bad_nodes |= found
                reason = f"a bad node, {', '.join(sorted(found))}" if found else "restarts left"
                log.warning("%s, with %s; restarting it", follower.summary(), reason)
                follower = _Follower(api, job, progress)
        except _DeadlineError as error:
            ignore_signals()
            log.info("%s; cancelling it", follower.summary())
            raise LaunchError(f"{error}; {api.cancel(job.name)}") from None
        except (KeyboardInterrupt, SystemExit) as error:
            ignore_signals()
            log.info("%s", follower.summary())
            result = "continues; rerun the command to attach to it, or cancel it: "
            result += f"xkd launch --cancel {job.name} --cluster-set namespace={api.namespace}"
            if _is_cancellation(api, job, error, is_ours):
                result = api.cancel(job.name)
            log.info("job %s: %s", job.name, result)
            raise
    log.info("%s", follower.summary())
    return outcome


def _is_cancellation(api: Api, job: Job, error: BaseException, is_ours: bool) -> bool:
    """Return whether a signal is meant for the job too, not only for its launcher."""
    if job.run_id:
        return api.is_terminated(job.run_id)
    if not isinstance(error, KeyboardInterrupt) or not sys.stdin.isatty():
        return isinstance(error, KeyboardInterrupt) and is_ours
    print(f"xkd: cancel job {job.name} too? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


@contextmanager
def _thread(target: Callable[..., None], *args: Any, wait: float = 0.0) -> Iterator[None]:
    """Run a function in a thread; set the event that is its last argument at the end, and wait for it."""
    done = threading.Event()
    thread = threading.Thread(target=target, args=(*args, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
    thread.join(wait)


def _show_logs(api: Api, pod: str, done: threading.Event) -> None:
    """Print each line of a pod once, through restarts and broken connections, and the last ones at the end.

    A new connection repeats lines, none of them newer than those printed.
    """
    newest, received, last, pause = "", None, False, api.policy.first
    while not last:
        last, before = done.is_set(), newest
        since = None if received is None else int(time.monotonic() - received) + 10
        with suppress(*FAILURES):
            for line in api.log_lines(pod, since):
                when, _, text = line.decode(errors="replace").rstrip("\n").partition(" ")
                seconds, _, fraction = when.rstrip("Z").partition(".")
                when = f"{seconds}.{fraction:0<9}"  # some servers omit trailing zeros
                if when > newest:
                    newest, received = when, time.monotonic()
                    print(text, flush=True)
        # A pod that waits for its node or image may have no lines for a long time.
        pause = api.policy.next_pause(pause, changed=newest != before)
        done.wait(pause)


class _Follower:
    """Polls one job until its end."""

    def __init__(self, api: Api, job: Job, progress: Callable[[], str]) -> None:
        self._api, self._name, self._cluster, self._progress = api, job.name, job.cluster, progress
        self._job: dict[str, Any] = {}
        """The job as last read."""
        self._changed_pods = deque[client.V1Pod]()
        """Pods that changed since the last poll: a restart of the job deletes its pods at once."""
        self._ends: dict[str, Termination] = {}
        """The last known end of each pod."""
        self._pending_reasons: set[str] = set()
        """Reported reasons why pods do not start in the present phase."""

    def follow(self) -> Outcome:
        """Poll the job until it has ended.

        Raises:
            LaunchError: it was deleted.
            ApiUnavailableError: requests to the API fail; the job continues.
            _DeadlineError: it waits, or runs, for too long.
        """
        pause, previous = self._api.policy.first, ""
        while True:
            job, pods = self._api.read(self._name), self._api.pods(self._name)
            if job is None:
                raise LaunchError(
                    f"job {self._name} no longer exists: it was deleted, or its time to live expired; "
                    "rerun the command to restart it"
                )
            self._job, phase = job, status.phase_of(job)
            changed = self._report_ends(pods) or phase != previous
            if phase != previous:
                restarts = status.restarts_of(job)
                log.info("job %s: %s%s", self._name, phase, f", restart {restarts}" if restarts else "")
                self._pending_reasons.clear()
            self._report_pending(pods)
            if status.has_ended(job):
                return Outcome(phase, status.restarts_of(job), self._ends, status.is_premature(job))
            self._check_deadlines(phase)
            pause, previous = self._api.policy.next_pause(pause, changed), phase
            time.sleep(pause)

    def watch_pods(self, done: threading.Event) -> None:
        """Collect each change of a pod for the next poll."""
        version: str | None = None
        while not done.is_set():
            pause = self._api.policy.first
            try:
                for pod, newest in self._api.watch_pods(self._name, version):
                    version = newest
                    if pod:
                        self._changed_pods.append(pod)
            except (*FAILURES, ValueError) as error:  # without permission to watch, polling has to suffice
                if getattr(error, "status", 0) == HTTPStatus.GONE:  # the server has forgotten the version
                    version = None
                else:
                    pause = self._api.policy.longest
            done.wait(pause)

    def summary(self) -> str:
        """Return the phase, the times, the attempts and the progress in one line."""
        if not self._job:
            return f"job {self._name}: not started"
        seconds, _ = status.seconds_by_phase(self._job)
        waiting = sum(seconds.get(phase, 0.0) for phase in status.WAITING)
        attempts = status.restarts_of(self._job) + 1
        return (
            f"job {self._name}: {status.phase_of(self._job)}, {attempts} attempt(s), "
            f"{status.duration(seconds.get('Running', 0.0))} running, "
            f"{status.duration(waiting)} waiting for nodes{self._progress()}"
        )

    def _report_ends(self, pods: Collection[client.V1Pod]) -> bool:
        """Record how pods ended, and log each failure; return whether there was a new end."""
        changed = [self._changed_pods.popleft() for _ in range(len(self._changed_pods))]
        news = False
        for pod in (*changed, *pods):
            name, end = pod.metadata.name, status.end_of(pod)
            if end and self._ends.get(name) != end:
                self._ends[name], news = end, True
                if end.code:
                    log.warning("pod %s: %s", name, end.message)
        return news

    def _report_pending(self, pods: Collection[client.V1Pod]) -> None:
        """Log why pods do not start, each reason once: the messages change all the time."""
        for pod in pods:
            reason, message = status.pending_reason(pod)
            if reason and reason not in self._pending_reasons:
                self._pending_reasons.add(reason)
                log.warning("pod %s waits: %s: %s", pod.metadata.name, reason, " ".join(message.split()))

    def _check_deadlines(self, phase: str) -> None:
        seconds, waited = status.seconds_by_phase(self._job)
        ran = seconds.get("Running", 0.0)
        if phase in status.WAITING and waited > self._cluster.queue_seconds:
            raise _DeadlineError(
                f"job {self._name} waited {status.duration(waited)} for nodes, longer than queue_seconds"
            )
        if self._cluster.run_seconds and ran > self._cluster.run_seconds:
            raise _DeadlineError(f"job {self._name} ran for {status.duration(ran)}, longer than run_seconds")
