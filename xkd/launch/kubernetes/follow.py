"""Follow a job on a cluster: start it or find it, wait for its end, leave nothing running.

The Job's own policies restart it (`job`), so that it continues while no launcher follows it. A
launcher that is started again for the same work finds the job by its name. What a pod leaves as its
termination message says why it ended; logs are shown, and nothing is read from them.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kubernetes import client

from xkd.errors import UserError
from xkd.launch.kubernetes.client import FAILURES, Api, ApiRejectedError, ApiUnavailableError, say
from xkd.launch.kubernetes.job import PLACE_LABEL, RUN_LABEL, Job
from xkd.launch.kubernetes.logs import logs_shown
from xkd.launch.kubernetes.status import (
    ENDED,
    FAILED,
    SUCCEEDED,
    WAITING,
    End,
    end_of,
    has_ended,
    is_leaving,
    pending_reason,
    phase_of,
    seconds_by_phase,
    seconds_in_phase,
)

_REMOVAL = 120.0
"""Seconds that removing a job may take beyond its pods' grace."""


class LaunchError(UserError):
    """The job did not come to its own end; the same command begins it anew."""

    exit_code = 1


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    name: str
    phase: str
    restarts: int
    ends: Collection[End]
    """Of its pods, as far as they were seen; the last of each."""

    @property
    def succeeded(self) -> bool:
        """Whether it did all its work."""
        return self.phase == SUCCEEDED


def run(job: Job) -> Outcome:
    """Start a job, or find the one that is there, and follow it to its end; cancelled, it leaves nothing.

    A job of the same name that succeeded is read. One that failed is begun anew, unless that was within the
    same pipeline's run: there it has had its restarts, or nobody can have mended anything.

    Raises:
        UserError: the cluster refuses it, or another job writes to the same place.
        LaunchError: the job is gone, or is past a deadline and was cancelled.
        ApiUnavailableError: the Kubernetes API does not answer, or not any more; the job goes on.
        KeyboardInterrupt, SystemExit: SIGINT or SIGTERM came and the job was cancelled.
    """
    api = Api(job.cluster.namespace)
    watch = _Watch(api, job)
    with _signals_raised() as ignore_signals:
        try:
            _submit(api, job)
            with logs_shown(api, job.first_pod):
                outcome = watch.to_the_end()
        except (KeyboardInterrupt, SystemExit, _DeadlineError) as error:
            ignore_signals()
            say(f"{watch.summary()}; cancelling it")
            became = api.cancel(job.name)
            if isinstance(error, _DeadlineError):
                raise LaunchError(f"{error}; {became}") from None
            say(f"job {job.name}: {became}")
            raise
    say(watch.summary())
    return outcome


def release(run_id: str, namespace: str = "") -> list[str]:
    """Cancel the jobs that a pipeline's run started and that still are there.

    Returns:
        Their names.
    """
    api = Api(namespace)
    jobs = api.jobs(f"{RUN_LABEL}={run_id}")
    names = [str(job["metadata"]["name"]) for job in jobs if not has_ended(job)]
    for name in names:
        api.delete(name)
    return names


class _DeadlineError(Exception):
    """A job took too long."""


def _submit(api: Api, job: Job) -> None:
    """Have the job there: begun now, found on its way, or found at an end that need not be repeated."""
    found = api.read(job.name)
    if found and is_leaving(found):
        _await_removal(api, job, job.name)
    elif found and has_ended(found) and phase_of(found) != SUCCEEDED and not _is_final(api, job, found):
        say(f"an earlier job {job.name} is {phase_of(found)}; beginning it anew")
        api.delete(job.name)
        _await_removal(api, job, job.name)
    elif found:
        say(f"job {job.name} is there already ({phase_of(found)}); following it")
        return
    _have_place(api, job)
    if api.create(job.request()):
        say(f"job {job.name} submitted in namespace {api.namespace}")


def _have_place(api: Api, job: Job) -> None:
    """Make sure that no other job writes where this one will.

    Raises:
        UserError: one does.
        LaunchError: one that is being removed stays.
    """
    others = api.jobs(f"{PLACE_LABEL}={job.place}") if job.writes else []
    for other in others:
        name = other["metadata"]["name"]
        if is_leaving(other):
            _await_removal(api, job, name)
        elif not has_ended(other):
            raise UserError(
                f"job {name} ({phase_of(other)}) writes to {job.writes} already; wait for its end, use "
                f"another --out, or remove it: kubectl delete vcjob {name} -n {api.namespace}"
            )


def _await_removal(api: Api, job: Job, name: str) -> None:
    """Wait until an earlier job is gone, whose pods save first.

    Raises:
        LaunchError: it stays.
    """
    limit = job.cluster.grace_seconds + _REMOVAL
    say(f"an earlier job {name} is being removed; waiting for that")
    if not api.gone(name, limit):
        raise LaunchError(
            f"an earlier job {name} is not removed after {_clock(limit)}; a pod whose node is lost stays "
            f"until the node is removed, or the pod: kubectl delete pod -l volcano.sh/job-name={name} "
            f"--force -n {api.namespace}"
        )


def _is_final(api: Api, job: Job, found: Mapping[str, Any]) -> bool:
    """Whether a job's failure is its pipeline's run's too: no restart is left, or would end otherwise."""
    if not job.run_id:
        return False
    ends = map(end_of, api.pods(job.name))
    return phase_of(found) == FAILED or any(end and end.code in job.final for end in ends)


class _Watch:
    """One job, from the first look at it to its end."""

    def __init__(self, api: Api, job: Job) -> None:
        self.api, self.name, self.cluster, self._progress = api, job.name, job.cluster, job.progress
        self._ends: dict[str, End] = {}
        """The last end seen of each pod."""
        self._changed = deque[client.V1Pod]()
        """Pods as they were since the last look: when a job is begun anew, its pods are gone at once."""
        self._obstacles: set[str] = set()
        """What keeps pods from beginning in the present phase."""
        self._job: dict[str, Any] = {}

    def to_the_end(self) -> Outcome:
        """Look at the job until it ended.

        Raises:
            LaunchError: it is gone.
            ApiUnavailableError: the API does not answer, or does not allow this any more; the job goes on.
            _DeadlineError: it waits, or runs, for too long.
        """
        done = threading.Event()
        threading.Thread(target=self._listen, args=(done,), daemon=True).start()
        try:
            return self._look()
        except ApiRejectedError as error:
            raise ApiUnavailableError(
                f"{error}; job {self.name} goes on, and the same command finds it again"
            ) from None
        finally:
            done.set()

    def _listen(self, done: threading.Event) -> None:
        """Have each change of a pod at hand for the next look."""
        since = None
        while not done.is_set():
            pause = self.api.pace.first
            try:
                for pod in self.api.pod_changes(self.name, since):
                    self._changed.append(pod)
                    since = pod.metadata.resource_version
            except (*FAILURES, ValueError):  # where this is not allowed, looking has to do
                since, pause = None, self.api.pace.longest
            done.wait(pause)

    def _look(self) -> Outcome:
        pause, before = self.api.pace.first, ""
        while True:
            job = self.api.read(self.name)
            if job is None:
                raise LaunchError(
                    f"job {self.name} is gone, deleted by somebody or by its own time limit; "
                    "the same command begins it anew"
                )
            self._job = job
            pods, phase = self.api.pods(self.name), phase_of(job)
            changed = self._note_ends(pods)
            if phase != before:
                say(f"job {self.name}: {phase}" + (f", restart {self._restarts}" if self._restarts else ""))
                self._obstacles.clear()
            self._note_obstacles(pods)
            if phase in ENDED:
                return Outcome(self.name, phase, self._restarts, self._ends.values())
            self._check_deadlines(phase)
            pause = (
                self.api.pace.first if changed or phase != before else min(2 * pause, self.api.pace.longest)
            )
            before = phase
            time.sleep(pause)

    def summary(self) -> str:
        """State, time, attempts and how far the work is, in a line."""
        if not self._job:
            return f"job {self.name}: not begun"
        spent = seconds_by_phase(self._job)
        running = spent.get("Running", 0.0)
        waiting = sum(spent.get(phase, 0.0) for phase in WAITING)
        return (
            f"job {self.name}: {phase_of(self._job)}, {self._restarts + 1} attempt(s), "
            f"{_clock(running)} running, {_clock(waiting)} waiting for nodes{self._progress()}"
        )

    @property
    def _restarts(self) -> int:
        # Volcano also counts the one that it does not make any more.
        return min(int(self._job.get("status", {}).get("retryCount", 0)), self.cluster.restarts)

    def _note_ends(self, pods: Collection[client.V1Pod]) -> bool:
        """Remember how pods ended, and tell what is new of that."""
        news = False
        changed = [self._changed.popleft() for _ in range(len(self._changed))]
        for pod in (*changed, *pods):
            end = end_of(pod)
            if end and self._ends.get(end.pod) != end:
                self._ends[end.pod] = end
                news = True
                if end.code:
                    say(f"pod {end}")
        return news

    def _note_obstacles(self, pods: Collection[client.V1Pod]) -> None:
        """Tell what keeps pods from beginning, each kind of obstacle once: its words change all the time."""
        for pod in pods:
            reason, message = pending_reason(pod)
            if reason and reason not in self._obstacles:
                self._obstacles.add(reason)
                say(f"pod {pod.metadata.name} waits: {reason}: {' '.join(message.split())}")

    def _check_deadlines(self, phase: str) -> None:
        waited, ran = seconds_in_phase(self._job), seconds_by_phase(self._job).get("Running", 0.0)
        if phase in WAITING and waited > self.cluster.queue_seconds:
            raise _DeadlineError(
                f"job {self.name} waited {_clock(waited)} for nodes, longer than queue_seconds"
            )
        if self.cluster.run_seconds and ran > self.cluster.run_seconds:
            raise _DeadlineError(f"job {self.name} ran for {_clock(ran)}, longer than run_seconds")


@contextmanager
def _signals_raised() -> Iterator[Callable[[], None]]:
    """SIGTERM, as Kubernetes and KFP stop a task, and SIGINT end this process by an exception.

    It can be handled in peace: further ones are ignored then. What this yields has them ignored at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None  # signals are the main thread's
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    handlers = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}

    def ignore() -> None:
        for number in handlers:
            signal.signal(number, signal.SIG_IGN)

    def end(number: int, _frame: object) -> None:
        ignore()
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    for number in handlers:
        signal.signal(number, end)
    try:
        yield ignore
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _clock(seconds: float) -> str:
    """A length of time for people."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
